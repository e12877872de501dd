//! A ring in the control thread's hands: how a frontend's messages change it, and when it becomes active.

use super::{Fatal, Phase, Ring, RingState};
use crate::disk::Disk;
use crate::queue::RingError;
use log::debug;
use std::fs::File;
use std::sync::MutexGuard;
use std::sync::atomic::Ordering;
use vhost_user_backend::VringT;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Address, Bytes, GuestAddress, GuestAddressSpace};

/// A ring whose worker keeps away. Dropping it lets the worker go on, if there is something for it to do.
pub(crate) struct Quiesced<'r> {
    ring: &'r Ring,
    state: MutexGuard<'r, RingState>,
}

impl Drop for Quiesced<'_> {
    fn drop(&mut self) {
        self.ring.stop.store(false, Ordering::Release);
        let owed = self.state.owed.call || self.state.owed.err;
        if owed || self.state.phase == Phase::Active {
            self.ring.nudge.nudge();
        }
    }
}

impl<'r> Quiesced<'r> {
    /// The ring whose lock is held.
    pub(super) fn new(ring: &'r Ring, state: MutexGuard<'r, RingState>) -> Self {
        Self { ring, state }
    }

    /// Whether the ring runs, so that its layout must not change.
    pub(crate) fn is_started(&self) -> bool {
        self.state.phase != Phase::Stopped
    }

    /// Sets the number of descriptors; says whether it is one the device accepts.
    pub(crate) fn set_size(&mut self, size: u32) -> bool {
        let max = self.state.vring.get_ref().get_queue().max_size();
        let accepted = u16::try_from(size)
            .ok()
            .filter(|size| size.is_power_of_two() && *size <= max);
        if let Some(size) = accepted {
            self.state.vring.set_queue_size(size);
        }
        accepted.is_some()
    }

    /// Sets the guest addresses of the ring's three parts; says whether they are aligned as they must be.
    pub(crate) fn set_addresses(&mut self, descriptors: u64, available: u64, used: u64) -> bool {
        self.state.laid_out = self.state.vring.set_queue_info(descriptors, available, used).is_ok();
        self.state.laid_out
    }

    /// Sets the index to begin at.
    pub(crate) fn set_base(&mut self, base: u16) {
        self.state.base = base;
    }

    /// Sets whether the driver negotiated event indices.
    pub(crate) fn set_event_idx(&mut self, negotiated: bool) {
        self.state.vring.set_queue_event_idx(negotiated);
    }

    /// Replaces the descriptor the driver's completions are announced on, and announces once: requests may have been
    /// completed when there was nothing to announce them on, and a driver bears one call too many.
    pub(crate) fn set_call(&mut self, call: Option<File>) {
        self.state.call = call;
        self.state.owed.call |= self.state.phase == Phase::Active;
    }

    /// Replaces the descriptor a broken ring is announced on.
    pub(crate) fn set_err(&mut self, err: Option<File>) {
        self.state.err = err;
    }

    /// Replaces the kick descriptor, which starts the ring.
    ///
    /// # Errors
    /// When the kernel cannot wait for it.
    pub(crate) fn set_kick(&mut self, kick: File) -> nix::Result<()> {
        self.drop_kick();
        self.ring.nudge.bell().listen(&kick, self.ring.index)?;
        self.state.kick = Some(kick);
        if self.state.phase == Phase::Stopped {
            self.state.phase = Phase::Suspended;
        }
        Ok(())
    }

    fn drop_kick(&mut self) {
        if let Some(kick) = self.state.kick.take() {
            // Explicitly: the frontend has the same eventfd open, so that closing ours would leave it in the set.
            self.ring.nudge.bell().ignore(&kick);
        }
    }

    /// Sets whether the frontend wants requests processed.
    pub(crate) fn set_enabled(&mut self, enabled: bool) {
        self.state.enabled = enabled;
    }

    /// Makes the ring active if it is to be, after every message: idempotent.
    ///
    /// # Errors
    /// [`Fatal::HistoryRefused`].
    pub(crate) fn update(&mut self, disk: &Disk) -> Result<(), Fatal> {
        match (self.state.phase, self.state.enabled) {
            (Phase::Active, false) => self.state.suspend(),
            (Phase::Suspended, true) if self.is_in_memory() => return self.activate(disk),
            (Phase::Suspended, true) => self.ring.complain(&mut self.state, &RingError::Layout),
            (Phase::Stopped | Phase::Broken, _) | (Phase::Suspended, false) | (Phase::Active, true) => {}
        }
        Ok(())
    }

