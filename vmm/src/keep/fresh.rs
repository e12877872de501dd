//! A file that gets its name when it is whole: what is saved, committed and imported.
//!
//! Until then it has none (`O_TMPFILE`), so that nothing is left of it whatever happens. Only a file that replaces another one
//! needs a second name, for the moment before it is renamed: `.NAME.mayfly-new`, beside the name it shall have. Where a file system
//! has no nameless files, it has that one all the time. Who writes it holds a lock on it (flock), which ends with the last process
//! that has it open: so what a killed one left is told from what somebody is at work on, and the next one that needs that
//! name removes it. Who only tries whether there could be such a file removes nothing.

mod place;

pub(crate) use self::place::{Place, is_same, names_directory};
use rustix::fs::{
    AtFlags, CWD, FlockOperation, Mode, OFlags, RenameFlags, flock, fstat, fsync, ftruncate, linkat, openat,
    renameat_with, statat, unlinkat,
};
use rustix::io::{Errno, retry_on_intr};
use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// How often somebody else may be faster.
const TRIES: u32 = 16;

/// For its owner alone.
pub(crate) const PRIVATE: Mode = Mode::RUSR.union(Mode::WUSR);

/// Why there is no such file.
#[derive(Debug, Error)]
pub(crate) enum FreshError {
    #[error("{} is no name that a file can have, and no directory", .0.display())]
    NoName(PathBuf),
    #[error("{} is there already, and nothing is ever overwritten; remove it or choose another name", .0.display())]
    Exists(PathBuf),
    #[error("{} is still being written by somebody else; wait for the end of that", .0.display())]
    InUse(PathBuf),
    #[error("{} is in the way, and is no file that was left there unfinished", .0.display())]
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
    /// It has its temporary name, and that is to be removed.
    temporary: bool,
}

impl Fresh {
    /// A file at `place` to be, empty, that replaces nothing; `mode` is what the umask is taken from.
    ///
    /// # Errors
    /// [`FreshError`]; nothing was made then.
    pub(crate) fn create_new(place: Place, mode: Mode) -> Result<Self, FreshError> {
        place.check_free()?;
        Self::create_nameless(place, mode)
    }

    /// As [`Self::create_new`], for who only tries; none, where what a killed process left would have to go first.
    ///
    /// # Errors
    /// As [`Self::create_new`].
    pub(crate) fn try_new(place: Place, mode: Mode) -> Result<Option<Self>, FreshError> {
        place.check_free()?;
        Self::create_beside_leftover(place, mode)
    }

    /// A file that replaces what has its name, if anything has.
    ///
    /// # Errors
    /// As [`Self::create_new`].
    pub(crate) fn create_over(place: Place, mode: Mode) -> Result<Self, FreshError> {
        // It is as large as what is to be written, and there may not be space for both.
        place.remove_leftover()?;
        Self::create_nameless(place, mode)
    }

    /// As [`Self::create_over`], for who only tries; none, where what a killed process left would have to go first.
    ///
    /// # Errors
    /// As [`Self::create_new`].
    pub(crate) fn try_over(place: Place, mode: Mode) -> Result<Option<Self>, FreshError> {
        place.leftover()?;
        Self::create_beside_leftover(place, mode)
    }

    fn create_beside_leftover(place: Place, mode: Mode) -> Result<Option<Self>, FreshError> {
        match open_nameless(&place, mode)? {
            Some(file) => Self::of_nameless(place, file).map(Some),
            None if place.leftover()?.is_some() => Ok(None),
            None => Self::create_named(place, mode).map(Some),
        }
    }

    /// Without a name, where that can be.
    fn create_nameless(place: Place, mode: Mode) -> Result<Self, FreshError> {
        match open_nameless(&place, mode)? {
            Some(file) => Self::of_nameless(place, file),
            None => Self::create_named(place, mode),
        }
    }

    fn of_nameless(place: Place, file: OwnedFd) -> Result<Self, FreshError> {
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(failed("lock", &place.path))?;
        Ok(Self {
            place,
            file: file.into(),
            temporary: false,
        })
    }

