//! Memory for keys: secret where the kernel knows how (`memfd_secret`: nobody's system call can read it, and the kernel
//! zeroes it when it is freed), else locked (never swapped) and left out of core files. Never made without being read back.
//!
//! It is handed out piece by piece and taken back as a whole, when the value is dropped. A process that ends without
//! destructors leaves that to the kernel: pages reach nobody else unzeroed.
//!
//! Knows nothing of ciphers.
#![allow(unsafe_code, reason = "listed: mapping memory is what this file is for")]

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mlock, mmap, mmap_anonymous, munmap};
use nix::unistd::ftruncate;
use serde::Serialize;
use std::fmt;
use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use thiserror::Error;

/// What every piece is aligned to: a line of the cache, more than any key schedule asks for.
const ALIGNMENT: usize = 64;

/// Why there is no memory for keys.
#[derive(Debug, Error)]
pub(crate) enum KeyMemoryError {
    #[error("cannot map memory for the overlay's key")]
    Map(#[source] Errno),
    #[error(
        "cannot lock {bytes} bytes of memory for the overlay's key: raise the limit (ulimit -l), or go \
         without encryption (--no-encrypt; for mayfly run: --disk IMAGE,no-encrypt)"
    )]
    Lock {
        bytes: usize,
        #[source]
        source: Errno,
    },
    #[error("cannot read back whether the overlay's key is locked in memory")]
    ReadBack(#[source] io::Error),
    #[error("the memory for the overlay's key is not locked and undumped: the kernel says {0}")]
    NotInForce(String),
}

/// What the kernel says of the memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct KeyMemoryFacts {
    /// Whether no system call can read it, the kernel's own included.
    pub(crate) secret: bool,
    /// The kernel's words in /proc/self/smaps; where it is not secret, why.
    evidence: String,
}

impl fmt::Display for KeyMemoryFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.secret { "secret" } else { "locked" };
        write!(f, "encrypted with a key in {kind} memory ({})", self.evidence)
    }
}

/// Memory for keys.
#[derive(Debug)]
pub(crate) struct KeyMemory {
    start: NonNull<libc::c_void>,
    bytes: NonZeroUsize,
    /// Bytes handed out.
    taken: AtomicUsize,
    facts: KeyMemoryFacts,
}

// SAFETY: the compiler says no because of the raw pointer. The mapping belongs to the address space, not to a thread; of a
// shared `KeyMemory` only `take` touches anything, and no byte is handed out twice.
unsafe impl Send for KeyMemory {}
// SAFETY: as above.
unsafe impl Sync for KeyMemory {}

impl KeyMemory {
    /// Memory of at least `bytes` bytes, all zero. Needs `/proc`, to read back what it is.
    ///
    /// # Errors
    /// [`KeyMemoryError`].
    pub(crate) fn new(bytes: NonZeroUsize) -> Result<Self, KeyMemoryError> {
        let (start, why_not_secret) = match map_secret(bytes) {
            Ok(start) => (start, None),
            Err(errno) => (map_locked(bytes)?, Some(errno)),
        };
        let mut memory = Self {
            start,
            bytes,
            taken: AtomicUsize::new(0),
            facts: KeyMemoryFacts {
                secret: false,
                evidence: String::new(),
            },
        };
        let smaps = fs::read_to_string("/proc/self/smaps").map_err(KeyMemoryError::ReadBack)?;
        memory.facts = judge(&smaps, start.addr().get(), bytes.get(), why_not_secret)?;
        Ok(memory)
    }

    /// What the kernel says of it.
    pub(crate) fn facts(&self) -> &KeyMemoryFacts {
        &self.facts
    }

    /// Hands out the next `bytes` bytes, if there are so many left. They are the caller's for as long as `self` lives.
    pub(crate) fn take(&self, bytes: usize) -> Option<NonNull<u8>> {
        let wanted = bytes.checked_next_multiple_of(ALIGNMENT)?;
        let advance = |taken: usize| taken.checked_add(wanted).filter(|end| *end <= self.bytes.get());
        let at = self
            .taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, advance)
            .ok()?;
        // SAFETY: `at + bytes` was just checked to lie inside the mapping, which is one allocation.
        Some(unsafe { self.start.cast::<u8>().add(at) })
    }

    /// All of it, as it is now.
    #[cfg(test)]
    pub(crate) fn content(&self) -> &[u8] {
        let whole = NonNull::slice_from_raw_parts(self.start.cast::<u8>(), self.bytes.get());
        // SAFETY: mapped and initialised (the kernel zeroed it); tests call this while nobody writes.
        unsafe { whole.as_ref() }
    }
}

impl Drop for KeyMemory {
    fn drop(&mut self) {
        for at in 0..self.bytes.get() {
            // SAFETY: `at` lies inside the mapping.
            let byte = unsafe { self.start.cast::<u8>().add(at) };
            // SAFETY: mapped and writable, and whoever was handed a piece keeps `self` alive: nobody uses it any more.
            // Volatile, so that it is done although nobody looks.
            unsafe { byte.write_volatile(0) };
        }
        // SAFETY: `start` and `bytes` are what mmap returned to the constructor, which nothing else unmaps.
        let unmapped = unsafe { munmap(self.start, self.bytes.get()) };
        debug_assert!(unmapped.is_ok(), "munmap of a whole mapping cannot fail");
    }
}

const PROTECTION: ProtFlags = ProtFlags::PROT_READ.union(ProtFlags::PROT_WRITE);

