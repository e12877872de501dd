//! The locks that the overlay's correctness rests on, and the one atomic that decides what a copy of the disk contains. With the
//! feature `shuttle` they are ones that let a test decide which thread goes on at each of them (`tests/interleavings.rs`).

#[cfg(feature = "shuttle")]
pub(super) use shuttle::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, atomic::AtomicU64};
#[cfg(not(feature = "shuttle"))]
pub(super) use std::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, atomic::AtomicU64};
