//! Where a save goes: a file that the operator opened, under a descriptor number that was reserved for it at the start.
//!
//! The filter knows that number: it is the only one, besides the overlay's, that can be written. Between saves it holds the
//! place open with /dev/null.
//!
//! Only the saver's thread writes, and closes: a file system that does not answer keeps nobody else waiting.

use crate::sys::file_status;
use nix::fcntl::OFlag;
use protocol::control::BaseStatus;
use rustix::fs::{FallocateFlags, fallocate, fcntl_getfl, fsync, ftruncate, ioctl_ficlone};
use rustix::io::{DupFlags, dup3, pwrite, retry_on_intr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use thiserror::Error;

/// Why a descriptor cannot take what is saved.
#[derive(Debug, Error)]
pub(crate) enum OutputError {
    #[error("cannot look at what came for the output")]
    Look(#[source] io::Error),
    #[error("the output is no regular file")]
    Kind,
    #[error("the output is not open for writing")]
    ReadOnly,
    #[error("the output was opened with {0}; open it without")]
    Flag(&'static str),
    #[error("the output is a file of this disk")]
    Own,
    #[error("the output is not empty")]
    NotEmpty,
}

/// Looks at a descriptor without changing anything. `own` are the disk's files.
///
/// # Errors
/// [`OutputError`].
pub(crate) fn check(sent: &OwnedFd, base: BaseStatus, own: &[BorrowedFd<'_>]) -> Result<(), OutputError> {
    let flags = fcntl_getfl(sent).map_err(|errno| OutputError::Look(errno.into()))?;
    let flags = OFlag::from_bits_truncate(i32::from_ne_bytes(flags.bits().to_ne_bytes()));
    if flags & OFlag::O_ACCMODE == OFlag::O_RDONLY || flags.contains(OFlag::O_PATH) {
        return Err(OutputError::ReadOnly);
    }
    if flags.contains(OFlag::O_APPEND) {
        return Err(OutputError::Flag("O_APPEND"));
    }
    if flags.contains(OFlag::O_DIRECT) {
        return Err(OutputError::Flag("O_DIRECT"));
    }
    let look = |file: &BorrowedFd<'_>| file_status(file).map_err(|errno| OutputError::Look(errno.into()));
    let found = look(&sent.as_fd())?;
    if found.st_mode & libc::S_IFMT != libc::S_IFREG {
        return Err(OutputError::Kind);
    }
    let identity = (found.st_dev, found.st_ino);
    if identity == (base.device, base.inode) {
        return Err(OutputError::Own);
    }
    for file in own {
        let file = look(file)?;
        if identity == (file.st_dev, file.st_ino) {
            return Err(OutputError::Own);
        }
    }
    if found.st_size == 0 {
        Ok(())
    } else {
        Err(OutputError::NotEmpty)
    }
}

/// The reserved number.
#[derive(Debug)]
pub(crate) struct Output {
    place: OwnedFd,
    /// What is there between saves.
    nothing: OwnedFd,
}

impl Output {
    /// Reserves a number. The last moment for it is while paths can be looked up.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn reserve() -> io::Result<Self> {
        let null = || std::fs::File::open("/dev/null").map(OwnedFd::from);
        Ok(Self {
            place: null()?,
            nothing: null()?,
        })
    }

    /// The reserved number, and that of what keeps it.
    pub(crate) fn numbers(&self) -> [RawFd; 2] {
        [self.place.as_raw_fd(), self.nothing.as_raw_fd()]
    }

    /// Puts the file there; its own number is closed.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn occupy(&mut self, sent: OwnedFd) -> io::Result<()> {
        dup3(&sent, &mut self.place, DupFlags::CLOEXEC)?;
        Ok(())
    }

    /// Closes the file.
    pub(super) fn vacate(&mut self) {
        // It fails only for numbers that are not open; and then the file is closed as well.
        let _ = dup3(&self.nothing, &mut self.place, DupFlags::CLOEXEC);
    }

    /// Writes all of `bytes` at `offset`.
    pub(super) fn write(&self, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match pwrite(&self.place, bytes, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    bytes = bytes.get(written..).unwrap_or_default();
                    offset = offset.saturating_add(u64::try_from(written).unwrap_or(0));
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Makes the file `bytes` long: what is new reads as zeros.
    pub(super) fn set_length(&self, bytes: u64) -> io::Result<()> {
        Ok(retry_on_intr(|| ftruncate(&self.place, bytes))?)
    }

    /// Makes `bytes` bytes at `offset` read as zeros and gives their space back.
    pub(super) fn punch(&self, offset: u64, bytes: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(retry_on_intr(|| fallocate(&self.place, flags, offset, bytes))?)
    }

    /// Shares all of `base`'s blocks, where the file system can. The file is as long afterwards.
    pub(super) fn share(&self, base: &impl AsFd) -> io::Result<()> {
        Ok(ioctl_ficlone(&self.place, base)?)
    }

    /// How long the file is.
    pub(super) fn length(&self) -> io::Result<u64> {
        let found = file_status(&self.place)?.st_size;
        Ok(u64::try_from(found).unwrap_or(0))
    }

    /// Waits until everything is on the medium.
    pub(super) fn sync(&self) -> io::Result<()> {
        Ok(retry_on_intr(|| fsync(&self.place))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::open;
    use nix::sys::stat::Mode;
    use std::path::Path;

    const BASE: BaseStatus = BaseStatus {
        device: 0,
        inode: 0,
        bytes: 0,
    };

    fn opened(path: &Path, flags: OFlag) -> OwnedFd {
        open(path, flags, Mode::empty()).unwrap()
    }

    #[test]
    fn an_output_is_an_empty_regular_file_that_can_be_written_anywhere() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for flags in [OFlag::O_WRONLY, OFlag::O_RDWR] {
            check(&opened(file.path(), flags), BASE, &[]).unwrap();
        }
        for flags in [
            OFlag::O_RDONLY,
            OFlag::O_PATH,
            OFlag::O_RDWR | OFlag::O_APPEND,
            OFlag::O_RDWR | OFlag::O_DIRECT,
        ] {
            check(&opened(file.path(), flags), BASE, &[]).unwrap_err();
        }
        std::fs::write(file.path(), "x").unwrap();
        let full = opened(file.path(), OFlag::O_RDWR);
        assert!(matches!(check(&full, BASE, &[]), Err(OutputError::NotEmpty)));
        let null = opened(Path::new("/dev/null"), OFlag::O_RDWR);
        assert!(matches!(check(&null, BASE, &[]), Err(OutputError::Kind)));
    }

    #[test]
    fn a_file_of_the_disk_is_no_output() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let sent = opened(file.path(), OFlag::O_RDWR);
        assert!(matches!(
            check(&sent, BASE, &[file.as_file().as_fd()]),
            Err(OutputError::Own)
        ));
        let found = file_status(&sent).unwrap();
        let base = BaseStatus {
            device: found.st_dev,
            inode: found.st_ino,
            bytes: 0,
        };
        assert!(matches!(check(&sent, base, &[]), Err(OutputError::Own)));
    }

    #[test]
    fn a_number_takes_one_file_after_the_other() {
        let mut output = Output::reserve().unwrap();
        output.write(0, b"nowhere").unwrap_err();
        for round in [b"first", b"other"] {
            let file = tempfile::tempfile().unwrap();
            output.occupy(file.try_clone().unwrap().into()).unwrap();
            output.write(3, round).unwrap();
            output.vacate();
            assert_eq!(file.metadata().unwrap().len(), 8);
        }
        output.write(0, b"nowhere").unwrap_err();
    }
}
