//! How much space the overlay takes, and how much it may take: the quota, which is counted here, and the floor, for which the file
//! system is asked.

use super::floor::Floor;
use super::slots::SlotRun;
use super::whole::map_bytes;
use super::{CLUSTER_BYTES, Overlay, OverlayError};
use protocol::control::OverlayStatus;

impl Overlay {
    /// Lets so many bytes be in use from now on. Where more are, they stay.
    pub(crate) fn set_limit(&self, bytes: u64) {
        self.slots().set_limit(bytes / CLUSTER_BYTES);
    }

    /// Bytes that may be in use.
    pub(crate) fn limit_bytes(&self) -> u64 {
        self.slots().nominal_limit().saturating_mul(CLUSTER_BYTES)
    }

    /// Whether a cluster more would find space.
    pub(crate) fn has_room(&self) -> bool {
        let below = {
            let slots = self.slots();
            slots.in_use() < slots.limit()
        };
        below && self.floor.admit(CLUSTER_BYTES, || self.file().free_bytes()).is_ok()
    }

    /// The floor of free space.
    pub(crate) fn floor(&self) -> &Floor {
        &self.floor
    }

    /// At least one slot and at most `want`, all neighbours, if the limits have room for them.
    pub(super) fn take_slots(&self, want: u64) -> Result<SlotRun, OverlayError> {
        let bytes = want.saturating_mul(CLUSTER_BYTES);
        self.floor.admit(bytes, || self.file().free_bytes())?;
        self.slots().take(want)
    }

    /// How full it is; whether it is encrypted only the workers' scratches know.
    pub(crate) fn status(&self, encrypted: bool) -> OverlayStatus {
        let (in_use, limit) = {
            let slots = self.slots();
            (slots.in_use(), slots.nominal_limit())
        };
        let map = self.map.status();
        OverlayStatus {
            dirty_clusters: map.dirty,
            zero_clusters: map.zero,
            used_bytes: in_use.saturating_mul(CLUSTER_BYTES),
            limit_bytes: limit.saturating_mul(CLUSTER_BYTES),
            disk_usage_bytes: self.file().disk_usage(),
            map_bytes: map.bytes,
            map_limit_bytes: map.max_bytes.min(map_bytes(self.capacity().bytes())),
            encrypted,
        }
    }
}