/// Maps memory that the kernel takes out of its own reach. Its descriptor is closed: the mapping is all that is needed.
fn map_secret(bytes: NonZeroUsize) -> Result<NonNull<libc::c_void>, Errno> {
    // SAFETY: the call takes one flag and no pointer.
    let number = Errno::result(unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) })?;
    let number = RawFd::try_from(number).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel just made this descriptor for us; nothing else owns it.
    let file = unsafe { OwnedFd::from_raw_fd(number) };
    ftruncate(&file, i64::try_from(bytes.get()).map_err(|_| Errno::EINVAL)?)?;
    // SAFETY: without MAP_FIXED the kernel chooses an address that was free, so nothing that exists is replaced.
    unsafe { mmap(None, bytes, PROTECTION, MapFlags::MAP_SHARED, &file, 0) }
}

/// Maps memory that is never swapped out and not in core files.
fn map_locked(bytes: NonZeroUsize) -> Result<NonNull<libc::c_void>, KeyMemoryError> {
    // SAFETY: without MAP_FIXED the kernel chooses an address that was free, so nothing that exists is replaced.
    let start = unsafe { mmap_anonymous(None, bytes, PROTECTION, MapFlags::MAP_PRIVATE) };
    let start = start.map_err(KeyMemoryError::Map)?;
    // SAFETY: `bytes` bytes from `start` are mapped; locking them changes nothing that they contain.
    let locked = unsafe { mlock(start, bytes.get()) };
    locked.map_err(|source| KeyMemoryError::Lock {
        bytes: bytes.get(),
        source,
    })?;
    // SAFETY: the same bytes, mapped by this function; MADV_DONTDUMP keeps them out of core files, no more.
    let undumped = unsafe { madvise(start, bytes.get(), MmapAdvise::MADV_DONTDUMP) };
    undumped.map_err(KeyMemoryError::Map)?;
    Ok(start)
}

/// What `smaps` says of the `bytes` bytes at `start`, if that is enough.
fn judge(smaps: &str, start: usize, bytes: usize, why: Option<Errno>) -> Result<KeyMemoryFacts, KeyMemoryError> {
    let mut name = None;
    for line in smaps.lines() {
        if let Some(range) = mapped(line) {
            let covers = range.0 <= start && start.saturating_add(bytes) <= range.1;
            name = covers.then(|| line.split_whitespace().nth(5).unwrap_or("anonymous"));
        } else if let (Some(name), Some(flags)) = (name, line.strip_prefix("VmFlags:")) {
            let has = |wanted: &str| flags.split_whitespace().any(|flag| flag == wanted);
            if !has("lo") || !has("dd") {
                return Err(KeyMemoryError::NotInForce(line.to_owned()));
            }
            let why = why.map_or(String::new(), |errno| format!("; memfd_secret: {}", errno.desc()));
            return Ok(KeyMemoryFacts {
                secret: name == "/secretmem",
                evidence: format!("{name}, {}{why}", line.trim_end()),
            });
        }
    }
    Err(KeyMemoryError::NotInForce("nothing".to_owned()))
}

/// The addresses in the first line of a mapping.
fn mapped(line: &str) -> Option<(usize, usize)> {
    let (start, end) = line.split_whitespace().next()?.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    Some((address(start)?, address(end)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    const PAGE: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

    fn in_smaps(start: NonNull<libc::c_void>) -> Result<KeyMemoryFacts, KeyMemoryError> {
        judge(
            &fs::read_to_string("/proc/self/smaps").unwrap(),
            start.addr().get(),
            PAGE.get(),
            None,
        )
    }

    #[test]
    fn pieces_are_zeroed_aligned_and_never_handed_out_twice() {
        let memory = KeyMemory::new(PAGE).unwrap();
        let mut ends = 0;
        while let Some(piece) = memory.take(100) {
            assert!(piece.addr().get() >= ends);
            assert!(piece.addr().get().is_multiple_of(ALIGNMENT));
            // SAFETY: the piece has 100 bytes and is this test's.
            let bytes = unsafe { NonNull::slice_from_raw_parts(piece, 100).as_mut() };
            assert!(bytes.iter().all(|byte| *byte == 0));
            bytes.fill(0xff);
            ends = piece.addr().get() + 100;
        }
        assert_eq!(ends, memory.start.addr().get() + 31 * 128 + 100);
        assert_eq!(memory.take(usize::MAX), None);
    }

    #[test]
    fn secret_memory_is_beyond_the_kernels_own_reach() {
        let memory = KeyMemory::new(PAGE).unwrap();
        let process = fs::File::open("/proc/self/mem").unwrap();
        let mut bytes = [0; 16];
        let read = process.read_at(&mut bytes, memory.start.addr().get() as u64);
        assert_eq!(read.is_err(), memory.facts().secret, "{read:?}, {:?}", memory.facts());
    }

    #[test]
    fn where_it_cannot_be_secret_it_is_locked_and_undumped() {
        let start = map_locked(PAGE).unwrap();
        let facts = in_smaps(start).unwrap();
        assert!(!facts.secret);
        assert!(facts.evidence.starts_with("anonymous, VmFlags: "), "{facts:?}");
    }

    #[test]
    fn memory_like_any_other_is_not_accepted() {
        // SAFETY: without MAP_FIXED nothing that exists is replaced.
        let start = unsafe { mmap_anonymous(None, PAGE, PROTECTION, MapFlags::MAP_PRIVATE) }.unwrap();
        assert!(matches!(in_smaps(start), Err(KeyMemoryError::NotInForce(_))));
    }
}
