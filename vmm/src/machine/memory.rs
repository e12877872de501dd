//! Guest memory: one memfd, mapped around the 32-bit hole.
//!
//! One file, because every disk's backend gets it with its memory table; sealed against shrinking and growing before anybody
//! else sees it, so that nobody can take pages away under a process that has them mapped. Nothing is allocated until the guest
//! touches it. It is left out of core dumps.
//!
//! Knows which addresses are memory (from `layout`), and nothing of what is put there.
#![expect(unsafe_code, reason = "listed: madvise works on raw addresses")]

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MmapAdvise, madvise};
use thiserror::Error;
use vm_memory::mmap::MmapRegionError;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

use super::layout;
use crate::contract::{MEMORY_MIN, PAGE};

/// The guest's memory. Shared by reference; the mapping and the memfd live as long as it or a clone of [`Ram::guest`].
#[derive(Debug)]
pub(crate) struct Ram {
    guest: GuestMemoryMmap,
    file: Arc<File>,
    regions: Vec<RamRegion>,
}

/// One stretch of guest memory, as KVM's slots and vhost-user's memory table want it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RamRegion {
    /// Where the guest sees it.
    pub(crate) guest: GuestAddress,
    /// How long it is.
    pub(crate) bytes: u64,
    /// Where this process has it mapped.
    pub(crate) host: u64,
    /// Where it begins in the memfd.
    pub(crate) offset: u64,
}