    /// Guest memory is not what it was: a ring that is not in it waits until it is again. A frontend that moves memory
    /// removes regions before it adds others, with the guest running.
    ///
    /// # Errors
    /// [`Fatal::HistoryRefused`].
    pub(crate) fn memory_changed(&mut self, disk: &Disk) -> Result<(), Fatal> {
        if !self.is_in_memory() {
            self.state.suspend();
            Ok(())
        } else if self.state.enabled && self.state.phase == Phase::Suspended {
            self.activate(disk)
        } else {
            Ok(())
        }
    }

    fn is_in_memory(&self) -> bool {
        let memory = self.state.memory.memory();
        self.state.vring.set_queue_ready(true);
        self.state.laid_out && self.state.vring.get_ref().get_queue().is_valid(&*memory)
    }

    fn activate(&mut self, disk: &Disk) -> Result<(), Fatal> {
        let Ok(used) = self.state.vring.queue_used_idx() else {
            self.ring.complain(&mut self.state, &RingError::Layout);
            return Ok(());
        };
        self.check_history(used, disk)?;
        self.forget_unannounced();
        self.state.vring.set_queue_next_used(used);
        let next = resume_at(self.state.base, used, self.size());
        self.state.vring.set_queue_next_avail(next);
        self.state.phase = Phase::Active;
        // Requests may have been completed, and not announced, before the ring was last suspended.
        self.state.owed.call |= used != 0;
        debug!("queue {} goes on at {next} of {}", self.ring.index, self.size());
        Ok(())
    }

    /// Forgets what the queue counts between two calls: a count that a driver without event indices left behind could
    /// make one with them miss its first call.
    fn forget_unannounced(&mut self) {
        let mut vring = self.state.vring.get_mut();
        let queue = vring.get_queue_mut();
        if let Ok(fresh) = Queue::try_from(queue.state()) {
            *queue = fresh;
        }
    }

    fn size(&self) -> u16 {
        self.state.vring.get_ref().get_queue().size()
    }

    /// A ring that was used with another disk must not meet a fresh overlay.
    fn check_history(&self, used: u16, disk: &Disk) -> Result<(), Fatal> {
        let known = self.ring.known.swap(true, Ordering::Relaxed);
        let has_history = self.state.base != 0 || used != 0 || self.has_gone_round();
        if has_history && !known && !disk.is_read_only() {
            return Err(Fatal::HistoryRefused(self.ring.index));
        }
        Ok(())
    }

    /// Whether the last entry of the used ring was ever written. Indices count modulo 65,536, so one of 0 may be that of a ring in
    /// use; but a driver zeroes a new one (virtio 1.2, section 4.1.5.1.3), and an answer is never all zeros (section 2.7.8: its
    /// length counts the status byte).
    fn has_gone_round(&self) -> bool {
        let vring = self.state.vring.get_ref();
        let queue = vring.get_queue();
        // Behind flags and index, of two bytes each, come entries of eight.
        let last = queue.size().saturating_sub(1);
        let place = GuestAddress(queue.used_ring()).checked_add(4 + 8 * u64::from(last));
        let entry = place.and_then(|place| self.state.memory.memory().read_obj::<u64>(place).ok());
        entry.is_some_and(|entry| entry != 0)
    }

    /// Stops the ring, as GET_VRING_BASE demands, and tells where it was.
    pub(crate) fn stop(&mut self) -> u16 {
        self.state.suspend();
        self.state.phase = Phase::Stopped;
        self.drop_kick();
        self.state.base
    }

    /// Forgets everything the frontend said.
    pub(crate) fn reset(&mut self) {
        self.stop();
        self.state.call = None;
        self.state.err = None;
        self.state.base = 0;
        self.state.laid_out = false;
        self.state.enabled = false;
        self.state.owed = super::Owed::default();
        self.state.vring.get_mut().get_queue_mut().reset();
    }
}

/// Where a ring goes on: everything before the used index was completed, for this device answers all that it popped before it
/// stops. A frontend may name an index beyond it (cloud-hypervisor, after a reconnect, names the available
/// index); the requests in between were never answered, and are executed now.
fn resume_at(base: u16, used: u16, size: u16) -> u16 {
    if base.wrapping_sub(used) <= size { used } else { base }
}

#[cfg(test)]
mod tests {
    use super::resume_at;

    #[test]
    fn requests_between_used_and_base_are_executed_again() {
        assert_eq!(resume_at(10, 7, 128), 7);
        assert_eq!(resume_at(7, 7, 128), 7);
        assert_eq!(resume_at(3, 0xfffe, 128), 0xfffe);
    }

    #[test]
    fn a_base_that_the_ring_cannot_have_reached_is_taken_as_it_is() {
        assert_eq!(resume_at(0, 57, 128), 0);
        assert_eq!(resume_at(500, 100, 128), 500);
    }
}
