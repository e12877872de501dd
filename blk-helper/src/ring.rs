//! One virtqueue of the device, shared by the control thread, which configures it, and a worker, which drains it.
//!
//! A ring is *active* when its frontend has started it (a kick descriptor), enabled it, and nothing about it is broken.
//! Whoever holds the ring's lock has it to itself; a worker holds it for one drain. The control thread takes it by
//! [`Ring::quiesce`]: it raises a stop flag, which a worker heeds between requests and between slices of one, waits, and
//! gives up after a deadline, because a process that cannot stop a queue must end rather than linger.
//!
//! Ring state proper (addresses, indices) lives in vhost-user-backend's vring; kick, call and err descriptors are kept
//! beside it, since it does not let them out again.

use crate::bell::Bell;
use crate::disk::Disk;
use crate::guest_memory::SharedMemory;
use crate::overlay::{CLUSTER, Work};
use crate::queue::{self, Drained, RingError};
use crate::signal::signal;
use log::{debug, warn};
use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};
use thiserror::Error;
use vhost_user_backend::{VringMutex, VringT};
use virtio_queue::QueueT;
use vm_memory::GuestAddressSpace;

/// How long a queue may take to stop. A slice is at most 1 MiB, so only storage that hangs needs seconds; what is too
/// long for an operator is a guess.
const DRAIN_DEADLINE: Duration = Duration::from_secs(30);

/// Requests a worker executes before it looks at its other rings.
const TURN: u32 = 128;

/// Why a ring ends the whole process.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(crate) enum Fatal {
    #[error("queue {0} did not stop in time")]
    DrainTimedOut(usize),
    #[error(
        "queue {0} has been used before, but not with this disk: serving it would silently roll back the disk of a \
         running guest"
    )]
    HistoryRefused(usize),
}

/// What the frontend said of the ring.
struct RingState {
    vring: VringMutex<SharedMemory>,
    memory: SharedMemory,
    kick: Option<File>,
    call: Option<File>,
    err: Option<File>,
    /// The index the frontend wants the ring to begin at.
    base: u16,
    enabled: bool,
    phase: Phase,
}

/// How far a ring has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No kick descriptor yet, or none any more: its layout may change.
    Stopped,
    /// Started, and not to be touched while it is disabled.
    Suspended,
    /// Started, enabled and in order: the worker drains it.
    Active,
    /// Beyond repair until it is stopped and started again.
    Broken,
}

/// A virtqueue.
pub(crate) struct Ring {
    index: usize,
    bell: Arc<Bell>,
    state: Mutex<RingState>,
    stop: AtomicBool,
    /// Something happened that no kick announces.
    nudged: AtomicBool,
    /// This process has served the ring before, so its history is this disk's.
    known: AtomicBool,
    /// Its brokenness was reported; once is enough.
    reported: AtomicBool,
}

impl Ring {
    /// A ring of up to `max_size` descriptors, drained by the worker that `bell` wakes.
    ///
    /// # Errors
    /// When `max_size` is no ring size.
    pub(crate) fn new(
        index: usize,
        max_size: u16,
        memory: SharedMemory,
        bell: Arc<Bell>,
    ) -> Result<Self, virtio_queue::Error> {
        Ok(Self {
            index,
            bell,
            state: Mutex::new(RingState {
                vring: VringMutex::new(memory.clone(), max_size)?,
                memory,
                kick: None,
                call: None,
                err: None,
                base: 0,
                enabled: false,
                phase: Phase::Stopped,
            }),
            stop: AtomicBool::new(false),
            nudged: AtomicBool::new(false),
            known: AtomicBool::new(false),
            reported: AtomicBool::new(false),
        })
    }

    /// Its number.
    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// Whether it was nudged since the last time this was asked.
    pub(crate) fn take_nudge(&self) -> bool {
        self.nudged.swap(false, Ordering::AcqRel)
    }

    /// A worker's turn: drains the ring, or a good part of it. Says whether there is more.
    pub(crate) fn turn(&self, disk: &Disk, bounce: &mut [u8; CLUSTER]) -> bool {
        if self.stop.load(Ordering::Acquire) {
            // Whoever is stopping the ring nudges it again if it is to go on.
            return false;
        }
        let mut state = lock(&self.state);
        if state.phase != Phase::Active {
            return false;
        }
        let memory = state.memory.memory();
        let mut work = Work {
            stop: &self.stop,
            bounce,
        };
        let drained = {
            let mut vring = state.vring.get_mut();
            let call = || signal(state.call.as_ref());
            queue::drain(vring.get_queue_mut(), &memory, disk, &mut work, TURN, call)
        };
        match drained {
            Ok(drained) => drained == Drained::More,
            Err(error) => {
                self.give_up(&mut state, &error);
                false
            }
        }
    }

    /// The ring is beyond repair: nobody touches it until a frontend sets it up again.
    fn give_up(&self, state: &mut RingState, error: &RingError) {
        state.phase = Phase::Broken;
        if self.reported.swap(true, Ordering::Relaxed) {
            debug!("queue {}: {error}", self.index);
        } else {
            warn!("queue {}: {error}; it is not served any more", self.index);
        }
        signal(state.err.as_ref());
    }

