//! A disk as it was at one moment, read while guests go on changing it.
//!
//! Who copies it freezes the map ([`super::map`] says what that means), walks over the disk region by region, and thaws each
//! region behind itself. Nobody waits for the copy: a region's lock is held while its states are looked up, never while bytes
//! move, for what is frozen cannot change. What it costs guests is space: the slots that a copy still needs count as in use.

use super::map::{Slot, State};
use super::regions::REGION_BYTES;
use super::runs::{Run, clusters_of, runs};
use super::scratch::SCRATCH_BYTES;
use super::{CLUSTER_BYTES, Overlay, Scratch};
use crate::transfer::Patience;
use protocol::units::{ByteRange, Sector};
use std::io;

/// What a stretch of a frozen disk holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Frozen {
    /// What the base holds.
    Clean,
    /// Zeros, whatever the base holds.
    Zero,
    /// What the guest wrote.
    Dirty(Slot),
}

/// A stretch of a frozen disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FrozenRun {
    /// Its bytes: whole clusters, except where the disk ends; short enough to be read at once.
    pub(crate) part: ByteRange,
    pub(crate) holds: Frozen,
}

impl Overlay {
    /// From now on the disk as it is at this moment can be copied. False if somebody does that already.
    ///
    /// What was completed before is in it; what is issued after this returns is not.
    pub(crate) fn freeze(&self) -> bool {
        if self.map.is_frozen() {
            return false;
        }
        self.map.freeze();
        true
    }

    /// Whether somebody copies the disk.
    pub(crate) fn is_frozen(&self) -> bool {
        self.map.is_frozen()
    }

    /// The pieces to copy and thaw, in this order.
    pub(crate) fn frozen_pieces(&self) -> impl Iterator<Item = ByteRange> + use<> {
        let capacity = self.capacity();
        let whole = capacity.range(Sector(0), capacity.sectors());
        whole.into_iter().flat_map(|whole| whole.pieces(REGION_BYTES))
    }

    /// What `piece` was made of. Replaces the content of `found`.
    pub(crate) fn frozen_runs(&self, piece: ByteRange, found: &mut Vec<FrozenRun>) {
        found.clear();
        let most = u64::try_from(SCRATCH_BYTES).unwrap_or(CLUSTER_BYTES);
        let _exclusive = self.regions.exclusive(piece);
        for part in piece.pieces(most) {
            let frozen = runs(part, |cluster| self.map.frozen_state(cluster));
            found.extend(frozen.map(FrozenRun::from));
        }
    }

    /// The bytes of a run that is not Zero, read into `scratch`.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn read_frozen<'s>(&self, run: &FrozenRun, scratch: &'s mut Scratch) -> io::Result<&'s mut [u8]> {
        let bytes = usize::try_from(run.part.len()).unwrap_or(SCRATCH_BYTES);
        match run.holds {
            Frozen::Dirty(slot) => self.store.load(slot, 0..bytes, scratch)?,
            Frozen::Zero => scratch.part(0..bytes).fill(0),
            Frozen::Clean => {
                let content = scratch.part(0..bytes);
                content.fill(0);
                self.base.read_bytes(run.part.start(), content, Patience::Endless)?;
            }
        }
        Ok(scratch.part(0..bytes))
    }

    /// Says that `piece` is copied, or need not be: what only the copy needed is free again.
    pub(crate) fn thaw(&self, piece: ByteRange) {
        let mut slots = Vec::new();
        {
            let _exclusive = self.regions.exclusive(piece);
            self.map.thaw(clusters_of(piece), |slot| slots.push(slot));
        }
        // No cluster names them any more. Neighbours are given back together: a call for each would cost more than the space.
        let mut rest = slots.as_slice();
        while let Some((first, others)) = rest.split_first() {
            let more = (1..)
                .zip(others)
                .take_while(|(count, slot)| first.after(*count) == Some(**slot));
            let count = 1 + u64::try_from(more.count()).unwrap_or(0);
            self.release(*first, count);
            rest = rest
                .get(usize::try_from(count).unwrap_or(usize::MAX)..)
                .unwrap_or_default();
        }
    }

    /// Says that every piece is thawed.
    pub(crate) fn thawed(&self) {
        self.map.thawed();
    }
}

impl From<Run> for FrozenRun {
    fn from(run: Run) -> Self {
        Self {
            part: run.part,
            holds: match run.state {
                State::Clean => Frozen::Clean,
                State::Zero => Frozen::Zero,
                State::Dirty(slot) | State::Held(slot) => Frozen::Dirty(slot),
            },
        }
    }
}
