//! Which slots of the overlay file are free: handed out lowest first, counted against the operator's limit.
//!
//! Slots are appended until one is given back; given-back ones are used again before the file grows, so that the file
//! never grows beyond its peak use. A bit for each slot says whether it was given back.
//!
//! Knows nothing of files: who gives a slot back has punched it.

use super::OverlayError;
use super::map::Slot;
use crate::mapping::ZeroedWords;
use std::io;
use std::sync::atomic::Ordering;

/// Neighbouring slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotRun {
    pub(crate) first: Slot,
    pub(crate) count: u64,
}

impl SlotRun {
    /// Each of them.
    pub(crate) fn iter(self) -> impl Iterator<Item = Slot> {
        (0..self.count).map_while(move |index| self.first.after(index))
    }
}

/// The slots of one overlay file.
#[derive(Debug)]
pub(crate) struct Slots {
    /// One bit for each slot: given back and not used again.
    free: ZeroedWords,
    free_count: u64,
    /// No slot below this one is free.
    lowest_free: u64,
    /// The slot that comes next when none is free: the end of the file.
    next: u64,
    /// How many may be in use, whatever the disk needs.
    limit: u64,
    /// How many clusters the disk has.
    clusters: u64,
}

impl Slots {
    /// Slots for a disk of at most `clusters` clusters, of which `limit` may be in use at a time; for now for a disk of none.
    ///
    /// # Errors
    /// When the address space for the bits cannot be reserved.
    pub(crate) fn new(clusters: u64, limit: u64) -> io::Result<Self> {
        Ok(Self {
            free: ZeroedWords::new(Self::needed(clusters).div_ceil(u64::from(u32::BITS)))?,
            free_count: 0,
            lowest_free: 0,
            next: 0,
            limit,
            clusters: 0,
        })
    }

    /// Takes all slots back. Nobody may be using one.
    pub(crate) fn clear(&mut self) {
        self.free.clear();
        self.free_count = 0;
        self.lowest_free = 0;
        self.next = 0;
    }

    /// Slots in use.
    pub(crate) fn in_use(&self) -> u64 {
        self.next.saturating_sub(self.free_count)
    }

