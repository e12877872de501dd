//! The one dangerous moment of copy-on-write: a cluster that the overlay does not have yet gets its first bytes.
//!
//! Always in three steps, under the region's exclusive lock: *prepare* (a slot, counted against the limits), *write* (the
//! whole cluster, or as much of it as the disk has), *commit* (the map says Dirty). Until the last step nobody can see
//! the slot, so nobody ever sees what was in it before; if a step fails, the slot is given back and the cluster is what
//! it was.
//!
//! A part of a cluster is merged with its old content in memory first, so that there is one write either way.

use super::map::{Cluster, State};
use super::parts::Parts;
use super::runs::{Run, clusters_of};
use super::slots::SlotRun;
use super::{CLUSTER, CLUSTER_BYTES, Overlay, OverlayError, Work};
use crate::cold::Part;
use crate::transfer::Buffers;
use protocol::units::ByteRange;
use std::io;
use std::ops::Range;

impl Overlay {
    /// Writes `from` to a run that is Clean, Zero or Held, whose clusters become Dirty.
    pub(super) fn fill(&self, run: Run, from: Buffers<'_>, work: &mut Work<'_>) -> Result<(), OverlayError> {
        self.map.admit(run.clusters())?;
        let whole = aligned(run.part);
        let head = run.part.within(run.part.start(), whole.start());
        let tail = run.part.within(whole.end(), run.part.end());

        let (for_head, rest) = from.split_at(head.len());
        let (for_whole, for_tail) = rest.split_at(whole.len());
        let mut parts = Parts::default();
        parts.go_on(self.fill_part(head, work, |old| for_head.copy_to(old)))?;
        parts.go_on(self.fill_part(tail, work, |old| for_tail.copy_to(old)))?;
        parts.all_found()?;
        // Last: it is not done twice.
        self.fill_whole(whole, for_whole, work)
    }

    /// Makes `part`, which lies within one cluster and covers no whole one, read as zeros.
    pub(super) fn zero_part(&self, part: ByteRange, work: &mut Work<'_>) -> Result<(), OverlayError> {
        for run in self.runs_to_change(part) {
            match run.state {
                State::Zero => {}
                State::Dirty(slot) => {
                    let within = within_cluster(part);
                    work.scratch.part(within.clone()).fill(0);
                    self.store
                        .write_part(slot, within, work.scratch)
                        .map_err(OverlayError::io("write zeros to the overlay"))?;
                }
                State::Clean | State::Held(_) => {
                    self.map.admit(run.clusters())?;
                    self.fill_part(part, work, |old| old.fill(0))?;
                }
            }
        }
        Ok(())
    }

    /// Gives slots to whole clusters and writes the guest's buffers there; nothing old is needed.
    fn fill_whole(&self, whole: ByteRange, from: Buffers<'_>, work: &mut Work<'_>) -> Result<(), OverlayError> {
        let mut clusters = clusters_of(whole);
        let mut rest = from;
        while !clusters.is_empty() {
            let wanted = clusters.end.saturating_sub(clusters.start);
            let slots = self.take_slots(wanted)?;
            let now;
            (now, rest) = rest.split_at(slots.count.saturating_mul(CLUSTER_BYTES));

            let written = self.store.write(slots.first, 0, now, work.scratch);

            self.commit(slots, clusters.start, written)?;
            clusters.start = clusters.start.saturating_add(slots.count);
        }
        Ok(())
    }

    /// Gives a slot to the cluster that `part` lies in: its old content with `part` patched.
    fn fill_part(
        &self,
        part: ByteRange,
        work: &mut Work<'_>,
        patch: impl FnOnce(&mut [u8]),
    ) -> Result<(), OverlayError> {
        if part.is_empty() {
            return Ok(());
        }
        let filled = self.merge(part, work, patch);
        if filled.is_err() {
            // What was not encrypted, for want of space, is the guest's, and this memory can be swapped out.
            work.scratch.part(0..CLUSTER).fill(0);
        }
        filled
    }

    /// The same for a part that is not empty; where it fails, the guest's bytes may be left in the scratch.
    fn merge(&self, part: ByteRange, work: &mut Work<'_>, patch: impl FnOnce(&mut [u8])) -> Result<(), OverlayError> {
        let cluster = part.start() / CLUSTER_BYTES;
        let first_byte = cluster.saturating_mul(CLUSTER_BYTES);
        let patience = work.scratch.cold.patience();
        let content = work.scratch.part(0..CLUSTER);
        match self.map.state_to_change(Cluster(cluster)) {
            State::Zero => content.fill(0),
            State::Clean => {
                content.fill(0);
                let read = self.base.read_bytes(first_byte, content, patience);
                work.scratch.cold.note(&read, Part::Base, first_byte, CLUSTER_BYTES);
                read.map_err(OverlayError::io("read the base"))?;
            }
            State::Held(slot) | State::Dirty(slot) => self
                .store
                .load(slot, 0..CLUSTER, work.scratch)
                .map_err(OverlayError::io("read the overlay"))?,
        }
        patch(work.scratch.part(within_cluster(part)));

        let slots = self.take_slots(1)?;
        let written = self.store.write_part(slots.first, 0..CLUSTER, work.scratch);
        self.commit(slots, cluster, written)
    }

    /// Marks clusters from `first` on as Dirty in `slots`, if these were `written`; else gives the slots back.
    fn commit(&self, slots: SlotRun, first: u64, written: io::Result<()>) -> Result<(), OverlayError> {
        if let Err(source) = written {
            self.release(slots.first, slots.count);
            return Err(OverlayError::io("write the overlay")(source));
        }
        for (cluster, slot) in (first..).zip(slots.iter()) {
            self.map.set(Cluster(cluster), State::Dirty(slot));
        }
        Ok(())
    }
}

/// The part of `range` that is whole clusters. Not so the disk's last cluster, if it is short: its slot is filled to the end, so
/// that there are zeros behind it when the disk grows.
fn aligned(range: ByteRange) -> ByteRange {
    let start = range
        .start()
        .checked_next_multiple_of(CLUSTER_BYTES)
        .unwrap_or(u64::MAX);
    range.within(start, range.end() - range.end() % CLUSTER_BYTES)
}

/// Where in its cluster `part`, which lies within one, is.
fn within_cluster(part: ByteRange) -> Range<usize> {
    let start = part.start() % CLUSTER_BYTES;
    let place = |byte: u64| usize::try_from(byte).unwrap_or(CLUSTER);
    place(start)..place(start.saturating_add(part.len()))
}
