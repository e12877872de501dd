//! The base: a raw image or a block device, opened read-only and read with `pread` only.
//!
//! Never mapped, since a truncated file behind a mapping kills. Past the end that it had when it was opened it reads as
//! zeros (a last partial sector is completed); if it has shrunk since, reading what is gone is an error, not zeros.
//!
//! No format is ever parsed or guessed: bytes are bytes. That is why a file which looks like an image of some format is
//! refused, unless the operator says that it is raw all the same ([`magic`]).

mod lock;
mod magic;
mod stamp;

use crate::sys::file_status;
use crate::transfer::{Buffers, Patience, can_refuse_to_wait, read_at, read_bytes_at};
use log::warn;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use protocol::control::BaseStatus;
use protocol::units::{ByteRange, Capacity};
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use thiserror::Error;

pub(crate) use stamp::Stamp;

/// Where the base comes from.
#[derive(Debug)]
pub(crate) enum BaseSource {
    /// To be opened.
    Path(PathBuf),
    /// Inherited.
    Descriptor(OwnedFd),
}

/// Why a base is not served.
#[derive(Debug, Error)]
pub(crate) enum BaseError {
    #[error("cannot open the base {name} for reading")]
    Open {
        name: String,
        #[source]
        source: io::Error,
    },
    #[error("the base {name} is {kind}; it must be a regular file or a block device")]
    Kind { name: String, kind: &'static str },
    #[error("the base {name} is open for writing; pass a descriptor that can only read")]
    Writable { name: String },
    #[error("the base {name} is empty")]
    Empty { name: String },
    #[error("the base {name} is larger than a file offset can say")]
    TooLarge { name: String },
    #[error(
        "the base {name} looks like {format}, and only raw images are served; convert it (`mayfly import` does qcow2, \
         `qemu-img convert -O raw` the others), or say --raw-anyway to serve its bytes as they are"
    )]
    Format { name: String, format: &'static str },
    #[error("the base {name} is being written by another program")]
    InUse { name: String },
}

/// An open base.
#[derive(Debug)]
pub(crate) struct Base {
    file: File,
    /// Its length in bytes when it was opened.
    length: u64,
    capacity: Capacity,
    /// Which file it is: device and inode.
    identity: (u64, u64),
    /// Whether other programs that ask (QEMU does) are told not to write it.
    locked: bool,
    can_refuse_to_wait: bool,
}

impl Base {
    /// Opens and checks it.
    ///
    /// # Errors
    /// [`BaseError`].
    pub(crate) fn open(source: BaseSource, raw_anyway: bool) -> Result<Self, BaseError> {
        let (mut file, name) = obtain(source)?;
        let failed = |source| BaseError::Open {
            name: name.clone(),
            source,
        };
        let info = file.metadata().map_err(failed)?;
        let kind = info.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(BaseError::Kind {
                name,
                kind: describe(kind),
            });
        }
        // A block device's metadata says 0; its end is where seeking to it leads.
        let length = file.seek(SeekFrom::End(0)).map_err(failed)?;
        if length == 0 {
            return Err(BaseError::Empty { name });
        }
        let Some(capacity) = Capacity::of_image(length) else {
            return Err(BaseError::TooLarge { name });
        };
        if !raw_anyway && let Some(format) = magic::recognise(&file).map_err(failed)? {
            return Err(BaseError::Format { name, format });
        }
        let locked = match lock::keep_writers_out(&file) {
            lock::Lock::Held => true,
            lock::Lock::Unavailable => {
                warn!(
                    "the file system of the base {name} has no locks: programs of QEMU's are not kept from writing it, \
                     which would change the disk under the guest; see to that yourself"
                );
                false
            }
            lock::Lock::WriterPresent => return Err(BaseError::InUse { name }),
        };
        Ok(Self {
            can_refuse_to_wait: can_refuse_to_wait(&file),
            file,
            length,
            capacity,
            identity: (info.dev(), info.ino()),
            locked,
        })
    }

    /// The disk it makes.
    pub(crate) fn capacity(&self) -> Capacity {
        self.capacity
    }

    /// Which file it is, and how long it was when it was opened.
    pub(crate) fn status(&self) -> BaseStatus {
        let (device, inode) = self.identity;
        BaseStatus {
            device,
            inode,
            bytes: self.length,
        }
    }

    /// The next stretch that has data, at `offset` or behind it, as far as the file system knows of holes: its beginning and end.
    pub(crate) fn data_after(&self, offset: u64) -> (u64, u64) {
        use rustix::fs::{SeekFrom, seek};
        let start = seek(&self.file, SeekFrom::Data(offset));
        match start.and_then(|start| Ok((start, seek(&self.file, SeekFrom::Hole(start))?))) {
            Ok(stretch) => stretch,
            // There is none.
            Err(rustix::io::Errno::NXIO) => (u64::MAX, u64::MAX),
            Err(_) => (offset, u64::MAX),
        }
    }

    /// Whether it is still as long as it was at the start.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub(crate) fn is_whole(&self) -> Result<bool, Errno> {
        let now = file_status(&self.file)?;
        let is_file = now.st_mode & libc::S_IFMT == libc::S_IFREG;
        Ok(!is_file || u64::try_from(now.st_size).is_ok_and(|now| now >= self.length))
    }

    /// Whether programs that take QEMU's image locks are kept from writing it.
    pub(crate) fn is_locked(&self) -> bool {
        self.locked
    }

    /// What the file's status says of its content now.
    ///
    /// # Errors
    /// Whatever the kernel says; an open file always answers.
    pub(crate) fn stamp(&self) -> Result<Stamp, Errno> {
        Stamp::of(&self.file)
    }

    /// The descriptor's number, for the list of what is open.
    pub(crate) fn number(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Reads `range` into guest buffers, which are as long. A file system that cannot but wait is waited for.
    ///
    /// # Errors
    /// What the kernel says; [`io::ErrorKind::UnexpectedEof`] when the base has shrunk; [`io::ErrorKind::WouldBlock`].
    pub(crate) fn read(&self, range: ByteRange, into: Buffers<'_>, patience: Patience) -> io::Result<()> {
        let stored = range.within(range.start(), self.length);
        let (from_file, beyond) = into.split_at(stored.len());
        read_at(
            &self.file,
            range.start(),
            from_file,
            patience.if_possible(self.can_refuse_to_wait),
        )?;
        beyond.fill_zero();
        Ok(())
    }

    /// Reads from `offset` into this process's own memory; bytes past the original end are left as they are.
    ///
    /// # Errors
    /// As [`Base::read`].
    pub(crate) fn read_bytes(&self, offset: u64, into: &mut [u8], patience: Patience) -> io::Result<()> {
        let stored = usize::try_from(self.length.saturating_sub(offset)).unwrap_or(usize::MAX);
        let stored = stored.min(into.len());
        let into = into.get_mut(..stored).unwrap_or_default();
        read_bytes_at(&self.file, offset, into, patience.if_possible(self.can_refuse_to_wait))
    }
}

