//! Where a file is, or shall be: a directory that is open, and a name in it; and what a killed process left beside that name.
//!
//! What the file is for, and when it gets the name, it does not know.

use super::{FreshError, failed};
use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, Stat, flock, fstat, openat, statat, unlinkat};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Where a file is, or shall be.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) dir: OwnedFd,
    pub(crate) name: OsString,
    /// Both, as somebody wrote them: for messages.
    pub(crate) path: PathBuf,
}

impl Place {
    /// Opens the directory of `path`, which does not end like that of a directory.
    ///
    /// # Errors
    /// [`FreshError`].
    pub(crate) fn open(path: &Path) -> Result<Self, FreshError> {
        let name = path.file_name().filter(|_| !names_directory(path));
        let name = name.ok_or_else(|| FreshError::NoName(path.to_owned()))?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(parent, flags, Mode::empty());
        Ok(Self {
            dir: dir.map_err(failed("open the directory", parent))?,
            name: name.to_owned(),
            path: path.to_owned(),
        })
    }

    /// Whether both are the same name in the same directory, however that was written.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let dirs = (fstat(&self.dir), fstat(&other.dir));
        self.name == other.name && matches!(dirs, (Ok(one), Ok(other)) if is_same(&one, &other))
    }

    /// What has the name now, links not followed.
    ///
    /// # Errors
    /// ENOENT when nothing has it.
    pub(crate) fn look(&self, name: &OsStr) -> Result<Stat, Errno> {
        statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// The name while it is not whole.
    pub(super) fn temporary(&self) -> OsString {
        let mut name = OsString::from(".");
        name.push(&self.name);
        name.push(".mayfly-new");
        name
    }

    pub(super) fn temporary_path(&self) -> PathBuf {
        self.path.with_file_name(self.temporary())
    }

    /// Nothing has the name yet.
    pub(super) fn check_free(&self) -> Result<(), FreshError> {
        match self.look(&self.name) {
            Err(Errno::NOENT) => Ok(()),
            Ok(_) => Err(FreshError::Exists(self.path.clone())),
            Err(errno) => Err(failed("look for", &self.path)(errno)),
        }
    }

    /// What a killed process left, if one did, and which file that is: it is locked as long as it is open.
    pub(super) fn leftover(&self) -> Result<Option<(OwnedFd, Stat)>, FreshError> {
        let (name, path) = (self.temporary(), self.temporary_path());
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let left = match openat(&self.dir, &name, flags, Mode::empty()) {
            Ok(left) => left,
            // Or somebody else was faster.
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP) => return Err(FreshError::InTheWay(path)),
            Err(errno) => return Err(failed("look at what was left in", &path)(errno)),
        };
        let info = fstat(&left).map_err(failed("look at what was left in", &path))?;
        if FileType::from_raw_mode(info.st_mode) != FileType::RegularFile {
            return Err(FreshError::InTheWay(path));
        }
        match flock(&left, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some((left, info))),
            Err(Errno::WOULDBLOCK) => Err(FreshError::InUse(self.path.clone())),
            Err(errno) => Err(failed("lock what was left in", &path)(errno)),
        }
    }

    /// Removes what a killed process left.
    pub(super) fn remove_leftover(&self) -> Result<(), FreshError> {
        let Some((_lock, info)) = self.leftover()? else {
            return Ok(());
        };
        let (name, path) = (self.temporary(), self.temporary_path());
        // Who holds the lock of what has the name may remove it, and nobody else.
        if self.look(&name).is_ok_and(|found| is_same(&found, &info)) {
            unlinkat(&self.dir, &name, AtFlags::empty()).map_err(failed("remove what was left in", &path))?;
        }
        Ok(())
    }
}

/// Whether only a directory can have this name.
pub(crate) fn names_directory(path: &Path) -> bool {
    matches!(path.as_os_str().as_bytes(), [.., b'/'] | [.., b'/', b'.'])
}

/// Whether both are the same file.
pub(crate) const fn is_same(one: &Stat, other: &Stat) -> bool {
    one.st_dev == other.st_dev && one.st_ino == other.st_ino
}