    /// Takes the ring from its worker.
    ///
    /// # Errors
    /// [`Fatal::DrainTimedOut`].
    pub(crate) fn quiesce(&self) -> Result<Quiesced<'_>, Fatal> {
        self.stop.store(true, Ordering::Release);
        let deadline = Instant::now() + DRAIN_DEADLINE;
        loop {
            match self.state.try_lock() {
                Ok(state) => return Ok(Quiesced { ring: self, state }),
                Err(TryLockError::Poisoned(poisoned)) => {
                    let state = poisoned.into_inner();
                    return Ok(Quiesced { ring: self, state });
                }
                Err(TryLockError::WouldBlock) if Instant::now() >= deadline => {
                    return Err(Fatal::DrainTimedOut(self.index));
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_micros(100)),
            }
        }
    }
}

fn lock(state: &Mutex<RingState>) -> MutexGuard<'_, RingState> {
    state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A ring in the control thread's hands. Dropping it lets the worker go on, if the ring is active.
pub(crate) struct Quiesced<'r> {
    ring: &'r Ring,
    state: MutexGuard<'r, RingState>,
}

impl Drop for Quiesced<'_> {
    fn drop(&mut self) {
        self.ring.stop.store(false, Ordering::Release);
        if self.state.phase == Phase::Active {
            self.ring.nudged.store(true, Ordering::Release);
            self.ring.bell.ring();
        }
    }
}

impl Quiesced<'_> {
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
        self.state.vring.set_queue_info(descriptors, available, used).is_ok()
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
    /// completed since the ring started, when there was nothing to announce them on, and a driver bears one call too many.
    pub(crate) fn set_call(&mut self, call: Option<File>) {
        self.state.call = call;
        if self.state.phase == Phase::Active {
            signal(self.state.call.as_ref());
        }
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
        self.ring.bell.listen(&kick, self.ring.index)?;
        self.state.kick = Some(kick);
        if self.state.phase == Phase::Stopped {
            self.state.phase = Phase::Suspended;
        }
        Ok(())
    }

    fn drop_kick(&mut self) {
        if let Some(kick) = self.state.kick.take() {
            // Explicitly: the frontend has the same eventfd open, so that closing ours would leave it in the set.
            self.ring.bell.ignore(&kick);
        }
    }

    /// Sets whether the frontend wants requests processed.
    pub(crate) fn set_enabled(&mut self, enabled: bool) {
        self.state.enabled = enabled;
    }

    /// Makes the ring active if it is to be, after every change: idempotent.
    ///
    /// # Errors
    /// [`Fatal::HistoryRefused`].
    pub(crate) fn update(&mut self, disk: &Disk) -> Result<(), Fatal> {
        match (self.state.phase, self.state.enabled) {
            (Phase::Suspended, true) => self.activate(disk),
            (Phase::Active, false) => {
                self.suspend();
                Ok(())
            }
            (Phase::Stopped | Phase::Broken, _) | (Phase::Suspended, false) | (Phase::Active, true) => Ok(()),
        }
    }

    fn activate(&mut self, disk: &Disk) -> Result<(), Fatal> {
        self.state.vring.set_queue_ready(true);
        let memory = self.state.memory.memory();
        let valid = self.state.vring.get_ref().get_queue().is_valid(&*memory);
        let used = match self.state.vring.queue_used_idx() {
            Ok(used) if valid => used,
            Ok(_) | Err(_) => {
                self.ring.give_up(&mut self.state, &RingError::Layout);
                return Ok(());
            }
        };
        self.check_history(used, disk)?;
        self.state.vring.set_queue_next_used(used);
        self.state
            .vring
            .set_queue_next_avail(resume_at(self.state.base, used, self.size()));
        self.state.phase = Phase::Active;
        debug!(
            "queue {} starts at {} of {}",
            self.ring.index,
            self.state.vring.queue_next_avail(),
            self.size()
        );
        Ok(())
    }

    fn size(&self) -> u16 {
        self.state.vring.get_ref().get_queue().size()
    }

    /// A ring that was used with another disk must not meet a fresh overlay.
    fn check_history(&self, used: u16, disk: &Disk) -> Result<(), Fatal> {
        let known = self.ring.known.swap(true, Ordering::Relaxed);
        let has_history = self.state.base != 0 || used != 0;
        if has_history && !known && !disk.is_read_only() {
            return Err(Fatal::HistoryRefused(self.ring.index));
        }
        Ok(())
    }

    /// Keeps the worker away; the ring goes on where it was when it becomes active again.
    fn suspend(&mut self) {
        if self.state.phase == Phase::Active {
            self.state.phase = Phase::Suspended;
            self.state.base = self.state.vring.queue_next_avail();
        }
    }

    /// Stops the ring, as GET_VRING_BASE demands, and tells where it was.
    pub(crate) fn stop(&mut self) -> u16 {
        self.suspend();
        self.state.phase = Phase::Stopped;
        self.drop_kick();
        self.state.vring.set_queue_ready(false);
        self.state.base
    }

    /// Forgets everything the frontend said.
    pub(crate) fn reset(&mut self) {
        self.stop();
        self.state.enabled = false;
        self.state.base = 0;
        self.state.call = None;
        self.state.err = None;
        self.state.vring.get_mut().get_queue_mut().reset();
    }
}

/// Where a ring goes on: everything before the used index was completed, for this device completes in order and drains
/// before it stops. A frontend may name an index beyond it (cloud-hypervisor, after a reconnect, names the available
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
