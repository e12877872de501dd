//! The burning disk: a read-only base, and an overlay that holds what the guest changed.
//!
//! The disk is an array of 4 KiB *clusters*, each in one of three states, kept in a map in memory:
//!
//! | | Clean (only the base has it) | Dirty (the overlay has it) | Zero (discarded or zeroed) |
//! | --- | --- | --- | --- |
//! | read | base | overlay | zeros |
//! | write, whole cluster | overlay, then Dirty | overlay | overlay, then Dirty |
//! | write, part | fill from base, then Dirty | overlay | fill from zeros, then Dirty |
//! | discard, write-zeroes, whole | Zero | Zero, then the slot is punched and reused | nothing |
//! | discard, part | nothing (it is advice) | nothing | nothing |
//! | write-zeroes, part | as a write of zeros | as a write of zeros | nothing |
//! | flush | nothing: an overlay that dies with its process has nothing to survive | | |
//!
//! The overlay file is a sequence of 4 KiB *slots*, handed out in order; the map says which slot holds a dirty cluster.
//! So the file is as large as its use, whatever part of the disk the guest writes, and there is no format and no
//! metadata on disk at all: when the process ends, the map is gone and the slots are freed. They are
//! encrypted, under a key that is gone with it, unless the operator wants them in the clear.
//!
//! **Concurrency.** A request is executed in *slices*: its parts inside aligned 1 MiB regions. A slice holds its
//! region's lock throughout: shared for reads, exclusive for whatever changes bytes or states. Hence a cluster's slot
//! cannot be freed, or reused for another cluster, under a reader or writer of it; what a fill prepares is seen by nobody
//! until it is marked Dirty; and no reader decrypts a block of which only a part has arrived in the file. A read
//! concurrent with a write of the same bytes sees old or new bytes of *this* disk, never anything else; a read issued
//! after a write completed sees the write.
//!
//! **Saving.** The disk as it was at one moment can be copied while it changes ([`frozen`]): clusters whose bytes the copy
//! still needs are filled anew when they are written, as if they were Clean, with the old slot instead of the base below.
//!
//! Knows nothing of virtio.

mod fill;
mod floor;
mod frozen;
mod map;
mod pages;
mod pair;
mod parts;
mod regions;
mod runs;
mod scratch;
mod slots;
mod space;
mod store;
mod sync;
mod whole;

use crate::base::Base;
use crate::cold::Part;
use crate::transfer::Buffers;
use floor::Floor;
use map::{Cluster, ClusterMap, Slot, State};
use protocol::units::ByteRange;
use regions::{REGION_BYTES, Regions};
use runs::Run;
use slots::Slots;
use std::io;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use store::Store;
use sync::{Mutex, MutexGuard};
use thiserror::Error;
use whole::reserve;

pub(crate) use floor::FloorReached;
pub(crate) use frozen::{Frozen, FrozenRun};
pub(crate) use parts::Parts;
pub(crate) use regions::REGION_BYTES as SLICE_BYTES;
pub(crate) use scratch::Scratch;
pub(crate) use store::{OverlayDir, OverlayFile, OverlayFileError};
pub(crate) use whole::{GrowError, map_bytes, most_bytes};

/// Bytes in a cluster, and in a slot. A page: what guests' file systems write whole, so that nothing needs filling.
pub(crate) const CLUSTER_BYTES: u64 = 4096;

/// The same, for buffers.
pub(crate) const CLUSTER: usize = 4096;

/// What a worker lends to the request it executes.
#[derive(Debug)]
pub(crate) struct Work<'w> {
    /// Set when the ring must stop: no further slice is begun.
    pub(crate) stop: &'w AtomicBool,
    /// The worker's own.
    pub(crate) scratch: &'w mut Scratch,
}

impl Work<'_> {
    /// Whether the ring must stop.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Whether the next slice may be begun.
    ///
    /// # Errors
    /// [`OverlayError::Stopped`].
    pub(crate) fn go_on(&self) -> Result<(), OverlayError> {
        if self.is_stopped() {
            Err(OverlayError::Stopped)
        } else {
            Ok(())
        }
    }
}

