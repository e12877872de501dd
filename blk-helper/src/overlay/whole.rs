//! An overlay as a whole: how large it is, and what makes it grow or pristine.

use super::map::ClusterMap;
use super::slots::Slots;
use super::store::OverlayFile;
use super::{CLUSTER_BYTES, Limits, Overlay};
use protocol::units::Capacity;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::sync::atomic::Ordering;
use thiserror::Error;

/// Why a disk does not get the size it is to have.
#[derive(Debug, Error)]
pub(crate) enum GrowError {
    #[error("it has {now} bytes, and disks only grow")]
    Shrinks { now: u64 },
    #[error("it can have {most} bytes at most: four times what it had at the start, or 1 TiB if that is more")]
    TooLarge { most: u64 },
}

/// The most that the map of a disk of `bytes` bytes can take.
pub(crate) fn map_bytes(bytes: u64) -> u64 {
    bytes.div_ceil(CLUSTER_BYTES).saturating_mul(4).next_multiple_of(4096)
}

/// What a disk of `bytes` bytes can grow to: address space is reserved for it at the start.
pub(crate) fn most_bytes(bytes: u64) -> u64 {
    let most = bytes.saturating_mul(4).max(1 << 40);
    // A file offset must reach its end.
    most.min(u64::try_from(i64::MAX).unwrap_or(0) / CLUSTER_BYTES * CLUSTER_BYTES)
        .max(bytes)
}

/// A map and slots for a disk that can grow to `bytes` bytes.
pub(super) fn reserve(bytes: u64, limits: Limits) -> io::Result<(ClusterMap, Slots, u64)> {
    let clusters = bytes.div_ceil(CLUSTER_BYTES);
    let map = ClusterMap::new(clusters, limits.map_bytes)?;
    let slots = Slots::new(clusters, limits.overlay_bytes / CLUSTER_BYTES)?;
    Ok((map, slots, bytes))
}

impl Overlay {
    /// The size of the disk.
    pub(crate) fn capacity(&self) -> Capacity {
        // Only capacities are ever stored there.
        Capacity::of_image(self.bytes.load(Ordering::Acquire)).unwrap_or(self.base.capacity())
    }

    /// The overlay's file that is in use.
    pub(crate) fn file(&self) -> &OverlayFile {
        self.store.file()
    }

    /// Makes the disk `capacity` large: what is new reads as zeros. Nobody may be copying it.
    ///
    /// # Errors
    /// [`GrowError`].
    pub(crate) fn grow(&self, capacity: Capacity) -> Result<(), GrowError> {
        let now = self.capacity().bytes();
        if capacity.bytes() < now {
            return Err(GrowError::Shrinks { now });
        }
        if capacity.bytes() > self.most_bytes {
            return Err(self.too_large());
        }
        self.slots().grow(capacity.bytes().div_ceil(CLUSTER_BYTES));
        self.bytes.store(capacity.bytes(), Ordering::Release);
        Ok(())
    }

    /// Why it does not grow to more than it can have; there are sizes that are no disk's ([`Capacity::of_image`]).
    pub(crate) fn too_large(&self) -> GrowError {
        GrowError::TooLarge { most: self.most_bytes }
    }

    /// Both files.
    pub(crate) fn files(&self) -> [BorrowedFd<'_>; 2] {
        self.store.file().both().each_ref().map(OverlayFile::as_fd)
    }

    /// Their numbers: in use at the start, and spare.
    pub(crate) fn numbers(&self) -> [RawFd; 2] {
        self.store.file().both().each_ref().map(OverlayFile::number)
    }

    /// Makes the disk pristine. Whoever calls has made sure that nobody copies the disk and that no request is executed meanwhile,
    /// and has what is left given back ([`Self::give_back_leftover`]).
    pub(crate) fn reset(&self) {
        self.map.clear();
        self.slots().clear();
        self.store.file().turn_if_ready();
    }

    /// Gives the space of the file that is not in use back, however long that takes. Resets in the meantime, and all if this fails,
    /// leave the space of the other one where it is, for what is written next.
    pub(crate) fn give_back_leftover(&self) {
        if let Err(error) = self.store.file().empty_spare() {
            log::warn!("cannot give back what a reset left: {error}; its space stays taken");
        }
    }
}
