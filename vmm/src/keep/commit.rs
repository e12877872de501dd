//! A commit: the guest's disk becomes the new base.
//!
//! The base's own file is never written. A new file beside it gets the disk, then the attributes of the old one, then its
//! name: at each moment the name leads to the old file or to the new one, whole. Whoever has the old one open, as every helper
//! on it has, keeps it and notices nothing.
//!
//! ```text
//! path ─► file ─► is it the helper's? ─► lock ─► is it still? ─► new file ─► attributes ┊ the helper writes ┊ ─► rename
//!         └──────────── what speaks against it is found out here, before anything is written ───┘
//! ```
//!
//! The helper's file is known by device and inode. After a commit the path leads to another, so that a second commit, made of
//! the old base and another guest's changes, is refused rather than undo the first.

use super::attributes::{Attributes, Lost, hide};
use super::fresh::{Fresh, FreshError, PRIVATE, Place, failed, is_same};
use log::warn;
use protocol::control::BaseStatus;
use protocol::formats::{self, HEAD_BYTES};
use rustix::fs::{
    AtFlags, FileType, FlockOperation, IFlags, Mode, OFlags, Stat, StatxAttributes, StatxFlags, flock, fstat,
    ioctl_getflags, openat, statat, statx,
};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use thiserror::Error;

/// How long the lock is waited for, and between two looks: who only tries whether a commit would be possible lets go of it at
/// once, and must not cost somebody else a commit. Guesses.
const TRIED: Duration = Duration::from_millis(500);
const MOMENT: Duration = Duration::from_millis(5);

/// Why there is no commit. [`CommitError::effect`] says what has changed then: hardly ever anything.
#[derive(Debug, Error)]
pub(crate) enum CommitError {
    #[error("cannot find the base {}", path.display())]
    Find {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} {why}; save writes the disk to a file of its own", path.display())]
    Unfit { path: PathBuf, why: &'static str },
    #[error(
        "{} is not the file that the disk was started from: it was replaced since, by another commit perhaps, whose changes \
         this one would undo; save writes the disk to a file of its own",
        .0.display()
    )]
    Replaced(PathBuf),
    #[error("another commit to {} is at work", .0.display())]
    Locked(PathBuf),
    #[error(
        "{}: mayfly ctl SOCKET commit --new-owner does it all the same, to a file of yours that keeps what it can",
        path.display()
    )]
    Attributes {
        path: PathBuf,
        #[source]
        source: Lost,
    },
    #[error(transparent)]
    File(#[from] FreshError),
}

impl CommitError {
    /// What has become of the base, in words.
    pub(crate) const fn effect(&self) -> &'static str {
        match self {
            Self::File(FreshError::Unsynced { .. }) => "the base is the new one",
            Self::Find { .. }
            | Self::Unfit { .. }
            | Self::Replaced(_)
            | Self::Locked(_)
            | Self::Attributes { .. }
            | Self::File(_) => "the base stays as it is",
        }
    }
}

/// The old base: as long as it is open it is locked.
#[derive(Debug)]
struct Base {
    _locked: File,
    identity: Stat,
    attributes: Attributes,
}

/// A commit that nothing speaks against, and the file for the disk.
#[derive(Debug)]
pub(crate) struct Commit {
    base: Base,
    new_owner: bool,
    fresh: Fresh,
}

/// What a commit that is done should be told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Committed {
    /// What the name led to once links were followed.
    pub(crate) path: PathBuf,
    /// The disk begins like an image of this format, so that another start from it needs `raw-anyway`.
    pub(crate) looks_like: Option<&'static str>,
}

impl Committed {
    /// Says what is odd about the new base.
    pub(crate) fn warn(&self) {
        if let Some(format) = self.looks_like {
            warn!(
                "the guest has made its disk look like {format}: other programs may take {} for one; to start from it, say \
                 raw-anyway",
                self.path.display()
            );
        }
    }
}

impl Base {
    /// Finds and locks what `path` leads to, and finds out what speaks against another file in its place.
    fn find(path: &Path, served: &BaseStatus) -> Result<(Self, Place), CommitError> {
        let found = path.canonicalize().map_err(|source| CommitError::Find {
            path: path.to_owned(),
            source,
        })?;
        let place = Place::open(&found)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = openat(&place.dir, &place.name, flags, Mode::empty()).map_err(failed("open the base", &found))?;
        let file = File::from(file);
        let identity = fstat(&file).map_err(failed("look at the base", &found))?;
        if let Some(why) = unfit(&identity) {
            return Err(CommitError::Unfit { path: found, why });
        }
        if (identity.st_dev, identity.st_ino) != (served.device, served.inode) {
            return Err(CommitError::Replaced(found));
        }
        if is_fixed(&file) || is_fixed(&place.dir) || is_sticky_of_others(&place, &identity) {
            let why =
                "may not be replaced (chattr +i or +a, its own or its directory's, or a directory with the sticky bit)";
            return Err(CommitError::Unfit { path: found, why });
        }
        if is_mount_point(&place) {
            let why =
                "is a mount point (a file that is bind-mounted, as containers do), which a new file cannot replace";
            return Err(CommitError::Unfit { path: found, why });
        }
        match lock(&file, Instant::now() + TRIED) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(CommitError::Locked(found)),
            Err(errno) => return Err(failed("lock the base", &found)(errno).into()),
        }
        let attributes = Attributes::of(&file).map_err(failed("read the attributes of", &found))?;
        let base = Self {
            _locked: file,
            identity,
            attributes,
        };
        Ok((base, place))
    }
}

