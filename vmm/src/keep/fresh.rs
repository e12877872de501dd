//! A file that gets its name when it is whole.
//!
//! Until then it has a name that says whose it is, `.NAME.mayfly-new`, beside the name it shall have. Who writes it holds a lock
//! on it (flock), which ends with the last process that has it open: so what a killed one left is told from what somebody is
//! at work on, and the next one removes it.

use rustix::fs::{
    AtFlags, FileType, FlockOperation, Mode, OFlags, RenameFlags, Stat, flock, fstat, fsync, linkat, openat,
    renameat_with, statat, unlinkat,
};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// How often somebody else may be faster.
const TRIES: u32 = 16;

/// Why there is no such file.
#[derive(Debug, Error)]
pub(crate) enum FreshError {
    #[error("{} is no name that a file can have", .0.display())]
    NoName(PathBuf),
    #[error("{} is there already, and nothing is ever overwritten; remove it or choose another name", .0.display())]
    Exists(PathBuf),
    #[error("{} is still being written by another save or commit; wait for its end", .0.display())]
    InUse(PathBuf),
    #[error("{} is in the way, and is no file that a save or commit has left there", .0.display())]
    InTheWay(PathBuf),
    #[error("a crash of this machine may still undo it: cannot bring the new name {} onto the disk", path.display())]
    Unsynced {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot {doing} {}", path.display())]
    System {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// The file.
#[derive(Debug)]
pub(crate) struct Fresh {
    place: Place,
    file: File,
    /// It has its name, or somebody else has removed it: there is nothing to remove.
    settled: bool,
}

/// Where a file is, or shall be.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) dir: OwnedFd,
    pub(crate) name: OsString,
    /// Both, as somebody wrote them: for messages.
    pub(crate) path: PathBuf,
}

impl Place {
    /// Opens the directory of `path`.
    ///
    /// # Errors
    /// [`FreshError`].
    pub(crate) fn open(path: &Path) -> Result<Self, FreshError> {
        let name = path.file_name().ok_or_else(|| FreshError::NoName(path.to_owned()))?;
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

    /// What has the name now, links not followed.
    ///
    /// # Errors
    /// ENOENT when nothing has it.
    pub(crate) fn look(&self, name: &OsStr) -> Result<Stat, Errno> {
        statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// The name while it is not whole.
    fn temporary(&self) -> OsString {
        let mut name = OsString::from(".");
        name.push(&self.name);
        name.push(".mayfly-new");
        name
    }

    fn temporary_path(&self) -> PathBuf {
        self.path.with_file_name(self.temporary())
    }

    /// Removes what a killed process left.
    fn remove_leftover(&self) -> Result<(), FreshError> {
        let (name, path) = (self.temporary(), self.temporary_path());
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let left = match openat(&self.dir, &name, flags, Mode::empty()) {
            Ok(left) => left,
            // Somebody else was faster.
            Err(Errno::NOENT) => return Ok(()),
            Err(Errno::LOOP) => return Err(FreshError::InTheWay(path)),
            Err(errno) => return Err(failed("look at what was left in", &path)(errno)),
        };
        let info = fstat(&left).map_err(failed("look at what was left in", &path))?;
        if FileType::from_raw_mode(info.st_mode) != FileType::RegularFile {
            return Err(FreshError::InTheWay(path));
        }
        match flock(&left, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(FreshError::InUse(self.path.clone())),
            Err(errno) => return Err(failed("lock what was left in", &path)(errno)),
        }
        // Who holds the lock of what has the name may remove it, and nobody else.
        if self.look(&name).is_ok_and(|found| is_same(&found, &info)) {
            unlinkat(&self.dir, &name, AtFlags::empty()).map_err(failed("remove what was left in", &path))?;
        }
        Ok(())
    }
}

/// Whether both are the same file.
pub(crate) const fn is_same(one: &Stat, other: &Stat) -> bool {
    one.st_dev == other.st_dev && one.st_ino == other.st_ino
}

impl Fresh {
    /// A file at `place` to be, empty and readable for its owner alone, that replaces nothing.
    ///
    /// # Errors
    /// [`FreshError`]; nothing was made then.
    pub(crate) fn create_new(place: Place) -> Result<Self, FreshError> {
        match place.look(&place.name) {
            Err(Errno::NOENT) => Self::create(place),
            Ok(_) => Err(FreshError::Exists(place.path)),
            Err(errno) => Err(failed("look for", &place.path)(errno)),
        }
    }

    /// The same, whether or not something has its name.
    ///
    /// # Errors
    /// As [`Self::create_new`].
    pub(crate) fn create(place: Place) -> Result<Self, FreshError> {
        let (name, path) = (place.temporary(), place.temporary_path());
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for _ in 0..TRIES {
            let file = match openat(&place.dir, &name, flags, Mode::RUSR | Mode::WUSR) {
                Ok(file) => file,
                Err(Errno::EXIST) => {
                    place.remove_leftover()?;
                    continue;
                }
                Err(errno) => return Err(failed("create", &path)(errno)),
            };
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                // Somebody may have taken it for a leftover before it was locked.
                Ok(()) if fstat(&file).is_ok_and(|info| info.st_nlink == 0) => {}
                Err(Errno::WOULDBLOCK) => {}
                locked => {
                    let fresh = Self {
                        place,
                        file: file.into(),
                        settled: false,
                    };
                    return locked.map(|()| fresh).map_err(failed("lock", &path));
                }
            }
        }
        Err(FreshError::InUse(place.path))
    }

    /// The file, to be filled.
    pub(crate) const fn file(&self) -> &File {
        &self.file
    }

    /// Where it shall be.
    pub(crate) const fn place(&self) -> &Place {
        &self.place
    }

    /// Gives it its name, which nothing else has.
    ///
    /// # Errors
    /// [`FreshError`]; unless it is [`FreshError::Unsynced`], nothing has the name then.
    pub(crate) fn publish_new(self) -> Result<(), FreshError> {
        self.publish(|place, from| {
            match renameat_with(&place.dir, from, &place.dir, &place.name, RenameFlags::NOREPLACE) {
                // NFS, 9p: the same in two steps.
                Err(Errno::INVAL | Errno::NOSYS) => {
                    linkat(&place.dir, from, &place.dir, &place.name, AtFlags::empty())?;
                    unlinkat(&place.dir, from, AtFlags::empty())
                }
                renamed => renamed,
            }
        })
    }

    /// Gives it its name, in place of what has it.
    ///
    /// # Errors
    /// [`FreshError`]; unless it is [`FreshError::Unsynced`], what had the name has it still.
    pub(crate) fn publish_over(self) -> Result<(), FreshError> {
        self.publish(|place, from| {
            let (from_dir, to_dir) = (&place.dir, &place.dir);
            rustix::fs::renameat(from_dir, from, to_dir, &place.name)
        })
    }

    fn publish(mut self, rename: impl FnOnce(&Place, &OsStr) -> Result<(), Errno>) -> Result<(), FreshError> {
        fsync(&self.file).map_err(failed("write to the disk", &self.place.path))?;
        match rename(&self.place, &self.place.temporary()) {
            Ok(()) => self.settled = true,
            Err(Errno::EXIST) => return Err(FreshError::Exists(self.place.path.clone())),
            Err(errno) => return Err(failed("give the new file the name", &self.place.path)(errno)),
        }
        fsync(&self.place.dir).map_err(|errno| FreshError::Unsynced {
            path: self.place.path.clone(),
            source: errno.into(),
        })
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if !self.settled {
            // Where it fails, the next one removes it.
            let _ = unlinkat(&self.place.dir, self.place.temporary(), AtFlags::empty());
        }
    }
}

pub(super) fn failed(doing: &'static str, path: &Path) -> impl FnOnce(Errno) -> FreshError {
    let path = path.to_owned();
    move |errno| FreshError::System {
        doing,
        path,
        source: errno.into(),
    }
}

#[cfg(test)]
mod tests;
