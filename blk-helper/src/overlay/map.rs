//! The cluster map: for each cluster of the disk, whether it is Clean, Zero, or Dirty in which slot.
//!
//! One 32-bit word a cluster, which costs memory only where it was written: 4 bytes for each 4 KiB of the disk, in pages of
//! 1024 clusters. An operator's limit bounds those pages: [`ClusterMap::admit`] comes before the work whose result
//! [`ClusterMap::set`] records, so that a limit is noticed before anything is written.
//!
//! **A frozen map** ([`ClusterMap::freeze`]) remembers what it was, for who copies the disk from its beginning to its end while
//! it changes. A cluster at or beyond the copy's place that changes for the first time *keeps* its old word beside the new one; a
//! slot in a kept word belongs to the copy and is not written, freed or reused until the copy has passed
//! ([`ClusterMap::thaw`]). So freezing is one store, whatever the size of the disk, and costs memory only for what changes
//! during the copy: at most as much as the map itself.
//!
//! A word changes only while its region's lock is held exclusively; the order of accesses is the lock's affair. The place of the
//! copy is read under that lock too. A change that begins after the freeze sees it; one that a guest issued because another,
//! which saw it, was completed, sees it as well: hence what is frozen is one moment of the whole disk.

use super::OverlayError;
use super::pages::{CountedWords, Full};
use super::sync;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// The index of a cluster of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cluster(pub(crate) u64);

/// The index of a slot of the overlay file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Slot(pub(crate) u32);

impl Slot {
    /// Slots there can be: two words of the map mean Clean and Zero, and a kept word is larger by one.
    pub(crate) const MAX: u32 = u32::MAX - 3;

    /// The slot `count` further on.
    pub(crate) fn after(self, count: u64) -> Option<Self> {
        let index = u64::from(self.0).checked_add(count)?;
        u32::try_from(index).ok().filter(|i| *i <= Self::MAX).map(Self)
    }
}

/// Where the bytes of a cluster are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// In the base.
    Clean,
    /// Nowhere: it reads as zeros.
    Zero,
    /// In this slot of the overlay.
    Dirty(Slot),
    /// As Dirty, to who wants to change it: but the slot belongs to a copy as well, so what is new goes elsewhere.
    Held(Slot),
}

const CLEAN: u32 = 0;
const ZERO: u32 = 1;
const FIRST_SLOT: u32 = 2;

impl State {
    fn from_word(word: u32) -> Self {
        match word {
            CLEAN => Self::Clean,
            ZERO => Self::Zero,
            word => Self::Dirty(Slot(word - FIRST_SLOT)),
        }
    }

    fn word(self) -> u32 {
        match self {
            Self::Clean => CLEAN,
            Self::Zero => ZERO,
            Self::Dirty(slot) | Self::Held(slot) => slot.0.saturating_add(FIRST_SLOT),
        }
    }
}

/// Where the copy is when there is none.
const NOWHERE: u64 = u64::MAX;

/// The map.
#[derive(Debug)]
pub(crate) struct ClusterMap {
    words: CountedWords,
    /// What frozen clusters were, plus one; 0 where nothing is kept.
    kept: CountedWords,
    /// No cluster below this one is frozen.
    frozen_from: sync::AtomicU64,
    dirty: AtomicU64,
    zero: AtomicU64,
}

/// How many clusters are what, and the memory that knowing it takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MapStatus {
    pub(crate) dirty: u64,
    pub(crate) zero: u64,
    pub(crate) bytes: u64,
    pub(crate) max_bytes: u64,
}

impl ClusterMap {
    /// A map of `clusters` clean clusters that may take `max_bytes` of memory, and as much again while it is frozen.
    ///
    /// # Errors
    /// When the address space cannot be reserved.
    pub(crate) fn new(clusters: u64, max_bytes: u64) -> io::Result<Self> {
        Ok(Self {
            words: CountedWords::new(clusters, max_bytes)?,
            kept: CountedWords::new(clusters, u64::MAX)?,
            frozen_from: sync::AtomicU64::new(NOWHERE),
            dirty: AtomicU64::new(0),
            zero: AtomicU64::new(0),
        })
    }

