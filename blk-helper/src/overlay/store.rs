//! The overlay's file: made without a name, read and written by slot, punched where slots are free.
//!
//! Only this file touches the overlay's descriptor, and only here bytes are encrypted and decrypted: what is above knows
//! plaintext only.

use super::CLUSTER_BYTES;
use super::map::Slot;
use super::pair::FilePair;
use super::scratch::{SCRATCH_BYTES, SCRATCH_SLOTS, Scratch};
use crate::cold::Part;
use crate::sys::file_status;
use crate::transfer::{Buffers, Patience, can_refuse_to_wait, read_at, read_bytes_at, write_at, write_bytes_at};
use nix::fcntl::{FallocateFlags, OFlag, fallocate, open, openat};
use nix::sys::stat::{Mode, fstat};
use nix::sys::statfs::{FsType, TMPFS_MAGIC, fstatfs};
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why there is no overlay.
#[derive(Debug, Error)]
pub(crate) enum OverlayFileError {
    #[error("cannot open the overlay directory {}", dir.display())]
    Directory {
        dir: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "the overlay directory {} lies in memory (tmpfs), where a guest's writes would exhaust the host; \
         name it with --overlay-dir if that is what you want",
        dir.display()
    )]
    InMemory { dir: PathBuf },
    #[error("cannot create the overlay in {} ({how})", dir.display())]
    Create {
        dir: PathBuf,
        how: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("the overlay in {} still has a name after its name was removed ({links} links)", dir.display())]
    StillNamed { dir: PathBuf, links: u64 },
}

/// The directory for the overlay, and whether an operator chose it by name.
#[derive(Clone, Debug)]
pub(crate) struct OverlayDir {
    pub(crate) path: PathBuf,
    pub(crate) named: bool,
}

/// A file without a name, mode 000, that only this process can reach.
#[derive(Debug)]
pub(crate) struct OverlayFile {
    file: File,
}

