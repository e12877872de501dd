//! What happens to the device as a whole: its frontend leaves, its operator makes the disk larger or another one.

use super::{Backend, Result};
use crate::guest_memory::MemoryTable;
use protocol::blk::AckedFeatures;
use protocol::config_space::ConfigSpace;
use protocol::units::Capacity;

impl Backend {
    /// The frontend is gone: forgets all it said. What the guest wrote stays.
    pub(crate) fn disconnect(&mut self) {
        self.acked = AckedFeatures::default();
        let forgotten = self
            .reset_rings()
            .and_then(|()| self.replace_memory(MemoryTable::default()));
        debug_assert!(forgotten.is_ok() || self.fatal.is_some());
    }

    /// Forgets all that the frontend said of its rings.
    pub(super) fn reset_rings(&mut self) -> Result<()> {
        self.started.fill(false);
        self.change_all(|ring| ring.reset())
    }

    /// The disk has another size: what is read of it from now on says so.
    pub(crate) fn set_capacity(&mut self, capacity: Capacity) {
        self.geometry.capacity = capacity;
        self.config = ConfigSpace::new(&self.geometry);
    }

    /// A ring that the frontend has started and not stopped, if there is one.
    pub(crate) fn started_ring(&self) -> Option<usize> {
        self.started.iter().position(|started| *started)
    }

    /// The disk is another one: a ring that was used with the last one must not meet it.
    pub(crate) fn forget_history(&self) {
        self.rings.iter().for_each(|ring| ring.forget_history());
    }

    /// Notes that a ring is started, or is not.
    pub(super) fn note_started(&mut self, index: impl TryInto<usize>, is_started: bool) {
        let started = index.try_into().ok().and_then(|index| self.started.get_mut(index));
        if let Some(started) = started {
            *started = is_started;
        }
    }
}