    /// Lets so many be in use from now on. If more are, none is handed out until enough came back.
    pub(crate) fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
    }

    /// How many may be in use.
    ///
    /// A limit below the size of the disk counts whatever is in use. Without one there is room for what a copy of the disk still
    /// needs, even of a disk that is dirty all over.
    pub(crate) fn limit(&self) -> u64 {
        if self.limit < self.clusters {
            self.limit
        } else {
            Self::needed(self.clusters)
        }
    }

    /// The limit as an operator understands it: none is the size of the disk.
    pub(crate) fn nominal_limit(&self) -> u64 {
        self.limit.min(self.clusters)
    }

    /// The disk has that many clusters now.
    pub(crate) fn grow(&mut self, clusters: u64) {
        self.clusters = clusters;
    }

    /// A slot for each cluster, and another for what a copy of the disk still needs.
    fn needed(clusters: u64) -> u64 {
        clusters.saturating_mul(2).min(u64::from(Slot::MAX))
    }

    /// Takes at least one slot and at most `want`, all neighbours.
    ///
    /// # Errors
    /// [`OverlayError::LimitReached`] when not one more may be used.
    pub(crate) fn take(&mut self, want: u64) -> Result<SlotRun, OverlayError> {
        let want = want.min(self.limit().saturating_sub(self.in_use()));
        if want == 0 {
            return Err(OverlayError::LimitReached);
        }
        let run = if self.free_count > 0 {
            self.take_free(want)
        } else {
            self.append(want)
        };
        run.ok_or(OverlayError::LimitReached)
    }

    fn append(&mut self, want: u64) -> Option<SlotRun> {
        let first = Slot(u32::try_from(self.next).ok()?);
        self.next = self.next.checked_add(want)?;
        Some(SlotRun { first, count: want })
    }

    fn take_free(&mut self, want: u64) -> Option<SlotRun> {
        let first = self.find_free()?;
        let mut count = 0;
        while count < want && self.is_free(first + count) {
            self.mark(first + count, false);
            count += 1;
        }
        self.free_count = self.free_count.saturating_sub(count);
        self.lowest_free = first + count;
        Some(SlotRun {
            first: Slot(u32::try_from(first).ok()?),
            count,
        })
    }

    /// The lowest free slot.
    fn find_free(&self) -> Option<u64> {
        let bits = u64::from(u32::BITS);
        let start = usize::try_from(self.lowest_free / bits).ok()?;
        let words = self.free.get(start..)?;
        let (index, word) = words
            .iter()
            .map(|word| word.load(Ordering::Relaxed))
            .enumerate()
            .find(|(_, word)| *word != 0)?;
        let index = u64::try_from(start.checked_add(index)?).ok()?;
        Some(index * bits + u64::from(word.trailing_zeros()))
    }

    /// Takes back `count` slots from `first` on.
    pub(crate) fn give_back(&mut self, first: Slot, count: u64) {
        let first = u64::from(first.0);
        for slot in first..first.saturating_add(count) {
            debug_assert!(!self.is_free(slot) && slot < self.next, "a slot is given back once");
            self.mark(slot, true);
        }
        self.free_count = self.free_count.saturating_add(count);
        self.lowest_free = self.lowest_free.min(first);
    }

    fn is_free(&self, slot: u64) -> bool {
        let (index, bit) = Self::place(slot);
        self.free
            .get(index)
            .is_some_and(|word| word.load(Ordering::Relaxed) & bit != 0)
    }

    fn mark(&mut self, slot: u64, free: bool) {
        let (index, bit) = Self::place(slot);
        if let Some(word) = self.free.get(index) {
            if free {
                word.fetch_or(bit, Ordering::Relaxed);
            } else {
                word.fetch_and(!bit, Ordering::Relaxed);
            }
        }
    }

    fn place(slot: u64) -> (usize, u32) {
        let bits = u64::from(u32::BITS);
        let index = usize::try_from(slot / bits).unwrap_or(usize::MAX);
        (index, 1 << (slot % bits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn run(first: u32, count: u64) -> SlotRun {
        SlotRun {
            first: Slot(first),
            count,
        }
    }

    fn slots(clusters: u64, limit: u64) -> Slots {
        let mut slots = Slots::new(clusters, limit).unwrap();
        slots.grow(clusters);
        slots
    }

    #[test]
    fn slots_are_appended_in_order() {
        let mut slots = slots(100, 100);
        assert_eq!(slots.take(10).unwrap(), run(0, 10));
        assert_eq!(slots.take(1).unwrap(), run(10, 1));
        assert_eq!(slots.in_use(), 11);
    }

    #[test]
    fn the_limit_is_reached_and_left_again() {
        let mut slots = slots(100, 8);
        assert_eq!(slots.take(10).unwrap(), run(0, 8));
        assert!(matches!(slots.take(1), Err(OverlayError::LimitReached)));

        slots.give_back(Slot(3), 2);

        assert_eq!(slots.take(5).unwrap(), run(3, 2));
        assert!(matches!(slots.take(1), Err(OverlayError::LimitReached)));
    }

    proptest! {
        #[test]
        fn no_slot_is_ever_in_use_twice_and_the_file_never_outgrows_its_peak(
            steps in prop::collection::vec((any::<bool>(), 1u64..40, any::<prop::sample::Index>()), 1..200)
        ) {
            let mut slots = slots(500, 400);
            let mut used = BTreeSet::new();
            let mut peak = 0;
            for (take, count, index) in steps {
                if take {
                    let Ok(run) = slots.take(count) else {
                        prop_assert_eq!(used.len(), 400);
                        continue;
                    };
                    prop_assert!(run.count >= 1 && run.count <= count);
                    for slot in 0..run.count {
                        prop_assert!(used.insert(u64::from(run.first.0) + slot));
                    }
                } else if !used.is_empty() {
                    let slot = *index.get(&used.iter().copied().collect::<Vec<_>>());
                    used.remove(&slot);
                    slots.give_back(Slot(u32::try_from(slot).unwrap()), 1);
                }
                peak = peak.max(used.len() as u64);
                prop_assert_eq!(slots.in_use(), used.len() as u64);
                prop_assert!(slots.next <= peak);
            }
        }
    }
}