    /// Where the bytes of `cluster` are.
    pub(crate) fn state(&self, cluster: Cluster) -> State {
        State::from_word(self.words.get(cluster.0))
    }

    /// The same for who is about to change them: Held instead of Dirty where a copy needs the slot.
    pub(crate) fn state_to_change(&self, cluster: Cluster) -> State {
        match self.state(cluster) {
            State::Dirty(slot) if self.must_keep(cluster) => State::Held(slot),
            state @ (State::Clean | State::Zero | State::Dirty(_) | State::Held(_)) => state,
        }
    }

    /// Where the bytes of `cluster`, which the copy has not passed, were when the map was frozen.
    pub(crate) fn frozen_state(&self, cluster: Cluster) -> State {
        match self.kept.get(cluster.0).checked_sub(1) {
            Some(word) => State::from_word(word),
            None => self.state(cluster),
        }
    }

    /// Records where the bytes of `cluster`, which was admitted, are. Says whether a copy keeps what it was: then its slot is not
    /// free, also if it was looked up, as Dirty, just before the map was frozen.
    pub(crate) fn set(&self, cluster: Cluster, state: State) -> bool {
        let old = self.state(cluster);
        let keeps = self.must_keep(cluster);
        if keeps {
            // Cannot be full: only pages of the map that were admitted have one here, and the map has a limit.
            let admitted = self.kept.admit(cluster.0..cluster.0.saturating_add(1));
            debug_assert!(admitted.is_ok(), "what is kept has no limit of its own");
            self.kept.set(cluster.0, old.word().saturating_add(1));
        }
        self.words.set(cluster.0, state.word());
        if let Some(counter) = self.counter(old) {
            counter.fetch_sub(1, Ordering::Relaxed);
        }
        if let Some(counter) = self.counter(state) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        keeps
    }

    fn counter(&self, state: State) -> Option<&AtomicU64> {
        match state {
            State::Clean => None,
            State::Zero => Some(&self.zero),
            State::Dirty(_) | State::Held(_) => Some(&self.dirty),
        }
    }

    fn must_keep(&self, cluster: Cluster) -> bool {
        cluster.0 >= self.frozen_from.load(Ordering::Acquire) && self.kept.get(cluster.0) == 0
    }

    /// Makes sure that words of `clusters` may be written.
    ///
    /// # Errors
    /// [`OverlayError::MapLimitReached`].
    pub(crate) fn admit(&self, clusters: Range<u64>) -> Result<(), OverlayError> {
        self.words.admit(clusters).map_err(|Full| OverlayError::MapLimitReached)
    }

    /// From now on remembers what every cluster was at this moment. Nothing may be frozen already.
    pub(crate) fn freeze(&self) {
        self.frozen_from.store(0, Ordering::Release);
    }

    /// Whether something is frozen.
    pub(crate) fn is_frozen(&self) -> bool {
        self.frozen_from.load(Ordering::Acquire) != NOWHERE
    }

    /// The copy has passed everything up to the end of `clusters`: forgets what they were, and tells `release` of the slots that
    /// only the copy needed.
    pub(crate) fn thaw(&self, clusters: Range<u64>, mut release: impl FnMut(Slot)) {
        self.frozen_from.fetch_max(clusters.end, Ordering::Release);
        for cluster in self.kept.admitted(clusters) {
            if let Some(word) = self.kept.get(cluster).checked_sub(1) {
                self.kept.set(cluster, 0);
                if let State::Dirty(slot) = State::from_word(word) {
                    release(slot);
                }
            }
        }
    }

    /// The copy has passed every cluster, or was given up and each was thawed all the same.
    pub(crate) fn thawed(&self) {
        self.frozen_from.store(NOWHERE, Ordering::Release);
        self.kept.clear();
    }

    /// Makes every cluster Clean. Nobody else may use the map meanwhile, and nothing may be frozen.
    pub(crate) fn clear(&self) {
        self.words.clear();
        self.dirty.store(0, Ordering::Relaxed);
        self.zero.store(0, Ordering::Relaxed);
    }