    /// Where files cannot be without a name.
    fn create_named(place: Place, mode: Mode) -> Result<Self, FreshError> {
        let (name, path) = (place.temporary(), place.temporary_path());
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for _ in 0..TRIES {
            let file = match openat(&place.dir, &name, flags, mode) {
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
                        temporary: true,
                    };
                    return locked.map(|()| fresh).map_err(failed("lock", &path));
                }
            }
        }
        Err(FreshError::InUse(place.path))
    }

    /// Whether it may become so long: limits on files, and file systems that have none so large.
    ///
    /// # Errors
    /// [`FreshError`].
    pub(crate) fn try_length(&self, bytes: u64) -> Result<(), FreshError> {
        retry_on_intr(|| ftruncate(&self.file, bytes)).map_err(failed("have a file of that size at", &self.place.path))
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
    pub(crate) fn publish_new(self) -> Result<Metadata, FreshError> {
        self.publish(|fresh| {
            let (place, from) = (&fresh.place, fresh.place.temporary());
            if !fresh.temporary {
                return fresh.link(&place.name).map_err(fresh.unnamed());
            }
            match renameat_with(&place.dir, &from, &place.dir, &place.name, RenameFlags::NOREPLACE) {
                // NFS, 9p: the same in two steps.
                Err(Errno::INVAL | Errno::NOSYS) => {
                    let linked = linkat(&place.dir, &from, &place.dir, &place.name, AtFlags::empty());
                    if linked.is_ok() {
                        // It has its name and is whole: a second name is a leftover, as any other.
                        let _ = unlinkat(&place.dir, &from, AtFlags::empty());
                    }
                    linked
                }
                renamed => renamed,
            }
            .map_err(fresh.unnamed())
        })
    }

    /// Gives it its name, in place of what has it.
    ///
    /// # Errors
    /// [`FreshError`]; unless it is [`FreshError::Unsynced`], what had the name has it still.
    pub(crate) fn publish_over(self) -> Result<Metadata, FreshError> {
        self.publish(|fresh| {
            let from = fresh.place.temporary();
            for _ in 0..TRIES {
                if fresh.temporary {
                    break;
                }
                match fresh.link(&from) {
                    Ok(()) => fresh.temporary = true,
                    Err(Errno::EXIST) => fresh.place.remove_leftover()?,
                    Err(errno) => return Err(fresh.unnamed()(errno)),
                }
            }
            if !fresh.temporary {
                return Err(FreshError::InUse(fresh.place.path.clone()));
            }
            let (from_dir, to_dir) = (&fresh.place.dir, &fresh.place.dir);
            rustix::fs::renameat(from_dir, &from, to_dir, &fresh.place.name).map_err(fresh.unnamed())
        })
    }

    fn publish(mut self, name: impl FnOnce(&mut Self) -> Result<(), FreshError>) -> Result<Metadata, FreshError> {
        retry_on_intr(|| fsync(&self.file)).map_err(failed("write to the disk", &self.place.path))?;
        let info = self.file.metadata().map_err(|source| FreshError::System {
            doing: "look at the new file for",
            path: self.place.path.clone(),
            source,
        })?;
        name(&mut self)?;
        self.temporary = false;
        retry_on_intr(|| fsync(&self.place.dir)).map_err(|errno| FreshError::Unsynced {
            path: self.place.path.clone(),
            source: errno.into(),
        })?;
        Ok(info)
    }

    /// Gives the nameless file a name in its directory, which nothing else has.
    fn link(&self, name: &OsStr) -> Result<(), Errno> {
        linkat(CWD, link_to(&self.file), &self.place.dir, name, AtFlags::SYMLINK_FOLLOW)
    }

    fn unnamed(&self) -> impl FnOnce(Errno) -> FreshError + use<> {
        let path = self.place.path.clone();
        move |errno| match errno {
            Errno::EXIST => FreshError::Exists(path),
            errno => failed("give the new file the name", &path)(errno),
        }
    }
}

/// A file without a name, where one can be.
fn open_nameless(place: &Place, mode: Mode) -> Result<Option<OwnedFd>, FreshError> {
    let nameless = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    match openat(&place.dir, ".", nameless, mode) {
        // Without /proc it could not be given a name.
        Ok(file) => Ok(statat(CWD, link_to(&file), AtFlags::empty()).is_ok().then_some(file)),
        // Kernels and file systems that do not know O_TMPFILE see an attempt to write a directory.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => Ok(None),
        Err(errno) => Err(failed("create", &place.path)(errno)),
    }
}

/// Where /proc has a file that may have no name.
fn link_to(file: &impl AsRawFd) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if self.temporary {
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