/// Guest memory could not be made.
#[derive(Debug, Error)]
pub(crate) enum RamError {
    /// A size that no guest can have.
    #[error(
        "{0} bytes of guest memory are not possible: give a multiple of {PAGE} that is at least {MEMORY_MIN} \
         (most kernels need far more)"
    )]
    Size(u64),
    /// The memfd could not be made, sized or sealed.
    #[error("cannot {doing} the file for {} MiB of guest memory", .bytes >> 20)]
    File {
        /// What the call was for.
        doing: &'static str,
        /// The whole memory.
        bytes: u64,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// The host has not so much, or does not promise so much.
    #[error(
        "the host refuses to map {} MiB of guest memory: give the guest less (--memory), or allow more \
         (the limit of ulimit -v, the control group's memory.max, or vm.overcommit_memory)",
        .bytes >> 20
    )]
    Refused {
        /// The whole memory.
        bytes: u64,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The mapping failed for another reason.
    #[error("cannot map {} MiB of guest memory", .bytes >> 20)]
    Map {
        /// The whole memory.
        bytes: u64,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl Ram {
    /// Makes `bytes` of guest memory, all zeros.
    ///
    /// # Errors
    /// The size is impossible, or the host refuses it.
    pub(crate) fn new(bytes: u64) -> Result<Self, RamError> {
        if bytes < MEMORY_MIN || !bytes.is_multiple_of(PAGE) {
            return Err(RamError::Size(bytes));
        }
        let file = Arc::new(sealed_file(bytes)?);
        let mut regions = Vec::new();
        let mut mappings = Vec::new();
        let mut offset = 0;
        for (start, length) in layout::ram_ranges(bytes) {
            let guest = GuestAddress(start);
            let mapping = map(&file, offset, length).map_err(|source| refused(bytes, source))?;
            regions.push(RamRegion {
                guest,
                bytes: length,
                host: address(&mapping),
                offset,
            });
            mappings.push(GuestRegionMmap::new(mapping, guest).expect("layout's ranges end far below 2^64"));
            offset += length;
        }
        let guest = GuestMemoryMmap::from_regions(mappings).expect("layout's ranges are sorted and apart");
        Ok(Self { guest, file, regions })
    }

    /// The memory, for reading and writing by guest address. Clones share the mapping.
    pub(crate) fn guest(&self) -> &GuestMemoryMmap {
        &self.guest
    }

    /// The memfd behind it, which disks' backends get.
    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Its stretches, sorted by guest address.
    pub(crate) fn regions(&self) -> &[RamRegion] {
        &self.regions
    }

    /// Where the stretch that starts at address 0 ends.
    pub(crate) fn low_end(&self) -> u64 {
        self.regions.first().map_or(0, |low| low.bytes)
    }

    /// All of it.
    pub(crate) fn bytes(&self) -> u64 {
        self.regions.iter().map(|region| region.bytes).sum()
    }
}

fn sealed_file(bytes: u64) -> Result<File, RamError> {
    let failed = |doing| move |source| RamError::File { doing, bytes, source };
    let file = memfd_create(
        c"mayfly guest memory",
        MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING,
    )
    .map(File::from)
    .map_err(failed("create"))?;
    let length = i64::try_from(bytes).map_err(|_| RamError::Size(bytes))?;
    nix::unistd::ftruncate(&file, length).map_err(failed("size"))?;
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).map_err(failed("seal"))?;
    Ok(file)
}

/// Maps one stretch, shared and without reserving swap for it (vm-memory's choice of flags, and ours).
fn map(file: &Arc<File>, offset: u64, bytes: u64) -> io::Result<MmapRegion> {
    let length = usize::try_from(bytes).map_err(|_| io::ErrorKind::OutOfMemory)?;
    let mapping = MmapRegion::from_file(FileOffset::from_arc(Arc::clone(file), offset), length).map_err(system)?;
    let start = NonNull::new(mapping.as_ptr().cast::<c_void>()).ok_or(io::ErrorKind::OutOfMemory)?;
    // SAFETY: `start` and `length` are the whole mapping, which `mapping` holds until after this call; DONTDUMP changes what a
    // core dump contains and no byte of memory.
    unsafe { madvise(start, length, MmapAdvise::MADV_DONTDUMP) }?;
    Ok(mapping)
}

/// What the kernel said; vm-memory's own checks, which a fresh mapping without a fixed address cannot fail, become words.
fn system(error: MmapRegionError) -> io::Error {
    if let MmapRegionError::Mmap(source) = error {
        source
    } else {
        io::Error::other(error)
    }
}

fn refused(bytes: u64, source: io::Error) -> RamError {
    if source.kind() == io::ErrorKind::OutOfMemory {
        RamError::Refused { bytes, source }
    } else {
        RamError::Map { bytes, source }
    }
}

fn address(mapping: &MmapRegion) -> u64 {
    u64::try_from(mapping.as_ptr().addr()).expect("an address has at most 64 bits")
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::ftruncate;
    use proptest::prelude::*;
    use vm_memory::{Bytes, GuestMemoryBackend};

    #[test]
    fn both_sides_of_the_hole_are_memory_and_the_hole_is_not() {
        let ram = Ram::new(layout::HOLE_START + (64 << 20)).unwrap();

        for inside in [
            0,
            layout::HOLE_START - 8,
            layout::HOLE_END,
            layout::HOLE_END + (64 << 20) - 8,
        ] {
            ram.guest().write_obj(inside, GuestAddress(inside)).unwrap();
        }
        for outside in [layout::HOLE_START, layout::HOLE_END - 1, layout::HOLE_END + (64 << 20)] {
            assert!(!ram.guest().address_in_range(GuestAddress(outside)), "{outside:#x}");
        }
        assert_eq!(
            ram.guest().read_obj::<u64>(GuestAddress(layout::HOLE_END)).unwrap(),
            layout::HOLE_END
        );
    }

    #[test]
    fn the_file_can_neither_shrink_nor_grow_nor_lose_its_seals() {
        let ram = Ram::new(MEMORY_MIN).unwrap();

        assert_eq!(ftruncate(ram.file(), 0), Err(Errno::EPERM));
        assert_eq!(ftruncate(ram.file(), 1 << 30), Err(Errno::EPERM));
        let more = fcntl(ram.file(), FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE));
        assert_eq!(more, Err(Errno::EPERM));
    }

    #[test]
    fn a_size_that_is_not_possible_is_refused() {
        for bytes in [
            0,
            PAGE,
            MEMORY_MIN - PAGE,
            MEMORY_MIN + 1,
            u64::MAX,
            u64::MAX - (PAGE - 1),
        ] {
            assert!(
                matches!(Ram::new(bytes), Err(RamError::Size(refused)) if refused == bytes),
                "{bytes}"
            );
        }
    }

    #[test]
    fn more_than_the_address_space_holds_is_refused_with_advice() {
        let error = Ram::new(1 << 60).unwrap_err();

        assert!(error.to_string().contains("--memory"), "{error}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn the_regions_are_the_file_cut_into_the_layouts_ranges(pages in (MEMORY_MIN / PAGE)..(64 << 30) / PAGE) {
            let bytes = pages * PAGE;
            let ram = Ram::new(bytes).unwrap();

            prop_assert_eq!(ram.bytes(), bytes);
            let ranges: Vec<_> = ram.regions().iter().map(|region| (region.guest.0, region.bytes)).collect();
            prop_assert_eq!(ranges, layout::ram_ranges(bytes));
            let mut offset = 0;
            for region in ram.regions() {
                prop_assert_eq!(region.offset, offset);
                let host = ram.guest().get_host_address(region.guest).unwrap();
                prop_assert_eq!(region.host, u64::try_from(host.addr()).unwrap());
                offset += region.bytes;
            }
        }
    }
}