/// Why an operation was not carried out whole.
#[derive(Debug, Error)]
pub(crate) enum OverlayError {
    /// The ring was told to stop between two slices.
    #[error("stopped")]
    Stopped,
    /// Storage has to deliver something first, and there was no patience for that: what, is noted.
    #[error("storage has to deliver something first")]
    Cold,
    /// The operator's limit on the overlay is reached.
    #[error("the overlay has reached its limit")]
    LimitReached,
    /// The overlay's file system has no more space than is to stay free.
    #[error("there is no space to spare")]
    FloorReached(#[from] FloorReached),
    /// The operator's limit on the map's memory is reached.
    #[error("the cluster map has reached its limit")]
    MapLimitReached,
    /// The host's file system failed, or is full.
    #[error("cannot {doing}")]
    Io {
        doing: &'static str,
        #[source]
        source: io::Error,
    },
}

impl OverlayError {
    /// Of something that was read or written.
    pub(crate) fn io(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| {
            if source.kind() == io::ErrorKind::WouldBlock {
                Self::Cold
            } else {
                Self::Io { doing, source }
            }
        }
    }
}

/// Reads from the base as long as the worker has patience.
pub(crate) fn read_base(
    base: &Base,
    range: ByteRange,
    into: Buffers<'_>,
    work: &mut Work<'_>,
) -> Result<(), OverlayError> {
    let cold = &mut work.scratch.cold;
    let read = base.read(range, into, cold.patience());
    cold.note(&read, Part::Base, range.start(), range.len());
    read.map_err(OverlayError::io("read the base"))
}

/// Limits an operator sets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Most bytes of overlay in use.
    pub(crate) overlay_bytes: u64,
    /// Most bytes of memory for the cluster map.
    pub(crate) map_bytes: u64,
    /// Bytes that the overlay's file system keeps free.
    pub(crate) keep_free_bytes: u64,
}

/// A disk that burns.
#[derive(Debug)]
pub(crate) struct Overlay {
    base: Base,
    /// Bytes of the disk: never less than the base's.
    bytes: AtomicU64,
    /// What it can grow to.
    most_bytes: u64,
    store: Store,
    map: ClusterMap,
    slots: Mutex<Slots>,
    floor: Floor,
    regions: Regions,
}

impl Overlay {
    /// A pristine disk over `base`.
    ///
    /// # Errors
    /// When the address space for the map cannot be reserved.
    pub(crate) fn new(base: Base, files: [OverlayFile; 2], limits: Limits) -> io::Result<Self> {
        let bytes = base.capacity().bytes();
        // Where there is no address space for a larger disk, this one cannot grow.
        let (map, slots, most_bytes) = reserve(most_bytes(bytes), limits).or_else(|_| reserve(bytes, limits))?;
        let mut slots = slots;
        slots.grow(bytes.div_ceil(CLUSTER_BYTES));
        Ok(Self {
            map,
            slots: Mutex::new(slots),
            floor: Floor::new(limits.keep_free_bytes),
            most_bytes,
            store: Store::new(files),
            regions: Regions::new(),
            bytes: AtomicU64::new(bytes),
            base,
        })
    }

    /// The image below.
    pub(crate) fn base(&self) -> &Base {
        &self.base
    }

    /// Waits until storage has delivered a place of the overlay's file.
    pub(crate) fn warm(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.store.warm(offset, into)
    }

    /// Reads `range` into the guest's buffers, which are as long.
    ///
    /// # Errors
    /// [`OverlayError`]; what the buffers then hold is unspecified, but always bytes of this disk.
    pub(crate) fn read(&self, range: ByteRange, into: Buffers<'_>, work: &mut Work<'_>) -> Result<(), OverlayError> {
        let mut rest = into;
        let mut parts = Parts::default();
        for slice in range.pieces(REGION_BYTES) {
            work.go_on()?;
            let _shared = self.regions.shared(slice);
            for run in self.runs(slice) {
                let now;
                (now, rest) = rest.split_at(run.part.len());
                parts.go_on(self.read_run(run, now, work))?;
            }
        }
        parts.all_found()
    }

    fn read_run(&self, run: Run, into: Buffers<'_>, work: &mut Work<'_>) -> Result<(), OverlayError> {
        match run.state {
            State::Clean => read_base(&self.base, run.part, into, work),
            State::Dirty(slot) | State::Held(slot) => self
                .store
                .read(slot, run.within_cluster(), into, work.scratch)
                .map_err(OverlayError::io("read the overlay")),
            State::Zero => {
                into.fill_zero();
                Ok(())
            }
        }
    }

    /// Writes the guest's buffers to `range`, which is as long.
    ///
    /// # Errors
    /// [`OverlayError`]; each cluster then holds its old bytes or the new ones.
    pub(crate) fn write(&self, range: ByteRange, from: Buffers<'_>, work: &mut Work<'_>) -> Result<(), OverlayError> {
        let mut rest = from;
        let mut parts = Parts::default();
        for slice in range.pieces(REGION_BYTES) {
            work.go_on()?;
            let now;
            (now, rest) = rest.split_at(slice.len());
            parts.go_on(self.write_slice(slice, now, work))?;
        }
        parts.all_found()
    }