impl OverlayFile {
    /// Creates it. The process must be non-dumpable by now: else others of the same user could open it by its number.
    ///
    /// # Errors
    /// [`OverlayFileError`].
    pub(crate) fn create(dir: &OverlayDir) -> Result<Self, OverlayFileError> {
        let path = &dir.path;
        let directory = open(path, OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
            .and_then(|fd| fstatfs(&fd).map(|info| (fd, info.filesystem_type())))
            .map_err(|errno| OverlayFileError::Directory {
                dir: path.clone(),
                source: errno.into(),
            });
        let (directory, file_system) = directory?;
        if !dir.named && is_memory(file_system) {
            return Err(OverlayFileError::InMemory { dir: path.clone() });
        }
        let file = nameless(&directory, path)?;
        check_nameless(&file, path)?;
        Ok(Self { file: file.into() })
    }

    /// The descriptor's number, for the list of what is open.
    pub(crate) fn number(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Bytes that its file system has left for an ordinary user.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn free_bytes(&self) -> io::Result<u64> {
        let info = fstatfs(&self.file)?;
        let block = u64::try_from(info.block_size()).unwrap_or(0);
        Ok(info.blocks_available().saturating_mul(block))
    }

    /// What the file system says that it takes, in bytes.
    pub(crate) fn disk_usage(&self) -> u64 {
        // stat(2): its blocks have 512 bytes, whatever those of the file system have. A file that is open can be asked.
        let blocks = file_status(&self.file).map_or(0, |info| info.st_blocks);
        u64::try_from(blocks).unwrap_or(0).saturating_mul(512)
    }
}

impl AsFd for OverlayFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn is_memory(file_system: FsType) -> bool {
    /// From the kernel's magic.h; nix has no name for it.
    const RAMFS_MAGIC: FsType = FsType(0x8584_58f6);
    file_system == TMPFS_MAGIC || file_system == RAMFS_MAGIC
}

/// A nameless file: by O_TMPFILE|O_EXCL, which `linkat` cannot give a name later; where the file system has no O_TMPFILE
/// (9p, older overlayfs), created under a random name that is removed at once.
fn nameless(directory: &OwnedFd, path: &Path) -> Result<OwnedFd, OverlayFileError> {
    let create = |how, source: nix::Error| OverlayFileError::Create {
        dir: path.to_owned(),
        how,
        source: source.into(),
    };
    let common = OFlag::O_RDWR | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    match openat(directory, ".", common | OFlag::O_TMPFILE, Mode::empty()) {
        Ok(file) => return Ok(file),
        Err(nix::Error::EOPNOTSUPP | nix::Error::EISDIR | nix::Error::ENOENT | nix::Error::EINVAL) => {}
        Err(errno) => return Err(create("O_TMPFILE|O_EXCL", errno)),
    }
    let name = random_name().map_err(|errno| create("random name", errno))?;
    let flags = common | OFlag::O_CREAT | OFlag::O_NOFOLLOW;
    let file =
        openat(directory, name.as_str(), flags, Mode::empty()).map_err(|errno| create("O_CREAT|O_EXCL", errno))?;
    unlinkat(directory, name.as_str(), UnlinkatFlags::NoRemoveDir).map_err(|errno| create("unlink", errno))?;
    Ok(file)
}

fn random_name() -> nix::Result<String> {
    let random = std::fs::File::open("/dev/urandom").and_then(|source| {
        let mut bytes = [0; 16];
        io::Read::read_exact(&mut &source, &mut bytes).map(|()| u128::from_ne_bytes(bytes))
    });
    match random {
        Ok(number) => Ok(format!(".mayfly-{number:032x}")),
        Err(error) => Err(error.raw_os_error().map_or(nix::Error::EIO, nix::Error::from_raw)),
    }
}

fn check_nameless(file: &OwnedFd, path: &Path) -> Result<(), OverlayFileError> {
    let info = fstat(file).map_err(|errno| OverlayFileError::Create {
        dir: path.to_owned(),
        how: "fstat",
        source: errno.into(),
    })?;
    if info.st_nlink == 0 {
        Ok(())
    } else {
        Err(OverlayFileError::StillNamed {
            dir: path.to_owned(),
            links: info.st_nlink,
        })
    }
}

/// The overlay by slot.
#[derive(Debug)]
pub(super) struct Store {
    file: FilePair,
    can_refuse_to_wait: bool,
}

impl Store {
    pub(super) fn new(files: [OverlayFile; 2]) -> Self {
        let file = FilePair::new(files);
        Self {
            // Both lie in one directory.
            can_refuse_to_wait: can_refuse_to_wait(&file),
            file,
        }
    }

    pub(super) fn file(&self) -> &FilePair {
        &self.file
    }

    /// Fills `into` from `slot` and its neighbours, beginning `within` bytes into it.
    ///
    /// # Errors
    /// What the kernel says. What is not in memory, and for which there is no patience, is noted.
    pub(super) fn read(&self, slot: Slot, within: u64, into: Buffers<'_>, scratch: &mut Scratch) -> io::Result<()> {
        let patience = scratch.cold.patience().if_possible(self.can_refuse_to_wait);
        let read = self.read_with(slot, within, into, scratch, patience);
        let place = offset(slot, within);
        scratch.cold.note(&read, Part::Overlay, place, bytes(into.len()));
        read
    }

    fn read_with(
        &self,
        slot: Slot,
        within: u64,
        into: Buffers<'_>,
        scratch: &mut Scratch,
        patience: Patience,
    ) -> io::Result<()> {
        if !scratch.encrypts() {
            return read_at(&self.file, offset(slot, within), into, patience);
        }
        for (slot, part, now) in pieces(slot, within, into) {
            let from = offset(slot, bytes(part.start));
            read_bytes_at(&self.file, from, scratch.part(part.clone()), patience)?;
            scratch.decrypt_into(slot, part, now)?;
        }
        Ok(())
    }

    /// Reads the `part` of `slot` and its neighbours to where it lies in `scratch`.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub(super) fn load(&self, slot: Slot, part: Range<usize>, scratch: &mut Scratch) -> io::Result<()> {
        let from = offset(slot, bytes(part.start));
        let patience = scratch.cold.patience().if_possible(self.can_refuse_to_wait);
        let read = read_bytes_at(&self.file, from, scratch.part(part.clone()), patience);
        scratch.cold.note(&read, Part::Overlay, from, bytes(part.len()));
        read?;
        scratch.decrypt(slot, part.end)
    }

    /// Waits until storage has delivered what is at `offset`, into memory of no meaning.
    pub(super) fn warm(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        read_bytes_at(&self.file, offset, into, Patience::Endless)
    }

    /// Writes `from` to `slot` and its neighbours, beginning `within` bytes into it.
    pub(super) fn write(&self, slot: Slot, within: u64, from: Buffers<'_>, scratch: &mut Scratch) -> io::Result<()> {
        if !scratch.encrypts() {
            return write_at(&self.file, offset(slot, within), from);
        }
        for (slot, part, now) in pieces(slot, within, from) {
            scratch.encrypt_from(slot, part.clone(), now)?;
            let to = offset(slot, bytes(part.start));
            write_bytes_at(&self.file.file, to, scratch.part(part))?;
        }
        Ok(())
    }

    /// Writes the `part` of `slot` and its neighbours that lies there in `scratch`, which is used up by it.
    pub(super) fn write_part(&self, slot: Slot, part: Range<usize>, scratch: &mut Scratch) -> io::Result<()> {
        scratch.encrypt(slot, part.end)?;
        let to = offset(slot, bytes(part.start));
        write_bytes_at(&self.file.file, to, scratch.part(part))
    }

    /// Gives the space of `count` slots from `first` on back to the file system.
    pub(super) fn punch(&self, first: Slot, count: u64) -> io::Result<()> {
        let file_offset = |bytes: u64| i64::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput);
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let start = file_offset(offset(first, 0))?;
        let length = file_offset(count.saturating_mul(CLUSTER_BYTES))?;
        Ok(fallocate(&self.file, flags, start, length)?)
    }
}