impl AsFd for Base {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn obtain(source: BaseSource) -> Result<(File, String), BaseError> {
    match source {
        BaseSource::Path(path) => {
            let name = path.display().to_string();
            // O_NONBLOCK: opening a FIFO must fail the check of its kind, not wait for a writer.
            OpenOptions::new()
                .read(true)
                .custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits())
                .open(&path)
                .map(|file| (file, name.clone()))
                .map_err(|source| BaseError::Open { name, source })
        }
        BaseSource::Descriptor(fd) => {
            let name = format!("(descriptor {})", fd.as_raw_fd());
            let flags = fcntl(&fd, FcntlArg::F_GETFL).map_err(|errno| BaseError::Open {
                name: name.clone(),
                source: errno.into(),
            })?;
            if OFlag::from_bits_truncate(flags) & OFlag::O_ACCMODE == OFlag::O_RDONLY {
                Ok((File::from(fd), name))
            } else {
                Err(BaseError::Writable { name })
            }
        }
    }
}

fn describe(kind: std::fs::FileType) -> &'static str {
    if kind.is_dir() {
        "a directory"
    } else if kind.is_char_device() {
        "a character device"
    } else if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "of an unknown kind"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::GuestSlice;
    use protocol::units::{Sector, SectorCount};

    fn image(content: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        file
    }

    fn open(file: &tempfile::NamedTempFile) -> Result<Base, BaseError> {
        Base::open(BaseSource::Path(file.path().to_owned()), false)
    }

    fn read_all(base: &Base) -> io::Result<Vec<u8>> {
        let range = base.capacity().range(Sector(0), base.capacity().sectors()).unwrap();
        let mut memory = vec![0xee; usize::try_from(range.len()).unwrap()];
        let slices = [GuestSlice::from(&mut memory[..])];
        base.read(range, Buffers::new(&slices), Patience::Endless)?;
        Ok(memory)
    }

    #[test]
    fn a_partial_last_sector_is_completed_with_zeros() {
        let base = open(&image(&[7; 700])).unwrap();
        assert_eq!(base.capacity().sectors(), SectorCount(2));
        let mut expected = vec![7; 700];
        expected.resize(1024, 0);
        assert_eq!(read_all(&base).unwrap(), expected);
    }

    #[test]
    fn a_base_that_shrank_is_an_error_not_zeros() {
        let file = image(&[7; 8192]);
        let base = open(&file).unwrap();

        file.as_file().set_len(4096).unwrap();

        let error = read_all(&base).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn an_empty_base_is_refused() {
        assert!(matches!(open(&image(&[])), Err(BaseError::Empty { .. })));
    }

    #[test]
    fn what_is_no_file_is_refused_by_its_kind() {
        for (path, expected) in [("/", "a directory"), ("/dev/null", "a character device")] {
            let error = Base::open(BaseSource::Path(path.into()), false).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn a_fifo_is_refused_without_waiting_for_a_writer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let error = Base::open(BaseSource::Path(path), false).unwrap_err();
        assert!(error.to_string().contains("a FIFO"), "{error}");
    }

    #[test]
    fn a_descriptor_that_can_write_is_refused() {
        let file = image(&[1; 512]);
        let writable = OpenOptions::new().read(true).write(true).open(file.path()).unwrap();
        let source = BaseSource::Descriptor(writable.into());
        assert!(matches!(Base::open(source, false), Err(BaseError::Writable { .. })));

        let readable = File::open(file.path()).unwrap();
        Base::open(BaseSource::Descriptor(readable.into()), false).unwrap();
    }

    #[test]
    fn a_known_format_is_refused_unless_said_to_be_raw() {
        let file = image(b"QFI\xfb and then whatever a guest may have written");
        assert!(matches!(
            open(&file),
            Err(BaseError::Format {
                format: "a qcow2 image",
                ..
            })
        ));
        Base::open(BaseSource::Path(file.path().to_owned()), true).unwrap();
    }
}
