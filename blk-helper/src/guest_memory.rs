//! Guest memory as a frontend describes it: accepted region by region, or refused with the reason.
//!
//! A region must be ordinary shared memory (memfd, tmpfs, hugetlbfs) that is large enough for what is said of it, since
//! a mapping beyond the end of its file kills who touches it. A frontend that truncates the file later is answered by the
//! SIGBUS handler; `--require-seals` demands that it cannot.
//!
//! Frontends name ring addresses in *their* address space; the table translates them to the guest's.

use crate::mapping::GuestRegion;
use crate::sys::file_status;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::stat::SFlag;
use nix::sys::statfs::{HUGETLBFS_MAGIC, TMPFS_MAGIC, fstatfs};
use std::fs::File;
use std::io;
use std::sync::Arc;
use thiserror::Error;
use vm_memory::{GuestAddress, GuestAddressSpace, GuestMemoryAtomic, GuestRegionCollection};

/// The guest's memory, as it is at one moment.
pub(crate) type Memory = GuestRegionCollection<GuestRegion>;

/// The guest's memory, as workers look it up: replaced as a whole.
pub(crate) type SharedMemory = GuestMemoryAtomic<Memory>;

/// The guest's memory, which stays as it is while this is held.
pub(crate) type MemoryGuard = <SharedMemory as GuestAddressSpace>::T;

/// Most regions at a time. Frontends use a handful, plus one for each hot-plugged DIMM; QEMU offers 256 slots to a guest
/// but lets a backend lower that. 64 is a guess that bounds the work of a lookup.
pub(crate) const MAX_REGIONS: usize = 64;

/// Most bytes of all regions together: beyond the largest guest that exists, below this process's address space.
const MAX_TOTAL_BYTES: u64 = 1 << 45;

/// The page of ordinary memory. Its mappings may end anywhere; those of huge pages are rounded up by the kernel, and then
/// cannot be undone by their length.
const SMALL_PAGE: u64 = 4096;

/// A region as a frontend describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RegionSpec {
    pub(crate) guest_address: u64,
    pub(crate) bytes: u64,
    pub(crate) frontend_address: u64,
    pub(crate) file_offset: u64,
}

impl RegionSpec {
    fn guest_end(&self) -> Option<u64> {
        self.guest_address.checked_add(self.bytes)
    }

    fn overlaps(&self, other: &Self) -> bool {
        // Both were checked to have an end when they were accepted.
        self.guest_end().is_none_or(|end| other.guest_address < end)
            && other.guest_end().is_none_or(|end| self.guest_address < end)
    }
}

/// Why a region is refused.
#[derive(Debug, Error)]
pub(crate) enum MemoryError {
    #[error("there are {MAX_REGIONS} regions already")]
    TooMany,
    #[error("the region is empty, or wraps around, or all regions together are too large")]
    Size,
    #[error("the region overlaps another one")]
    Overlap,
    #[error("no such region")]
    Unknown,
    #[error("the file is no shared memory (memfd, tmpfs or hugetlbfs)")]
    Kind,
    #[error("the file has {file} bytes, the region ends at {end}")]
    Short { file: u64, end: u64 },
    #[error("the region is not made of whole pages of {0} bytes, as its file is")]
    Page(u64),
    #[error("the file can be truncated: it is not sealed against shrinking")]
    NotSealed,
    #[error("cannot {doing}")]
    System {
        doing: &'static str,
        #[source]
        source: io::Error,
    },
}

impl MemoryError {
    fn system<E: Into<io::Error>>(doing: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::System {
            doing,
            source: source.into(),
        }
    }
}

/// The regions of one connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemoryTable {
    regions: Vec<(RegionSpec, Arc<GuestRegion>)>,
}

