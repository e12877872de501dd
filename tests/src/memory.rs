//! Guest memory: a memfd that the helper maps and that this side reads and writes by system call.
//!
//! Both see the same pages, so what is written here is what the device reads, and nobody here holds a reference into
//! memory that another process changes. Only what both sides touch at the same time, as the two-byte indices of
//! rings, goes through vm-memory's atomic accessors: a copy by system call is not one access. (A driver that must be
//! fast uses them for all of a ring.)
//!
//! It knows addresses and bytes, nothing about rings or requests.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;

use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use vm_memory::{AtomicAccess, Bytes, FileOffset, MmapRegion, VolatileMemory};

/// Where the guest sees the memory begin. Far from 0, so that a forgotten translation shows, and in a part of the
/// address space where no process has a mapping by itself.
pub const GUEST_BASE: u64 = 0x10_0000_0000;

/// A piece of shared memory with a guest address.
#[derive(Debug)]
pub struct GuestMemory {
    file: File,
    len: u64,
    mapping: MmapRegion<()>,
}

impl GuestMemory {
    /// New memory of `len` bytes, sealed against shrinking and growing as a careful VMM does.
    ///
    /// # Panics
    ///
    /// If the kernel has no memory or no memfd to give.
    #[must_use]
    pub fn sealed(len: u64) -> Self {
        let memory = Self::unsealed(len);
        fcntl(
            &memory.file,
            FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW),
        )
        .expect("a fresh memfd made with ALLOW_SEALING takes seals");
        memory
    }

    /// New memory of `len` bytes that can still be truncated.
    ///
    /// # Panics
    ///
    /// If the kernel has no memory or no memfd to give.
    #[must_use]
    pub fn unsealed(len: u64) -> Self {
        let fd = memfd_create(c"guest-memory", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)
            .expect("the kernel has memfd_create");
        let file = File::from(fd);
        file.set_len(len).expect("a sparse memfd of any size can be made");
        let mapped = FileOffset::new(file.try_clone().expect("a descriptor can be duplicated"), 0);
        let mapping = MmapRegion::from_file(mapped, position(len)).expect("guest memory can be mapped");
        Self { file, len, mapping }
    }

    /// How many bytes there are.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The guest address of byte `at`.
    #[must_use]
    pub const fn guest_address(&self, at: u64) -> u64 {
        GUEST_BASE + at
    }

    /// Puts `bytes` at `at`.
    ///
    /// # Panics
    ///
    /// If the range is not inside the memory.
    pub fn write(&self, at: u64, bytes: &[u8]) {
        self.file
            .write_all_at(bytes, at)
            .expect("the range is inside guest memory");
    }

    /// Fills `into` from `at`.
    ///
    /// # Panics
    ///
    /// If the range is not inside the memory.
    pub fn read_into(&self, at: u64, into: &mut [u8]) {
        self.file
            .read_exact_at(into, at)
            .expect("the range is inside guest memory");
    }

    /// The `len` bytes at `at`.
    #[must_use]
    pub fn read(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.read_into(at, &mut bytes);
        bytes
    }

    /// The byte at `at`.
    #[must_use]
    pub fn byte(&self, at: u64) -> u8 {
        let mut byte = [0];
        self.read_into(at, &mut byte);
        byte[0]
    }

    /// The ring index at `at`, and everything that the other side wrote before it.
    ///
    /// # Panics
    ///
    /// If there are no two aligned bytes of memory.
    #[must_use]
    pub fn load_index(&self, at: u64) -> u16 {
        u16::from_le(self.load(at, Ordering::Acquire))
    }

    /// Sets the ring index at `at`, after everything that was written before.
    ///
    /// # Panics
    ///
    /// If there are no two aligned bytes of memory.
    pub fn store_index(&self, at: u64, index: u16) {
        self.store(at, index.to_le(), Ordering::Release);
    }

    /// The number at `at`, in one access.
    ///
    /// # Panics
    ///
    /// If it is not aligned, or not inside the memory.
    #[must_use]
    pub fn load<T: AtomicAccess>(&self, at: u64, order: Ordering) -> T {
        let all = self.mapping.as_volatile_slice();
        all.load(position(at), order)
            .expect("what a ring is made of is aligned and inside")
    }

    /// Sets the number at `at`, in one access.
    ///
    /// # Panics
    ///
    /// If it is not aligned, or not inside the memory.
    pub fn store<T: AtomicAccess>(&self, at: u64, value: T, order: Ordering) {
        let all = self.mapping.as_volatile_slice();
        all.store(value, position(at), order)
            .expect("what a ring is made of is aligned and inside");
    }

    /// The little-endian 32-bit number at `at`, which the other side is not writing now.
    #[must_use]
    pub fn read_u32(&self, at: u64) -> u32 {
        let mut bytes = [0; 4];
        self.read_into(at, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// Gives the pages of a range back, as a balloon does; they read as zeros afterwards.
    ///
    /// # Panics
    ///
    /// If the kernel refuses.
    pub fn punch(&self, at: u64, len: u64) {
        let signed = |number| i64::try_from(number).expect("guest memory is far below 2^63");
        let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(&self.file, hole, signed(at), signed(len)).expect("a memfd takes holes");
    }

    /// Cuts or extends the file behind the memory, as only a hostile VMM does; the address range stays as it was.
    ///
    /// # Panics
    ///
    /// If the memory is sealed.
    pub fn truncate(&self, len: u64) {
        self.file.set_len(len).expect("unsealed memory can be truncated");
    }
}

impl AsFd for GuestMemory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for GuestMemory {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

fn position(at: u64) -> usize {
    usize::try_from(at).expect("usize has 64 bits on every supported target")
}