impl Commit {
    /// Finds out whether the disk of a helper that serves `served` can become the new `path`, and makes the file for it.
    ///
    /// # Errors
    /// [`CommitError`].
    pub(crate) fn prepare(path: &Path, served: &BaseStatus, new_owner: bool) -> Result<Self, CommitError> {
        let (base, place) = Base::find(path, served)?;
        let fresh = Fresh::create_over(place, PRIVATE)?;
        Self::dressed(base, new_owner, fresh)
    }

    /// Finds out the same, and leaves everything as it is.
    ///
    /// # Errors
    /// [`CommitError`].
    pub(crate) fn rehearse(path: &Path, served: &BaseStatus) -> Result<(), CommitError> {
        let (base, place) = Base::find(path, served)?;
        match Fresh::try_over(place, PRIVATE)? {
            Some(fresh) => {
                fresh.try_length(served.bytes)?;
                Self::dressed(base, false, fresh).map(drop)
            }
            None => Ok(()),
        }
    }

    fn dressed(base: Base, new_owner: bool, fresh: Fresh) -> Result<Self, CommitError> {
        let commit = Self { base, new_owner, fresh };
        commit.check_name()?;
        commit.dress()?;
        let path = &commit.fresh.place().path;
        hide(commit.fresh.file()).map_err(failed("change the mode of", path))?;
        Ok(commit)
    }

    /// The file for the disk.
    pub(crate) const fn output(&self) -> &File {
        self.fresh.file()
    }

    /// The disk is in the file: lets it be the base.
    ///
    /// # Errors
    /// [`CommitError`].
    pub(crate) fn finish(self) -> Result<Committed, CommitError> {
        let path = self.fresh.place().path.clone();
        let looks_like = look(self.fresh.file()).map_err(|source| CommitError::Find {
            path: path.clone(),
            source,
        })?;
        self.dress()?;
        self.check_name()?;
        let Self { base, fresh, .. } = self;
        fresh.publish_over()?;
        // Only now may the next one look.
        drop(base);
        Ok(Committed { path, looks_like })
    }

    /// Whether the name still leads to the base. Every commit looks while it has the lock.
    fn check_name(&self) -> Result<(), CommitError> {
        let place = self.fresh.place();
        match place.look(&place.name) {
            Ok(found) if is_same(&found, &self.base.identity) => Ok(()),
            Ok(_) | Err(Errno::NOENT) => Err(CommitError::Replaced(place.path.clone())),
            Err(errno) => Err(failed("look for", &place.path)(errno).into()),
        }
    }

    /// Gives the new file what the old one has.
    fn dress(&self) -> Result<(), CommitError> {
        match self.base.attributes.give(self.fresh.file()) {
            Ok(()) => Ok(()),
            Err(_) if self.new_owner => {
                self.base.attributes.give_what_can_be(self.fresh.file());
                Ok(())
            }
            Err(source) => Err(CommitError::Attributes {
                path: self.fresh.place().path.clone(),
                source,
            }),
        }
    }
}

/// Why no other file can take the place of this one.
fn unfit(base: &Stat) -> Option<&'static str> {
    match FileType::from_raw_mode(base.st_mode) {
        FileType::RegularFile if base.st_nlink == 1 => None,
        FileType::RegularFile if base.st_nlink == 0 => Some("has no name that a new file could take"),
        FileType::RegularFile => {
            Some("has several names (hard links), of which a commit would change what one of them leads to")
        }
        FileType::BlockDevice => Some("is a block device, which a new file cannot replace"),
        FileType::Directory
        | FileType::Symlink
        | FileType::Fifo
        | FileType::Socket
        | FileType::CharacterDevice
        | FileType::Unknown => Some("is no regular file"),
    }
}

/// Locks the base, for a commit or for trying one.
fn lock(base: &File, until: Instant) -> Result<(), Errno> {
    loop {
        match flock(base, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if Instant::now() < until => std::thread::sleep(MOMENT),
            locked => return locked,
        }
    }
}

/// Whether a file, or what is in a directory, may not be replaced by anybody.
fn is_fixed(file: &impl AsFd) -> bool {
    // A file system that knows no flags has set none.
    let flags = ioctl_getflags(file).unwrap_or(IFlags::empty());
    flags.intersects(IFlags::IMMUTABLE | IFlags::APPEND)
}

/// Whether something is mounted on the base's name (rename(2), EBUSY).
fn is_mount_point(place: &Place) -> bool {
    let looked = statx(
        &place.dir,
        &place.name,
        AtFlags::SYMLINK_NOFOLLOW,
        StatxFlags::BASIC_STATS,
    );
    looked.is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Whether only others may take the base's name from it (unlink(2), EPERM).
fn is_sticky_of_others(place: &Place, base: &Stat) -> bool {
    let me = rustix::process::geteuid();
    let Ok(dir) = statat(&place.dir, "", AtFlags::EMPTY_PATH) else {
        return false;
    };
    let sticky = Mode::from_raw_mode(dir.st_mode).contains(Mode::SVTX);
    sticky && !me.is_root() && ![base.st_uid, dir.st_uid].contains(&me.as_raw())
}

/// The format that the new base looks like, if any.
fn look(file: &File) -> io::Result<Option<&'static str>> {
    let mut head = [0; HEAD_BYTES];
    match file.read_exact_at(&mut head, 0) {
        // Smaller than a sector is no disk.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        read => read.map(|()| formats::recognise(&head)),
    }
}

#[cfg(test)]
mod tests;