impl MemoryTable {
    /// Adds a region.
    ///
    /// # Errors
    /// [`MemoryError`]; the table is then as it was.
    pub(crate) fn add(&mut self, spec: RegionSpec, file: &File, require_seals: bool) -> Result<(), MemoryError> {
        if self.regions.len() >= MAX_REGIONS {
            return Err(MemoryError::TooMany);
        }
        let total = self
            .regions
            .iter()
            .try_fold(spec.bytes, |sum, (other, _)| sum.checked_add(other.bytes));
        if spec.bytes == 0
            || spec.guest_end().is_none()
            || spec.frontend_address.checked_add(spec.bytes).is_none()
            || total.is_none_or(|total| total > MAX_TOTAL_BYTES)
        {
            return Err(MemoryError::Size);
        }
        if self.regions.iter().any(|(other, _)| other.overlaps(&spec)) {
            return Err(MemoryError::Overlap);
        }
        check_file(&spec, file, require_seals)?;
        let start = GuestAddress(spec.guest_address);
        let region = GuestRegion::map(start, file, spec.file_offset, spec.bytes)
            .map_err(MemoryError::system("map the region"))?;
        self.regions.push((spec, Arc::new(region)));
        self.regions.sort_by_key(|(spec, _)| spec.guest_address);
        Ok(())
    }

    /// Removes the region that begins where `spec` does, in both address spaces, and is as long.
    ///
    /// # Errors
    /// [`MemoryError::Unknown`].
    pub(crate) fn remove(&mut self, spec: RegionSpec) -> Result<(), MemoryError> {
        let same = |other: &RegionSpec| {
            other.guest_address == spec.guest_address
                && other.frontend_address == spec.frontend_address
                && other.bytes == spec.bytes
        };
        let index = self.regions.iter().position(|(other, _)| same(other));
        self.regions.remove(index.ok_or(MemoryError::Unknown)?);
        Ok(())
    }

    /// The memory as workers use it.
    ///
    /// # Errors
    /// [`MemoryError::Overlap`], which `add` has ruled out.
    pub(crate) fn memory(&self) -> Result<Memory, MemoryError> {
        if self.regions.is_empty() {
            return Ok(Memory::new());
        }
        let regions = self.regions.iter().map(|(_, region)| Arc::clone(region));
        Memory::from_arc_regions(regions.collect()).map_err(|_| MemoryError::Overlap)
    }

    /// The guest's address of what the frontend knows by `frontend_address`.
    pub(crate) fn to_guest(&self, frontend_address: u64) -> Option<u64> {
        self.regions.iter().find_map(|(spec, _)| {
            let offset = frontend_address.checked_sub(spec.frontend_address)?;
            (offset < spec.bytes).then(|| spec.guest_address.saturating_add(offset))
        })
    }
}

fn check_file(spec: &RegionSpec, file: &File, require_seals: bool) -> Result<(), MemoryError> {
    let info = file_status(file).map_err(MemoryError::system("examine the file"))?;
    let kind = SFlag::from_bits_truncate(info.st_mode) & SFlag::S_IFMT;
    let page = memory_page(file)?;
    let (SFlag::S_IFREG, Some(page)) = (kind, page) else {
        return Err(MemoryError::Kind);
    };
    if !spec.file_offset.is_multiple_of(page) || (page > SMALL_PAGE && !spec.bytes.is_multiple_of(page)) {
        return Err(MemoryError::Page(page));
    }
    let length = u64::try_from(info.st_size).unwrap_or(0);
    let end = spec.file_offset.checked_add(spec.bytes).ok_or(MemoryError::Size)?;
    if end > length {
        return Err(MemoryError::Short { file: length, end });
    }
    if require_seals {
        // Not every kind of file can be sealed: one that cannot is not sealed.
        let seals = fcntl(file, FcntlArg::F_GET_SEALS).unwrap_or(0);
        if !SealFlag::from_bits_truncate(seals).contains(SealFlag::F_SEAL_SHRINK) {
            return Err(MemoryError::NotSealed);
        }
    }
    Ok(())
}