    fn write_slice(&self, slice: ByteRange, from: Buffers<'_>, work: &mut Work<'_>) -> Result<(), OverlayError> {
        let _exclusive = self.regions.exclusive(slice);
        let mut rest = from;
        let mut parts = Parts::default();
        for run in self.runs_to_change(slice) {
            let now;
            (now, rest) = rest.split_at(run.part.len());
            match run.state {
                State::Dirty(slot) => self
                    .store
                    .write(slot, run.within_cluster(), now, work.scratch)
                    .map_err(OverlayError::io("write the overlay"))?,
                State::Clean | State::Zero | State::Held(_) => parts.go_on(self.fill(run, now, work))?,
            }
        }
        parts.all_found()
    }

    /// Forgets the clusters that lie wholly within `range`; they read as zeros afterwards.
    ///
    /// # Errors
    /// [`OverlayError`]; each cluster is then as it was, or Zero.
    pub(crate) fn discard(&self, range: ByteRange, work: &Work<'_>) -> Result<(), OverlayError> {
        for slice in range.pieces(REGION_BYTES) {
            work.go_on()?;
            let _exclusive = self.regions.exclusive(slice);
            self.forget(self.whole_clusters(slice))?;
        }
        Ok(())
    }

    /// Makes exactly `range` read as zeros, giving back the space of whole clusters.
    ///
    /// # Errors
    /// [`OverlayError`]; each sector then has its old bytes or reads as zeros.
    pub(crate) fn write_zeroes(&self, range: ByteRange, work: &mut Work<'_>) -> Result<(), OverlayError> {
        let mut parts = Parts::default();
        for slice in range.pieces(REGION_BYTES) {
            work.go_on()?;
            let _exclusive = self.regions.exclusive(slice);
            let whole = self.whole_clusters(slice);
            parts.go_on(self.zero_part(slice.within(slice.start(), whole.start()), work))?;
            self.forget(whole)?;
            let tail = slice.within(whole.end().max(whole.start()), slice.end());
            parts.go_on(self.zero_part(tail, work))?;
        }
        parts.all_found()
    }

    /// Makes whole clusters Zero and frees their slots.
    fn forget(&self, whole: ByteRange) -> Result<(), OverlayError> {
        self.runs_to_change(whole).try_for_each(|run| self.forget_run(run))
    }

    fn forget_run(&self, run: Run) -> Result<(), OverlayError> {
        if run.state == State::Zero {
            return Ok(());
        }
        self.map.admit(run.clusters())?;
        // The disk may be frozen at any moment, also since the run was looked up: from there on the slots are the copy's, and those
        // that are free are the first ones.
        let mut free = 0;
        for cluster in run.clusters() {
            let is_kept = self.map.set(Cluster(cluster), State::Zero);
            free += u64::from(!is_kept);
        }
        if let State::Dirty(slot) = run.state {
            self.release(slot, free);
        }
        Ok(())
    }

    /// Gives slots back, once no cluster names them: first their space, then the slots themselves, so that a punch
    /// cannot hit a slot's next owner.
    fn release(&self, first: Slot, count: u64) {
        if count == 0 {
            return;
        }
        // A file system that cannot punch keeps the space until the helper ends; the slot is reused all the same, so
        // the overlay does not grow, and no answer depends on the punch.
        let _ = self.store.punch(first, count);
        self.slots().give_back(first, count);
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn runs(&self, range: ByteRange) -> impl Iterator<Item = Run> {
        runs::runs(range, |cluster| self.map.state(cluster))
    }

    /// The same for who holds the region's lock exclusively and is about to change it.
    fn runs_to_change(&self, range: ByteRange) -> impl Iterator<Item = Run> {
        runs::runs(range, |cluster| self.map.state_to_change(cluster))
    }

    /// The part of `range` that covers clusters wholly. The disk's last cluster is whole where the disk ends.
    fn whole_clusters(&self, range: ByteRange) -> ByteRange {
        let start = range
            .start()
            .checked_next_multiple_of(CLUSTER_BYTES)
            .unwrap_or(u64::MAX);
        let end = if range.end() == self.capacity().bytes() {
            range.end()
        } else {
            range.end() - range.end() % CLUSTER_BYTES
        };
        range.within(start, end)
    }
}

#[cfg(test)]
mod tests;
