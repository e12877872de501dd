//! One lock for each 1 MiB region of the disk, striped over a fixed number of locks.
//!
//! A slice of a request lies in one region and holds one lock, so there is no order to get wrong. Two regions may share a
//! lock; that costs waiting, never correctness.

use super::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use protocol::units::ByteRange;
use std::sync::PoisonError;

/// Bytes in a region, and hence the most that one slice moves.
pub(crate) const REGION_BYTES: u64 = 1 << 20;

/// Locks to share. A request of a thread waits for another's with a chance of about threads / STRIPES; that 256 suffice
/// for the handful of workers there are is arithmetic, not measurement.
const STRIPES: usize = 256;

/// The locks.
#[derive(Debug)]
pub(crate) struct Regions {
    locks: Box<[RwLock<()>; STRIPES]>,
}

impl Regions {
    pub(crate) fn new() -> Self {
        Self {
            locks: Box::new([const { RwLock::new(()) }; STRIPES]),
        }
    }

    /// Keeps the states of the region of `slice` as they are.
    pub(crate) fn shared(&self, slice: ByteRange) -> RwLockReadGuard<'_, ()> {
        self.lock(slice).read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the states of the region of `slice` be changed, with nobody reading or writing its clusters.
    pub(crate) fn exclusive(&self, slice: ByteRange) -> RwLockWriteGuard<'_, ()> {
        self.lock(slice).write().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self, slice: ByteRange) -> &RwLock<()> {
        let stripes = u64::try_from(STRIPES).unwrap_or(1);
        let index = usize::try_from(slice.start() / REGION_BYTES % stripes).unwrap_or(0);
        self.locks.get(index).unwrap_or(&self.locks[0])
    }
}