/// The page of a file that is shared memory; none if it is anything else.
fn memory_page(file: &File) -> Result<Option<u64>, MemoryError> {
    let info = fstatfs(file).map_err(MemoryError::system("examine the file's file system"))?;
    let page = u64::try_from(info.block_size()).ok().filter(|page| *page > 0);
    Ok(match info.filesystem_type() {
        TMPFS_MAGIC => Some(SMALL_PAGE),
        HUGETLBFS_MAGIC => page,
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::memfd::{MFdFlags, memfd_create};
    use vm_memory::GuestMemoryBackend;

    fn memfd(bytes: u64) -> File {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let file = File::from(memfd_create(c"test", flags).unwrap());
        file.set_len(bytes).unwrap();
        file
    }

    fn spec(guest_address: u64, bytes: u64) -> RegionSpec {
        RegionSpec {
            guest_address,
            bytes,
            frontend_address: guest_address + 0x7f00_0000_0000,
            file_offset: 0,
        }
    }

    #[test]
    fn regions_are_found_by_both_addresses() {
        let mut table = MemoryTable::default();
        table.add(spec(0x10_0000, 0x2000), &memfd(0x2000), false).unwrap();
        table.add(spec(0, 0x1000), &memfd(0x1000), false).unwrap();

        let memory = table.memory().unwrap();

        assert!(memory.check_range(GuestAddress(0x10_0000), 0x2000));
        assert!(!memory.check_range(GuestAddress(0x10_0000), 0x2001));
        assert_eq!(table.to_guest(0x7f00_0010_1fff), Some(0x10_1fff));
        assert_eq!(table.to_guest(0x7f00_0010_2000), None);
        assert_eq!(table.to_guest(0), None);
    }

    #[test]
    fn a_file_shorter_than_its_region_is_refused() {
        let error = MemoryTable::default()
            .add(spec(0, 0x10000), &memfd(0x1000), false)
            .unwrap_err();
        assert!(matches!(
            error,
            MemoryError::Short {
                file: 0x1000,
                end: 0x10000
            }
        ));
    }

    #[test]
    fn what_is_not_shared_memory_is_refused() {
        for path in ["/dev/null", "/etc/passwd", "/"] {
            let file = File::open(path).unwrap();
            let error = MemoryTable::default().add(spec(0, 0x1000), &file, false).unwrap_err();
            assert!(matches!(error, MemoryError::Kind), "{path}: {error}");
        }
    }

    #[test]
    fn overlapping_empty_and_wrapping_regions_are_refused() {
        let mut table = MemoryTable::default();
        table.add(spec(0x1000, 0x1000), &memfd(0x1000), false).unwrap();

        let overlap = table.add(spec(0, 0x2000), &memfd(0x2000), false);
        let empty = table.add(spec(0x8000, 0), &memfd(0x1000), false);
        let wrapping = RegionSpec {
            guest_address: u64::MAX - 0xfff,
            ..spec(0, 0x1000)
        };
        let wrapping = table.add(wrapping, &memfd(0x1000), false);

        assert!(matches!(overlap, Err(MemoryError::Overlap)));
        assert!(matches!(empty, Err(MemoryError::Size)));
        assert!(matches!(wrapping, Err(MemoryError::Size)));
        table.add(spec(0x2000, 0x1000), &memfd(0x1000), false).unwrap();
    }

    #[test]
    fn the_strict_take_only_memory_that_cannot_shrink() {
        let file = memfd(0x1000);
        let mut table = MemoryTable::default();
        let error = table.add(spec(0, 0x1000), &file, true).unwrap_err();
        assert!(matches!(error, MemoryError::NotSealed));

        fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK)).unwrap();

        table.add(spec(0, 0x1000), &file, true).unwrap();
    }

    #[test]
    fn only_a_region_that_is_there_can_be_removed() {
        let mut table = MemoryTable::default();
        table.add(spec(0, 0x1000), &memfd(0x1000), false).unwrap();
        assert!(matches!(table.remove(spec(0, 0x2000)), Err(MemoryError::Unknown)));
        table.remove(spec(0, 0x1000)).unwrap();
        assert!(matches!(table.remove(spec(0, 0x1000)), Err(MemoryError::Unknown)));
    }
}
