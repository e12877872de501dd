//! One virtqueue of the device, shared by the control thread, which configures it, and a worker, which drains it.
//!
//! A ring is *active* when its frontend has started it (a kick descriptor), enabled it, and its parts lie in guest memory.
//! Whoever holds the ring's lock has it to itself; a worker holds it for one drain ([`Ring::turn`]). The control thread
//! takes it by [`Ring::quiesce`]: it raises a stop flag, which a worker heeds between requests and between slices of one,
//! lets the worker finish what waits for storage, and gives up after a deadline, because a process that cannot stop a queue must
//! end rather than linger. So a ring that was stopped owes no answer. What the control thread then does to the ring is in
//! [`quiesced`].
//!
//! Only the worker signals the frontend's eventfds: the control thread leaves a note of what is owed.
//!
//! Ring state proper (addresses, indices) lives in vhost-user-backend's vring; kick, call and err descriptors are kept
//! beside it, since it does not let them out again.

mod quiesced;

use crate::bell::Nudge;
use crate::disk::{Disk, Later};
use crate::guest_memory::SharedMemory;
use crate::overlay::{Scratch, Work};
use crate::parking::Parking;
use crate::queue::{Drained, RingError, Turn};
use crate::signal::signal;
use crate::stats::Tally;
use crate::warmer::Warmer;
use log::{debug, warn};
use policy::logging::chain;
use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};
use thiserror::Error;
use vhost_user_backend::{VringMutex, VringT};
use virtio_queue::QueueT;
use vm_memory::GuestAddressSpace;

pub(crate) use quiesced::Quiesced;

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

/// How far a ring has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No kick descriptor yet, or none any more: its layout may change.
    Stopped,
    /// Started, and not to be touched: it is disabled, or not in guest memory.
    Suspended,
    /// The worker drains it.
    Active,
    /// Beyond repair until it is stopped and started again.
    Broken,
}

/// What the frontend said of the ring.
struct RingState {
    vring: VringMutex<SharedMemory>,
    memory: SharedMemory,
    kick: Option<File>,
    call: Option<File>,
    err: Option<File>,
    /// The index at which it begins, or goes on.
    base: u16,
    /// Its parts have been given addresses.
    laid_out: bool,
    enabled: bool,
    phase: Phase,
    owed: Owed,
    parking: Parking,
}

/// Signals that the worker is to send.
#[derive(Debug, Default)]
struct Owed {
    /// Kept until there is a descriptor for it: a driver must not sleep with answers that it does not know of.
    call: bool,
    err: bool,
}

/// A virtqueue.
pub(crate) struct Ring {
    index: usize,
    nudge: Arc<Nudge>,
    state: Mutex<RingState>,
    stop: AtomicBool,
    /// The last turn left requests behind that wait for storage.
    has_parked: AtomicBool,
    /// This process has served the ring before, so its history is this disk's.
    known: AtomicBool,
    /// What is wrong with it was reported; once is enough.
    reported: AtomicBool,
}

/// What a worker found at a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// How many requests there were.
    pub(crate) requests: u16,
    /// There are more, or the driver was not told to kick for them: somebody has to look again.
    pub(crate) look_again: bool,
    /// The operator's limits do not let more through: to be left alone for a while, whoever kicks.
    pub(crate) later: Option<Later>,
}

impl Found {
    const NOTHING: Self = Self {
        requests: 0,
        look_again: false,
        later: None,
    };
}

impl Ring {
    /// A ring of up to `max_size` descriptors, drained by the worker that `nudge` wakes; `warmer` waits for its storage.
    ///
    /// # Errors
    /// When `max_size` is no ring size.
    pub(crate) fn new(
        index: usize,
        max_size: u16,
        memory: SharedMemory,
        nudge: Nudge,
        warmer: Arc<Warmer>,
    ) -> Result<Self, virtio_queue::Error> {
        let nudge = Arc::new(nudge);
        Ok(Self {
            index,
            state: Mutex::new(RingState {
                vring: VringMutex::new(memory.clone(), max_size)?,
                memory,
                kick: None,
                call: None,
                err: None,
                base: 0,
                laid_out: false,
                enabled: false,
                phase: Phase::Stopped,
                owed: Owed::default(),
                parking: Parking::new(warmer, Arc::clone(&nudge)),
            }),
            nudge,
            stop: AtomicBool::new(false),
            has_parked: AtomicBool::new(false),
            known: AtomicBool::new(false),
            reported: AtomicBool::new(false),
        })
    }

    /// Its number.
    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// Has its worker look at it, also if it was to leave it alone for a while.
    pub(crate) fn nudge(&self) {
        self.nudge.nudge();
    }

    /// The disk is another one than the ring was used with, if it was.
    pub(crate) fn forget_history(&self) {
        self.known.store(false, Ordering::Relaxed);
    }

    /// Whether it was nudged since the last time this was asked.
    pub(crate) fn take_nudge(&self) -> bool {
        self.nudge.take()
    }

