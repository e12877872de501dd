//! A byte range over the map becomes *runs*: maximal stretches whose clusters are in one state, and where that is Dirty,
//! in neighbouring slots. A run is what one system call can serve.
//!
//! Pure: it asks a function for states, and does nothing else.

use super::CLUSTER_BYTES;
use super::map::{Cluster, State};
use protocol::units::ByteRange;
use std::ops::Range;

/// A stretch of a range in one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// The state of its first cluster; a dirty run's other clusters are in the slots that follow.
    pub(crate) state: State,
    /// Its bytes: whole clusters, except perhaps at the two ends of the range.
    pub(crate) part: ByteRange,
}

impl Run {
    /// The clusters it touches.
    pub(crate) fn clusters(self) -> Range<u64> {
        clusters_of(self.part)
    }

    /// Where in its first cluster it begins, in bytes.
    pub(crate) fn within_cluster(self) -> u64 {
        self.part.start() % CLUSTER_BYTES
    }
}

/// The clusters that `range` touches: none if it is empty, wherever it lies.
pub(crate) fn clusters_of(range: ByteRange) -> Range<u64> {
    let first = range.start() / CLUSTER_BYTES;
    if range.is_empty() {
        first..first
    } else {
        first..range.end().div_ceil(CLUSTER_BYTES)
    }
}

/// The runs of `range`, in order.
pub(crate) fn runs(range: ByteRange, state_of: impl Fn(Cluster) -> State) -> impl Iterator<Item = Run> {
    let mut rest = range;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let clusters = clusters_of(rest);
        let state = state_of(Cluster(clusters.start));
        let mut count = 1;
        while clusters.start + count < clusters.end
            && state_of(Cluster(clusters.start + count)) == continued(state, count)
        {
            count += 1;
        }
        let end = (clusters.start + count).saturating_mul(CLUSTER_BYTES);
        let run = Run {
            state,
            part: rest.within(rest.start(), end),
        };
        rest = rest.within(end, rest.end());
        Some(run)
    })
}

/// What the cluster `count` after one in `state` must be to belong to its run.
fn continued(state: State, count: u64) -> State {
    match state {
        // A slot past the last continues nothing: a state that no neighbour can have.
        State::Dirty(slot) => slot.after(count).map_or(state, State::Dirty),
        State::Held(slot) => slot.after(count).map_or(state, State::Held),
        State::Clean | State::Zero => state,
    }
}

#[cfg(test)]
mod tests {
    use super::super::map::Slot;
    use super::*;
    use proptest::prelude::*;
    use protocol::units::{Capacity, Sector, SectorCount};

    fn any_state() -> impl Strategy<Value = State> {
        prop_oneof![
            Just(State::Clean),
            Just(State::Zero),
            (0u32..6).prop_map(|slot| State::Dirty(Slot(slot)))
        ]
    }

    /// Exhaustive: every map of four clusters out of eight states (slots at both ends of their numbers, each in one cluster only),
    /// and every range that begins and ends at a cluster, a sector behind it or a sector before the next.
    #[test]
    fn in_every_small_map_runs_cover_every_range_and_are_maximal() {
        const LAST: u32 = u32::MAX;
        let states = [
            State::Clean,
            State::Zero,
            State::Dirty(Slot(0)),
            State::Dirty(Slot(1)),
            State::Dirty(Slot(LAST - 1)),
            State::Dirty(Slot(LAST)),
            State::Held(Slot(2)),
            State::Held(Slot(3)),
        ];
        let points: Vec<u64> = (0..4)
            .flat_map(|cluster| [0, 1, 7].map(|by| cluster * 8 + by))
            .chain([32])
            .collect();
        let disk = Capacity::of_image(4 * CLUSTER_BYTES).unwrap();
        let mut tried = 0;
        for number in 0..8_usize.pow(4) {
            let map: Vec<State> = (0..4).map(|place| states[number >> (3 * place) & 7]).collect();
            let twice = |at: usize| !matches!(map[at], State::Clean | State::Zero) && map[..at].contains(&map[at]);
            if (0..4).any(twice) {
                continue;
            }
            for (index, &start) in points.iter().enumerate() {
                for &end in &points[index..] {
                    let range = disk.range(Sector(start), SectorCount(end - start)).unwrap();
                    let found: Vec<_> = runs(range, |c| map[usize::try_from(c.0).unwrap()]).collect();
                    tried += 1;
                    assert_eq!(found.iter().map(|run| run.part.len()).sum::<u64>(), range.len());
                    let mut at = range.start();
                    for run in found {
                        assert_eq!((run.part.start(), run.part.is_empty()), (at, false));
                        at = run.part.end();
                        let clusters = run.clusters();
                        for cluster in clusters.clone() {
                            let is = map[usize::try_from(cluster).unwrap()];
                            assert_eq!(is, continued(run.state, cluster - clusters.start), "{map:?} {range:?}");
                        }
                        if at < range.end() {
                            let next = map[usize::try_from(clusters.end).unwrap()];
                            let would_be = continued(run.state, clusters.end - clusters.start);
                            assert_ne!(next, would_be, "not maximal: {map:?} {range:?}");
                        }
                    }
                }
            }
        }
        assert_eq!(tried, 2248 * 91);
    }

    /// Where the byte at `at` is, the dumbest way: a state, and for Dirty the place in the overlay.
    fn place(states: &[State], at: u64) -> (State, u64) {
        let state = states[usize::try_from(at / CLUSTER_BYTES).unwrap()];
        match state {
            State::Dirty(slot) => (
                State::Dirty(Slot(0)),
                u64::from(slot.0) * CLUSTER_BYTES + at % CLUSTER_BYTES,
            ),
            State::Clean | State::Zero | State::Held(_) => (state, 0),
        }
    }

    proptest! {
        #[test]
        fn runs_cover_the_range_and_agree_with_the_map_at_every_sector(
            states in prop::collection::vec(any_state(), 1..12),
            cut in (0u64..96, 0u64..96)
        ) {
            let sectors = states.len() as u64 * 8;
            let start = cut.0.min(sectors);
            let count = cut.1.min(sectors - start);
            let disk = Capacity::of_image(sectors * 512).unwrap();
            let range = disk.range(Sector(start), SectorCount(count)).unwrap();

            let mut at = range.start();
            let mut previous: Option<Run> = None;
            for run in runs(range, |c| states[usize::try_from(c.0).unwrap()]) {
                prop_assert_eq!(run.part.start(), at);
                prop_assert!(!run.part.is_empty());
                while at < run.part.end() {
                    let offset = at - run.part.start() + run.within_cluster();
                    let found = match run.state {
                        State::Dirty(slot) => (State::Dirty(Slot(0)), u64::from(slot.0) * CLUSTER_BYTES + offset),
                        state @ (State::Clean | State::Zero | State::Held(_)) => (state, 0),
                    };
                    prop_assert_eq!(found, place(&states, at));
                    at += 512;
                }
                if let Some(previous) = previous {
                    prop_assert_ne!(run.state, continued(previous.state, previous.clusters().count() as u64), "not maximal");
                }
                previous = Some(run);
            }
            prop_assert_eq!(at, range.end());
        }
    }
}
