//! The cluster map: for each cluster of the disk, whether it is Clean, Zero, or Dirty in which slot.
//!
//! One 32-bit word a cluster in an array that starts as zeros and costs memory only where it was written: 4 bytes for
//! each 4 KiB of the disk, in pages of 1024 clusters. An operator's limit bounds those pages: [`ClusterMap::admit`] comes
//! before the work whose result [`ClusterMap::set`] records, so that a limit is noticed before anything is written.
//!
//! A word changes only while its region's lock is held exclusively; the order of accesses is the lock's affair.

use super::OverlayError;
use crate::mapping::ZeroedWords;
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
    /// Slots there can be: two words of the map mean Clean and Zero.
    pub(crate) const MAX: u32 = u32::MAX - 2;

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
            Self::Dirty(slot) => slot.0.saturating_add(FIRST_SLOT),
        }
    }
}

/// Clusters whose words share a page of memory.
const CLUSTERS_A_PAGE: u64 = 1024;

/// Bytes of such a page.
const PAGE_BYTES: u64 = 4096;

/// The map.
#[derive(Debug)]
pub(crate) struct ClusterMap {
    words: ZeroedWords,
    /// One bit for each page of `words` that was admitted.
    admitted: ZeroedWords,
    pages: AtomicU64,
    max_pages: u64,
    /// Clusters that are Zero.
    zeros: AtomicU64,
}

impl ClusterMap {
    /// A map of `clusters` clean clusters that may take `max_bytes` of memory.
    ///
    /// # Errors
    /// When the address space cannot be reserved.
    pub(crate) fn new(clusters: u64, max_bytes: u64) -> io::Result<Self> {
        let pages = clusters.div_ceil(CLUSTERS_A_PAGE);
        Ok(Self {
            words: ZeroedWords::new(clusters)?,
            admitted: ZeroedWords::new(pages.div_ceil(u64::from(u32::BITS)))?,
            pages: AtomicU64::new(0),
            max_pages: max_bytes / PAGE_BYTES,
            zeros: AtomicU64::new(0),
        })
    }

    /// Where the bytes of `cluster` are.
    pub(crate) fn state(&self, cluster: Cluster) -> State {
        usize::try_from(cluster.0)
            .ok()
            .and_then(|index| self.words.get(index))
            .map_or(State::Clean, |word| State::from_word(word.load(Ordering::Relaxed)))
    }

    /// Records where the bytes of `cluster`, which was admitted, are.
    pub(crate) fn set(&self, cluster: Cluster, state: State) {
        let word = usize::try_from(cluster.0).ok().and_then(|index| self.words.get(index));
        debug_assert!(word.is_some(), "a checked range lies on the disk");
        if let Some(word) = word {
            // Only who holds the region's lock writes the word, so that nothing changes it between the two.
            let before = word.load(Ordering::Relaxed);
            word.store(state.word(), Ordering::Relaxed);
            self.count_zero(before, state.word());
        }
    }

    fn count_zero(&self, before: u32, after: u32) {
        match (before == ZERO, after == ZERO) {
            (false, true) => _ = self.zeros.fetch_add(1, Ordering::Relaxed),
            (true, false) => _ = self.zeros.fetch_sub(1, Ordering::Relaxed),
            (false, false) | (true, true) => {}
        }
    }

    /// Clusters that are Zero.
    pub(crate) fn zeros(&self) -> u64 {
        self.zeros.load(Ordering::Relaxed)
    }

    /// Bytes of memory that may be touched.
    pub(crate) fn limit_bytes(&self) -> u64 {
        self.max_pages.saturating_mul(PAGE_BYTES)
    }

    /// Makes sure that words of `clusters` may be written.
    ///
    /// # Errors
    /// [`OverlayError::MapLimitReached`].
    pub(crate) fn admit(&self, clusters: Range<u64>) -> Result<(), OverlayError> {
        if clusters.is_empty() {
            return Ok(());
        }
        let last = clusters.end.saturating_sub(1) / CLUSTERS_A_PAGE;
        for page in clusters.start / CLUSTERS_A_PAGE..=last {
            self.admit_page(page)?;
        }
        Ok(())
    }

    fn admit_page(&self, page: u64) -> Result<(), OverlayError> {
        let bit = 1u32 << (page % u64::from(u32::BITS));
        let word = usize::try_from(page / u64::from(u32::BITS))
            .ok()
            .and_then(|index| self.admitted.get(index))
            .ok_or(OverlayError::MapLimitReached)?;
        if word.load(Ordering::Relaxed) & bit != 0 {
            return Ok(());
        }
        // Count first: two regions may admit one page at a time, and the limit must hold even then.
        let counted = self.pages.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |pages| {
            (pages < self.max_pages).then_some(pages.saturating_add(1))
        });
        if counted.is_err() {
            return Err(OverlayError::MapLimitReached);
        }
        if word.fetch_or(bit, Ordering::Relaxed) & bit != 0 {
            // Somebody else admitted it in between: it counts once.
            self.pages.fetch_sub(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Bytes of memory that may have been touched so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.pages.load(Ordering::Relaxed).saturating_mul(PAGE_BYTES)
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
        }
    }

    #[test]
    fn a_new_map_is_clean_and_takes_no_memory() {
        let map = ClusterMap::new(1 << 32, u64::MAX).unwrap();
        assert_eq!(map.state(Cluster((1 << 32) - 1)), State::Clean);
        assert_eq!(map.bytes(), 0);
    }

    #[test]
    fn pages_are_admitted_up_to_the_limit_and_count_once() {
        let map = ClusterMap::new(1 << 20, 3 * 4096).unwrap();

        map.admit(0..1).unwrap();
        map.admit(1..1024).unwrap();
        map.admit(1023..3072).unwrap();

        assert_eq!(map.bytes(), 3 * 4096);
        assert!(matches!(map.admit(3072..3073), Err(OverlayError::MapLimitReached)));
        map.admit(2048..3072).unwrap();
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
            assert_eq!(map.zeros(), zeros);
        }
    }

    #[test]
    fn slots_end_before_the_words_do() {
        assert_eq!(Slot(Slot::MAX).after(0), Some(Slot(Slot::MAX)));
        assert_eq!(Slot(Slot::MAX).after(1), None);
        assert_eq!(Slot(5).after(u64::MAX), None);
    }
}