    /// A worker's turn: sends what is owed, and drains the ring, or a good part of it. At its end the driver is told to kick, if
    /// it `must_kick`; otherwise somebody has to look again.
    pub(crate) fn turn(&self, disk: &Disk, scratch: &mut Scratch, tally: &mut Tally, must_kick: bool) -> Found {
        let stopping = self.stop.load(Ordering::Acquire);
        if stopping && !self.has_parked.load(Ordering::Acquire) {
            // Whoever is stopping the ring nudges it again if it is to go on.
            return Found::NOTHING;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.pay();
        if state.phase != Phase::Active {
            return Found::NOTHING;
        }
        let drained = if stopping {
            state.finish(disk, scratch, tally)
        } else {
            state.drain(disk, &self.stop, scratch, tally, must_kick)
        };
        let found = match drained {
            Ok((drained, requests)) => Found {
                requests,
                look_again: drained == Drained::More || drained == Drained::Empty && !must_kick,
                later: match drained {
                    Drained::Later(later) => Some(later),
                    Drained::Empty | Drained::More | Drained::Waiting | Drained::Stopped => None,
                },
            },
            Err(error) => {
                state.parking.clear();
                state.suspend();
                state.phase = Phase::Broken;
                self.complain(&mut state, &error);
                state.pay();
                Found::NOTHING
            }
        };
        self.has_parked.store(!state.parking.is_empty(), Ordering::Release);
        found
    }

    /// Reports that the ring cannot be served: to the operator once, to the frontend each time.
    fn complain(&self, state: &mut RingState, error: &RingError) {
        let text = chain(error);
        if self.reported.swap(true, Ordering::Relaxed) {
            debug!("queue {}: {text}", self.index);
        } else {
            warn!("queue {} is not served: {text}", self.index);
        }
        state.owed.err = true;
    }

    /// Takes the ring from its worker.
    ///
    /// # Errors
    /// [`Fatal::DrainTimedOut`].
    pub(crate) fn quiesce(&self) -> Result<Quiesced<'_>, Fatal> {
        self.stop.store(true, Ordering::Release);
        let mut waited = Duration::ZERO;
        loop {
            match self.state.try_lock() {
                Ok(mut state) if state.parking.is_empty() => {
                    state.parking.clear();
                    return Ok(Quiesced::new(self, state));
                }
                // The worker has still to answer them.
                Ok(_) => self.nudge.nudge(),
                Err(TryLockError::Poisoned(poisoned)) => return Ok(Quiesced::new(self, poisoned.into_inner())),
                Err(TryLockError::WouldBlock) => {}
            }
            if waited >= DRAIN_DEADLINE {
                return Err(Fatal::DrainTimedOut(self.index));
            }
            let before = Instant::now();
            std::thread::sleep(Duration::from_micros(100));
            // A process that was stopped meanwhile has not waited for its worker.
            waited = waited.saturating_add(before.elapsed().min(Duration::from_millis(10)));
        }
    }
}

impl RingState {
    /// Keeps the worker away; the ring goes on where it was when it becomes active again.
    fn suspend(&mut self) {
        if self.phase == Phase::Active {
            self.phase = Phase::Suspended;
            self.base = self.vring.queue_next_avail();
        }
    }

    /// Tries again what storage has delivered for, and drains the ring. Says also how many requests were taken up or answered.
    fn drain(
        &mut self,
        disk: &Disk,
        stop: &AtomicBool,
        scratch: &mut Scratch,
        tally: &mut Tally,
        must_kick: bool,
    ) -> Result<(Drained, u16), RingError> {
        let mut work = Work { stop, scratch };
        self.take_turn(disk, tally, |turn| {
            turn.resume(&mut work)?;
            turn.drain(&mut work, TURN, must_kick)
        })
    }

    /// Answers what waits for storage, since the ring is to stop.
    fn finish(&mut self, disk: &Disk, scratch: &mut Scratch, tally: &mut Tally) -> Result<(Drained, u16), RingError> {
        /// Storage is waited for as long as it takes: who stops the ring has the patience that it has.
        static GO_ON: AtomicBool = AtomicBool::new(false);
        let mut work = Work { stop: &GO_ON, scratch };
        self.take_turn(disk, tally, |turn| turn.finish(&mut work).map(|()| Drained::Stopped))
    }

    fn take_turn(
        &mut self,
        disk: &Disk,
        tally: &mut Tally,
        act: impl FnOnce(&mut Turn<'_, &mut dyn FnMut()>) -> Result<Drained, RingError>,
    ) -> Result<(Drained, u16), RingError> {
        let memory = self.memory.memory();
        let mut vring = self.vring.get_mut();
        let queue = vring.get_queue_mut();
        let (avail, used) = (queue.next_avail(), queue.next_used());
        let mut call = || match &self.call {
            Some(call) => signal(call),
            None => self.owed.call = true,
        };
        let drained = {
            let mut turn = Turn::new(
                queue,
                &memory,
                disk,
                &mut self.parking,
                tally,
                &mut call as &mut dyn FnMut(),
            );
            let drained = act(&mut turn);
            // Also when the ring turned out to be broken: the requests before that were answered, and their driver may sleep.
            let announced = turn.announce();
            drained.and_then(|drained| announced.map(|()| drained))
        };
        let taken_up = queue.next_avail().wrapping_sub(avail);
        let answered = queue.next_used().wrapping_sub(used);
        drained.map(|drained| (drained, taken_up.max(answered)))
    }

    /// Signals what is owed.
    fn pay(&mut self) {
        if let Some(call) = &self.call
            && std::mem::take(&mut self.owed.call)
        {
            signal(call);
        }
        // Not kept for a descriptor that comes later, which would hear of a ring that is mended by then.
        if std::mem::take(&mut self.owed.err)
            && let Some(err) = &self.err
        {
            signal(err);
        }
    }
}
