//! Memory mappings that this process owns: a region of guest memory, and a large array that starts as zeros.
//!
//! A mapping is unmapped when its value is dropped, so a slice borrowed from it cannot outlive it. The descriptor a
//! region was mapped from is not kept: the mapping is all that is needed, and a descriptor less is one less to steal.
//!
//! Knows nothing of vhost-user or disks.
#![allow(unsafe_code, reason = "listed: mapping memory is what this file is for")]

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, mmap_anonymous, munmap};
use std::io;
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};
use vm_memory::bitmap::BS;
use vm_memory::{
    GuestAddress, GuestMemoryError, GuestMemoryRegion, GuestMemoryRegionBytes, GuestUsize, MemoryRegionAddress,
    VolatileSlice,
};

/// Bytes of this process's address space, mapped readable and writable until the value is dropped.
#[derive(Debug)]
struct Mapping {
    start: NonNull<libc::c_void>,
    bytes: NonZeroUsize,
}

// SAFETY: the compiler says no because of the raw pointer. The mapping belongs to the address space, not to a thread, and
// `Mapping` offers no access of its own: its two users below hand out volatile or atomic views only.
unsafe impl Send for Mapping {}
// SAFETY: as above; a shared `Mapping` allows nothing but reading its two immutable fields.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `start` and `bytes` are what mmap returned to the constructor of this value, which nothing else
        // unmaps; every view of it borrows the value that is being dropped.
        let unmapped = unsafe { munmap(self.start, self.bytes.get()) };
        debug_assert!(unmapped.is_ok(), "munmap of a whole mapping cannot fail");
    }
}

/// A region of guest memory, shared with the frontend.
#[derive(Debug)]
pub(crate) struct GuestRegion {
    start: GuestAddress,
    mapping: Mapping,
}

impl GuestRegion {
    /// Maps `bytes` of `file` from `offset` as guest memory at `start`.
    ///
    /// Whether the file is large enough is for the caller to check: the kernel does not.
    ///
    /// # Errors
    /// What mmap says, or that the region is empty or does not fit this process's address space.
    pub(crate) fn map(start: GuestAddress, file: &impl AsFd, offset: u64, bytes: u64) -> io::Result<Self> {
        let bytes = usize::try_from(bytes)
            .ok()
            .and_then(NonZeroUsize::new)
            .ok_or(io::ErrorKind::InvalidInput)?;
        let offset = i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE;
        // SAFETY: without MAP_FIXED the kernel chooses an address that was free, so nothing that exists is replaced.
        let start_of_mapping = unsafe { mmap(None, bytes, protection, flags, file, offset) }?;
        Ok(Self {
            start,
            mapping: Mapping {
                start: start_of_mapping,
                bytes,
            },
        })
    }
}

impl GuestMemoryRegionBytes for GuestRegion {}

impl GuestMemoryRegion for GuestRegion {
    type B = ();

    fn len(&self) -> GuestUsize {
        // usize is at most 64 bits wide on every target this builds for.
        GuestUsize::try_from(self.mapping.bytes.get()).unwrap_or(GuestUsize::MAX)
    }

    fn start_addr(&self) -> GuestAddress {
        self.start
    }

    fn bitmap(&self) -> BS<'_, Self::B> {}

    fn get_slice(
        &self,
        offset: MemoryRegionAddress,
        count: usize,
    ) -> Result<VolatileSlice<'_, BS<'_, Self::B>>, GuestMemoryError> {
        let within = usize::try_from(offset.0)
            .ok()
            .filter(|at| at.checked_add(count).is_some_and(|end| end <= self.mapping.bytes.get()))
            .ok_or(GuestMemoryError::InvalidBackendAddress)?;
        // SAFETY: `within + count` was just checked to lie inside the mapping, which is one allocation.
        let first = unsafe { self.mapping.start.cast::<u8>().add(within) };
        // SAFETY: `count` bytes from `first` are mapped for as long as `self` is borrowed, which the returned lifetime
        // says. That the guest changes them meanwhile is what a volatile slice is for.
        Ok(unsafe { VolatileSlice::new(first.as_ptr(), count) })
    }
}

/// A large array of words that starts as zeros and costs memory only where it was written.
#[derive(Debug)]
pub(crate) struct ZeroedWords {
    mapping: Mapping,
    words: usize,
}