/// Cuts `window`, which begins `within` bytes into `slot`, into pieces that fit into a scratch, each with its first slot and
/// the place in the scratch that is its own.
fn pieces(slot: Slot, within: u64, window: Buffers<'_>) -> impl Iterator<Item = (Slot, Range<usize>, Buffers<'_>)> {
    let mut slot = slot;
    let mut start = usize::try_from(within).unwrap_or(0);
    let mut rest = window;
    std::iter::from_fn(move || {
        if rest.len() == 0 {
            return None;
        }
        let now;
        (now, rest) = rest.split_at(bytes(SCRATCH_BYTES.saturating_sub(start)));
        let piece = (slot, start..start.saturating_add(now.len()), now);
        // A run ends before the slots do.
        slot = Slot(slot.0.saturating_add(SCRATCH_SLOTS));
        start = 0;
        Some(piece)
    })
}

/// A length in memory, for files.
fn bytes(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// Where in the file a byte of a slot is. Slots are 32-bit numbers, so this is below 2^44.
fn offset(slot: Slot, within: u64) -> u64 {
    u64::from(slot.0).saturating_mul(CLUSTER_BYTES).saturating_add(within)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlay_has_no_name_no_mode_and_leaves_nothing() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let named = OverlayDir {
            path: dir.path().to_owned(),
            named: true,
        };

        let overlay = OverlayFile::create(&named).unwrap();

        let info = fstat(&overlay).unwrap();
        assert_eq!(info.st_nlink, 0);
        assert_eq!(info.st_mode & 0o7777, 0);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_that_is_not_there_is_named_in_the_error() {
        let missing = OverlayDir {
            path: "/nonexistent/dir".into(),
            named: true,
        };
        let error = OverlayFile::create(&missing).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/dir"));
    }

    #[test]
    fn memory_is_refused_unless_named() {
        let shm = |named| OverlayDir {
            path: "/dev/shm".into(),
            named,
        };
        assert!(matches!(
            OverlayFile::create(&shm(false)),
            Err(OverlayFileError::InMemory { .. })
        ));
        OverlayFile::create(&shm(true)).unwrap();
    }
}
