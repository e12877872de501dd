//! `mayfly run --import`: the raw images that runs were started from, kept for the next run.
//!
//! One file for each image, in a directory of the user's own. Its name says which image it was made of: device, inode, size and
//! time of the last change. An image that has changed has another name, and what was made of it before is removed. That
//! a run uses one hinders nothing: it has the file open.

use super::{Files, ImportError, is_qcow2};
use crate::keep::fresh::{Fresh, FreshError, PRIVATE, Place};
use crate::signals::Signals;
use crate::supervisor::args::{self, DiskSource};
use crate::supervisor::kit::open_image;
use crate::supervisor::settings::Settings;
use log::info;
use std::fs::{DirBuilder, File, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why there is no such directory, or nothing can be put there; or why none is asked for.
#[derive(Debug, Error)]
pub(crate) enum CacheError {
    #[error(
        "{} looks like a qcow2 image, and a guest gets raw ones: `mayfly import {}` makes one, or add --import \
         (or the disk's option raw-anyway, if it is one)",
        .0.display(), .0.display()
    )]
    NotImported(PathBuf),
    #[error("there is no directory for imported images: set HOME or XDG_CACHE_HOME to an absolute path")]
    NoHome,
    #[error("cannot use {} for imported images", dir.display())]
    Dir {
        dir: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is not this user's own, or others may write there; images are not taken from it", .0.display())]
    NotOurs(PathBuf),
}

/// Puts a raw image in the place of each qcow2 image among the disks; `program` makes those that are not there yet. A dry run has
/// none made.
///
/// # Errors
/// There is one, and nobody asked for this, or it cannot be done.
pub(crate) fn settle(settings: &mut Settings, program: &Path, dry_run: bool) -> Result<(), ImportError> {
    let (import, user, verbose) = (settings.import, settings.user, settings.verbose);
    for source in &mut settings.disks {
        let DiskSource::Image(disk) = source else {
            continue;
        };
        let image = open_image(&disk.image)?;
        if disk.raw_anyway || !is_qcow2(&image, &disk.image)? {
            continue;
        }
        if !import {
            return Err(CacheError::NotImported(disk.image.clone()).into());
        }
        let order = args::Import {
            image: disk.image.clone(),
            output: None,
            backing: Vec::new(),
            max_size: None,
            user: Some(user),
            verbose,
        };
        let raw = Entry::of(&image, &directory()?)?;
        if dry_run && !raw.path().exists() {
            info!(
                "{} would be imported into {}",
                disk.image.display(),
                raw.path().display()
            );
        } else {
            raw.fetch(&order, program)?;
        }
        disk.imported_from = Some(std::mem::replace(&mut disk.image, raw.path()));
    }
    Ok(())
}

/// The directory, which nobody else can put something into.
fn directory() -> Result<PathBuf, CacheError> {
    let absolute = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let home = || absolute("HOME").map(|home| home.join(".cache"));
    let cache = absolute("XDG_CACHE_HOME").or_else(home).ok_or(CacheError::NoHome)?;
    let dir = cache.join("mayfly/import");
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&dir);
    let info = made.and_then(|()| dir.metadata()).map_err(|source| CacheError::Dir {
        dir: dir.clone(),
        source,
    })?;
    if info.uid() != nix::unistd::geteuid().as_raw() || info.mode() & 0o022 != 0 {
        return Err(CacheError::NotOurs(dir));
    }
    Ok(dir)
}

/// What is made of one image.
#[derive(Debug)]
struct Entry {
    dir: PathBuf,
    /// How the names of all that was ever made of the file begin.
    file: String,
    /// And how they end for what it is now.
    state: String,
}

impl Entry {
    fn of(image: &File, dir: &Path) -> Result<Self, CacheError> {
        let info = image.metadata().map_err(|source| CacheError::Dir {
            dir: dir.to_owned(),
            source,
        })?;
        Ok(Self::named(&info, dir))
    }

    fn named(info: &Metadata, dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            file: format!("{:x}-{}-", info.dev(), info.ino()),
            state: format!("{}-{}.{:09}.raw", info.len(), info.mtime(), info.mtime_nsec()),
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.join(format!("{}{}", self.file, self.state))
    }

    /// Makes sure that it is there.
    fn fetch(&self, order: &args::Import, program: &Path) -> Result<(), ImportError> {
        let path = self.path();
        if path.exists() {
            return Ok(());
        }
        self.remove_stale();
        info!(
            "importing {} for this run and the next, into {}",
            order.image.display(),
            path.display()
        );
        let files = Files::open(order)?;
        if files
            .before
            .first()
            .is_none_or(|info| Self::named(info, &self.dir).path() != path)
        {
            let image = order.image.clone();
            return Err(ImportError::Changed {
                changed: image.clone(),
                image,
            });
        }
        let output = Fresh::create_new(Place::open(&path)?, PRIVATE)?;
        let signals = Signals::take().map_err(ImportError::Signals)?;
        files.convert(order, program, output.file(), &signals)?;
        signals.give_back().map_err(ImportError::Signals)?;
        match output.publish_new() {
            // Another run has made the same meanwhile.
            Ok(_) | Err(FreshError::Exists(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes what was made of the same file when it was another image.
    fn remove_stale(&self) {
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        for entry in entries {
            let name = entry.file_name();
            if name.to_string_lossy().starts_with(&self.file) && entry.path() != self.path() {
                // It only takes space; whoever looks at the space can remove it too.
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}
