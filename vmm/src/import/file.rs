//! An image's bytes, at an offset. What is asked for comes from the image and is checked here: nothing begins beyond the end.
//! Files are never closed: the filter has no call for that, and the end of the process does it.

use super::error::{ImportError, Which};
use nix::errno::Errno;
use nix::unistd::{Whence, lseek};
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt;

/// An image that is only read.
#[derive(Debug)]
pub(super) struct ImageFile {
    pub(super) which: Which,
    file: ManuallyDrop<File>,
    length: u64,
}

impl ImageFile {
    /// Takes over the file, and asks how long it is: a block device too says so only to who seeks.
    ///
    /// # Errors
    /// It cannot be sought in: a pipe.
    pub(super) fn new(which: Which, mut file: File) -> io::Result<Self> {
        let length = file.seek(SeekFrom::End(0))?;
        let file = ManuallyDrop::new(file);
        Ok(Self { which, file, length })
    }

    pub(super) fn number(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    pub(super) const fn length(&self) -> u64 {
        self.length
    }

    /// Whether `what` can begin at `at`.
    ///
    /// # Errors
    /// The file ends before that.
    pub(super) fn reaches(&self, what: &str, at: u64) -> Result<(), ImportError> {
        let length = self.length;
        if at < length {
            return Ok(());
        }
        Err(self.which.refused(format!(
            "is damaged or cut off: {what} would begin at byte {at}, but the file has {length}"
        )))
    }

    /// Reads as much as `into` takes, from `at`; what lies behind the end is zero. `what` is said to begin there.
    ///
    /// # Errors
    /// Nothing can begin there, or it cannot be read.
    pub(super) fn read(&self, what: &str, at: u64, into: &mut [u8]) -> Result<(), ImportError> {
        self.reaches(what, at)?;
        let mut filled = 0;
        while let Some(rest) = into.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let from = at.saturating_add(u64::try_from(filled).unwrap_or(u64::MAX));
            match self.file.read_at(rest, from) {
                Ok(0) => {
                    rest.fill(0);
                    break;
                }
                Ok(count) => filled = filled.saturating_add(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.which.failed("read")(error)),
            }
        }
        Ok(())
    }

    /// Whether the file has a hole at `at`, and how many bytes from there on are the same kind.
    ///
    /// # Errors
    /// The file system does not say.
    pub(super) fn hole(&self, at: u64) -> Result<(bool, u64), ImportError> {
        let from = i64::try_from(at).unwrap_or(i64::MAX);
        let until = |end: i64| u64::try_from(end).unwrap_or(0).saturating_sub(at);
        let seek = |whence| lseek(&*self.file, from, whence);
        match seek(Whence::SeekData) {
            Ok(data) if data > from => Ok((true, until(data))),
            Ok(_) => match seek(Whence::SeekHole) {
                Ok(hole) if hole > from => Ok((false, until(hole))),
                Ok(_) | Err(_) => Ok((false, self.length.saturating_sub(at))),
            },
            Err(Errno::ENXIO) => Ok((true, self.length.saturating_sub(at))),
            // A block device, or a file system without holes.
            Err(Errno::EINVAL | Errno::EOPNOTSUPP) => Ok((false, self.length.saturating_sub(at))),
            Err(errno) => Err(self.which.failed("look for holes in")(errno.into())),
        }
    }
}