impl ZeroedWords {
    /// Reserves `words` words of address space. No huge pages: what was touched must be what was asked for, since an
    /// operator's limit counts it.
    ///
    /// # Errors
    /// What mmap says, or that so many words do not fit this process's address space.
    pub(crate) fn new(words: u64) -> io::Result<Self> {
        let words = usize::try_from(words).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let bytes = words
            .max(1)
            .checked_mul(size_of::<AtomicU32>())
            .and_then(NonZeroUsize::new)
            .ok_or(io::ErrorKind::OutOfMemory)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: without MAP_FIXED the kernel chooses an address that was free, so nothing that exists is replaced.
        let start = unsafe { mmap_anonymous(None, bytes, protection, flags) }?;
        let mapping = Mapping { start, bytes };
        // A kernel without huge pages has nothing to switch off and says EINVAL: that is as good.
        // SAFETY: MADV_NOHUGEPAGE changes how the kernel backs these pages, never what they contain.
        let _ = unsafe { madvise(start, bytes.get(), MmapAdvise::MADV_NOHUGEPAGE) };
        Ok(Self { mapping, words })
    }

    /// Makes every word 0 again and gives their memory back.
    pub(crate) fn clear(&self) {
        // SAFETY: the mapping is this value's own, private and anonymous: its pages read as zeros afterwards, which to the
        // atomics that others may hold is a store like any other.
        let cleared = unsafe { madvise(self.mapping.start, self.mapping.bytes.get(), MmapAdvise::MADV_DONTNEED) };
        debug_assert!(cleared.is_ok(), "a private mapping can always be emptied");
        if cleared.is_err() {
            // Only locked memory refuses. Slow, and takes memory instead of giving it back; what matters is that it is 0.
            self.iter()
                .filter(|word| word.load(Ordering::Relaxed) != 0)
                .for_each(|word| word.store(0, Ordering::Relaxed));
        }
    }
}

impl Deref for ZeroedWords {
    type Target = [AtomicU32];

    fn deref(&self) -> &Self::Target {
        let first = self.mapping.start.cast::<AtomicU32>();
        // SAFETY: `new` mapped at least `words` words, page-aligned and zeroed, which is a valid AtomicU32; the mapping
        // lives as long as `self`, and atomics may be shared.
        unsafe { NonNull::slice_from_raw_parts(first, self.words).as_ref() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::memfd::{MFdFlags, memfd_create};
    use vm_memory::Bytes;

    fn memfd(bytes: u64) -> std::fs::File {
        let file = std::fs::File::from(memfd_create(c"test", MFdFlags::MFD_CLOEXEC).unwrap());
        file.set_len(bytes).unwrap();
        file
    }

    #[test]
    fn words_start_as_zeros_and_keep_what_is_stored() {
        let words = ZeroedWords::new(1 << 20).unwrap();

        words[77].store(5, Ordering::Relaxed);

        assert_eq!(words[76].load(Ordering::Relaxed), 0);
        assert_eq!(words[77].load(Ordering::Relaxed), 5);
        assert_eq!(words.len(), 1 << 20);
    }

    #[test]
    fn a_region_reaches_its_file() {
        let file = memfd(0x3000);
        let region = GuestRegion::map(GuestAddress(0x10000), &file, 0x1000, 0x2000).unwrap();

        region.write_slice(b"hello", MemoryRegionAddress(0x10)).unwrap();

        let mut found = [0; 5];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut found, 0x1010).unwrap();
        assert_eq!(&found, b"hello");
    }

    #[test]
    fn a_slice_past_the_end_of_a_region_is_refused() {
        let region = GuestRegion::map(GuestAddress(0), &memfd(0x1000), 0, 0x1000).unwrap();
        region.get_slice(MemoryRegionAddress(0xfff), 1).unwrap();
        region.get_slice(MemoryRegionAddress(0xfff), 2).unwrap_err();
        region.get_slice(MemoryRegionAddress(u64::MAX), 1).unwrap_err();
        region.get_slice(MemoryRegionAddress(0), usize::MAX).unwrap_err();
    }

    #[test]
    fn an_empty_region_is_refused() {
        GuestRegion::map(GuestAddress(0), &memfd(0x1000), 0, 0).unwrap_err();
    }
}