    /// How it is.
    pub(crate) fn status(&self) -> MapStatus {
        MapStatus {
            dirty: self.dirty.load(Ordering::Relaxed),
            zero: self.zero.load(Ordering::Relaxed),
            bytes: self.words.bytes().saturating_add(self.kept.bytes()),
            max_bytes: self.words.max_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_survives_the_word() {
        for state in [
            State::Clean,
            State::Zero,
            State::Dirty(Slot(0)),
            State::Dirty(Slot(Slot::MAX)),
        ] {
            assert_eq!(State::from_word(state.word()), state);
            assert!(state.word().checked_add(1).is_some(), "it cannot be kept");
        }
    }

    #[test]
    fn a_new_map_is_clean_and_takes_no_memory() {
        let map = ClusterMap::new(1 << 32, u64::MAX).unwrap();
        assert_eq!(map.state(Cluster((1 << 32) - 1)), State::Clean);
        assert_eq!(map.status().bytes, 0);
    }

    #[test]
    fn a_frozen_cluster_keeps_what_it_was_when_it_first_changes() {
        let map = ClusterMap::new(4096, u64::MAX).unwrap();
        map.admit(0..3).unwrap();
        map.set(Cluster(0), State::Dirty(Slot(5)));
        map.set(Cluster(1), State::Dirty(Slot(6)));
        map.freeze();
        assert_eq!(map.state_to_change(Cluster(0)), State::Held(Slot(5)));

        map.set(Cluster(0), State::Dirty(Slot(7)));
        map.set(Cluster(0), State::Dirty(Slot(8)));
        map.set(Cluster(2), State::Zero);

        assert_eq!(map.state_to_change(Cluster(0)), State::Dirty(Slot(8)));
        assert_eq!(map.frozen_state(Cluster(0)), State::Dirty(Slot(5)));
        assert_eq!(map.frozen_state(Cluster(1)), State::Dirty(Slot(6)));
        assert_eq!(map.frozen_state(Cluster(2)), State::Clean);
        assert_eq!(map.status().bytes, 2 * 4096);
    }

    #[test]
    fn what_is_thawed_gives_back_the_slots_that_only_the_copy_needed() {
        let map = ClusterMap::new(4096, u64::MAX).unwrap();
        map.admit(0..3).unwrap();
        for cluster in 0..3 {
            map.set(Cluster(u64::from(cluster)), State::Dirty(Slot(cluster)));
        }
        map.freeze();
        map.set(Cluster(0), State::Zero);
        map.set(Cluster(1), State::Dirty(Slot(9)));
        let mut released = Vec::new();

        map.thaw(0..1, |slot| released.push(slot));
        assert_eq!(released, [Slot(0)]);
        assert_eq!(map.state_to_change(Cluster(2)), State::Held(Slot(2)));
        map.thaw(1..4096, |slot| released.push(slot));
        map.thawed();

        assert_eq!(released, [Slot(0), Slot(1)]);
        assert_eq!(map.state_to_change(Cluster(2)), State::Dirty(Slot(2)));
        let status = map.status();
        assert_eq!((status.dirty, status.zero, status.bytes), (2, 1, 4096));
    }

    #[test]
    fn zero_clusters_are_counted_as_they_come_and_go() {
        let map = ClusterMap::new(8, u64::MAX).unwrap();
        for (cluster, state, zeros) in [
            (0, State::Zero, 1),
            (0, State::Zero, 1),
            (1, State::Zero, 2),
            (0, State::Dirty(Slot(0)), 1),
            (1, State::Clean, 0),
            (1, State::Clean, 0),
        ] {
            map.set(Cluster(cluster), state);
            assert_eq!(map.status().zero, zeros);
        }
    }

    #[test]
    fn slots_end_before_the_words_do() {
        assert_eq!(Slot(Slot::MAX).after(0), Some(Slot(Slot::MAX)));
        assert_eq!(Slot(Slot::MAX).after(1), None);
        assert_eq!(Slot(5).after(u64::MAX), None);
    }
}
