//! One drain of a virtqueue: pop, walk, parse, execute, complete.
//!
//! Each popped request is completed exactly once: a popped head is a value that only [`Head::complete`], [`Head::put_back`] and
//! [`Turn::park`] consume. Requests are completed in the order in which they were popped, except for those that wait for
//! storage: they are parked, and completed when it has delivered; or, where they might have to be held afterwards, put back. What a
//! guest puts *into* a chain can only fail that request; a ring that cannot be read at all is a [`RingError`], after which nobody
//! touches it again.
//!
//! Knows nothing of vhost-user, descriptors of this process, or threads.

use crate::chain::Walk;
use crate::disk::{Disk, Done, Later, PutDown};
use crate::guest_memory::{Memory, MemoryGuard};
use crate::overlay::Work;
use crate::parking::{Parked, Parking, Wait};
use crate::request::Request;
use crate::stats::{Account, Kind, Tally};
use crate::transfer::Patience;
use log::debug;
use protocol::blk::Status;
use protocol::control::AtLimit;
use std::ops::Deref;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use thiserror::Error;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};

/// Completed requests after which the driver is called without waiting for the ring to be empty, so that a long drain
/// does not keep the first answers back. Each call may wake a processor, for fewer answers: a virtual machine of two with 1, 4,
/// 8, 16 and 64 here had 100, 160, 290, 380 and 490 thousand random reads a second, 32 of them in flight, so that 64 is as 32
/// (`make bench BENCH="--rows read-d32-eventfd"`).
const CALL_EVERY: u32 = 32;

/// How long a driver that sleeps takes from the call until it looks. It is called so long before the last of many answers, so that
/// it wakes when they are there, and neither waits for the other. On that machine, with 32 in flight, a random read so took
/// 2.1 µs of its worker's time instead of 2.9, a rewrite 2.8 instead of 3.8 (20 and 30 µs did equally well, 12 and 60 less).
const WAKE_UP: Duration = Duration::from_micros(30);

/// Whether to call the driver while `left` requests are still to be answered, after so many that it does not know of, the
/// last of which took so long: they are the greater part, and the others will be there when it has woken.
fn is_time_to_call(unannounced: u32, left: u32, took: Duration) -> bool {
    unannounced >= CALL_EVERY || (1..=unannounced).contains(&left) && took.saturating_mul(left) <= WAKE_UP
}

/// Why a ring is not touched any more.
#[derive(Debug, Error)]
pub(crate) enum RingError {
    /// Its parts were never set, or do not lie in guest memory.
    #[error("the ring is not in guest memory")]
    Layout,
    /// Its indices make no sense, or it vanished.
    #[error("the ring is broken")]
    Broken(#[from] virtio_queue::Error),
    /// It says that there is an entry which cannot be read.
    #[error("an entry of the ring cannot be read")]
    Unreadable,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Drained {
    /// Nothing is available. Whether the driver will kick is as the caller wished.
    Empty,
    /// There is more, but it is another ring's turn.
    More,
    /// There may be more, but what waits for storage comes first: the next request itself, or as many as may.
    Waiting,
    /// The ring was told to stop; the request in hand was put back.
    Stopped,
    /// The operator's limits do not let more through yet; the request in hand was put back.
    Later(Later),
}

/// A popped head that owes the driver an answer.
#[must_use = "a popped chain must be completed or put back"]
struct Head(u16);

impl Head {
    /// Answers: the status byte, then the used ring.
    fn complete(self, queue: &mut Queue, memory: &Memory, walk: &Walk<'_>, done: Done) -> Result<(), RingError> {
        let len = match walk.status() {
            Some(place) => {
                place.copy_from(&[done.status.byte()]);
                done.written.saturating_add(1)
            }
            None => 0,
        };
        Ok(queue.add_used(memory, self.0, len)?)
    }

    /// Leaves the chain available, as if it had never been popped.
    fn put_back(self, queue: &mut Queue) {
        queue.go_to_previous_position();
    }
}

/// One worker's turn at a queue.
pub(crate) struct Turn<'t, C> {
    queue: &'t mut Queue,
    memory: &'t MemoryGuard,
    disk: &'t Disk,
    parking: &'t mut Parking,
    tally: &'t mut Tally,
    /// Completed since the driver was last asked whether it wants a call.
    unannounced: u32,
    call: C,
}

impl<'t, C: FnMut()> Turn<'t, C> {
    /// A turn; `call` calls the driver. It ends with [`Self::announce`].
    pub(crate) fn new(
        queue: &'t mut Queue,
        memory: &'t MemoryGuard,
        disk: &'t Disk,
        parking: &'t mut Parking,
        tally: &'t mut Tally,
        call: C,
    ) -> Self {
        Self {
            queue,
            memory,
            disk,
            parking,
            tally,
            unannounced: 0,
            call,
        }
    }

    /// Executes what is available, up to `budget` requests, calling the driver as it wishes to be called. At the end of them
    /// the driver is told to kick for more, if it `must_kick`.
    ///
    /// # Errors
    /// [`RingError`]; the ring must not be drained again.
    pub(crate) fn drain(&mut self, work: &mut Work<'_>, budget: u32, must_kick: bool) -> Result<Drained, RingError> {
        let memory: &'t Memory = self.memory;
        let mut walk = Walk::new();
        self.queue.disable_notification(memory)?;
        self.tally.begin();
        for _ in 0..budget {
            if self.parking.keeps_ring() {
                return Ok(Drained::Waiting);
            }
            let Some(chain) = self.pop(must_kick)? else {
                return Ok(Drained::Empty);
            };
            let (head, before) = (Head(chain.head_index()), self.parking.take_next());
            let begun = before.as_ref().map_or_else(|| self.tally.taken_up(), |wait| wait.begun);
            let patience = before.as_ref().map_or(Patience::None, Wait::patience);
            work.scratch.cold.begin(patience);
            match execute(&mut walk, chain, memory, self.disk, work, Attempt::First) {
                Ok(executed) => self.complete(head, &walk, executed, begun)?,
                Err(PutDown::Cold) => self.park(head, begun, work)?,
                Err(PutDown::ColdInPlace) => {
                    head.put_back(self.queue);
                    self.parking.keep_next(begun, work.scratch.cold.take(), before.as_ref());
                    return Ok(Drained::Waiting);
                }
                Err(PutDown::Stopped) => {
                    head.put_back(self.queue);
                    return Ok(Drained::Stopped);
                }
                Err(PutDown::Later(later)) => {
                    head.put_back(self.queue);
                    return Ok(Drained::Later(later));
                }
            }
            if work.is_stopped() {
                return Ok(Drained::Stopped);
            }
        }
        Ok(Drained::More)
    }

    /// Tries those parked requests again for which storage has delivered.
    ///
    /// # Errors
    /// As [`Self::drain`].
    pub(crate) fn resume(&mut self, work: &mut Work<'_>) -> Result<(), RingError> {
        while let Some(parked) = self.parking.take_ready() {
            work.scratch.cold.begin(parked.wait.patience());
            self.retry(parked, work)?;
        }
        Ok(())
    }

    /// Executes every parked request, however long storage takes: the ring is to stop, and then nothing may be left over.
    ///
    /// # Errors
    /// As [`Self::drain`].
    pub(crate) fn finish(&mut self, work: &mut Work<'_>) -> Result<(), RingError> {
        while let Some(parked) = self.parking.take_any() {
            work.scratch.cold.begin(Patience::Endless);
            self.retry(parked, work)?;
        }
        Ok(())
    }

    fn retry(&mut self, parked: Parked, work: &mut Work<'_>) -> Result<(), RingError> {
        let mut walk = Walk::new();
        let (head, begun) = (Head(parked.chain.head_index()), parked.wait.begun);
        let memory = parked.chain.memory();
        match execute(
            &mut walk,
            parked.chain.clone(),
            memory,
            self.disk,
            work,
            Attempt::Further,
        ) {
            Ok(executed) => self.complete(head, &walk, executed, begun),
            // It cannot be put back, since others were popped after it: it goes on waiting.
            Err(PutDown::Cold | PutDown::ColdInPlace | PutDown::Stopped | PutDown::Later(_)) => {
                self.parking.park_again(parked, work.scratch.cold.take());
                Ok(())
            }
        }
    }

    /// Calls the driver about what was completed, if it wants that.
    ///
    /// # Errors
    /// As [`Self::drain`].
    pub(crate) fn announce(&mut self) -> Result<(), RingError> {
        let memory: &'t Memory = self.memory;
        if std::mem::take(&mut self.unannounced) > 0 && self.queue.needs_notification(memory)? {
            (self.call)();
        }
        Ok(())
    }

    /// The next chain; none where there is none, of which the driver knows if it `must_kick`.
    fn pop(&mut self, must_kick: bool) -> Result<Option<DescriptorChain<&'t Memory>>, RingError> {
        let memory: &'t Memory = self.memory;
        if let Some(chain) = self.queue.iter(memory)?.next() {
            return Ok(Some(chain));
        }
        if !must_kick || !self.queue.enable_notification(memory)? {
            return Ok(None);
        }
        // Something is available, so that a queue which yields nothing now never will.
        let chain = self.queue.iter(memory)?.next();
        chain.map(Some).ok_or(RingError::Unreadable)
    }

    /// How many requests are available that were not popped. None for a driver that cannot say (by EVENT_IDX) that it knows of the
    /// answers by now: it would be called twice for the same.
    fn left(&self) -> Result<u32, RingError> {
        if !self.queue.event_idx_enabled() {
            return Ok(0);
        }
        let memory: &'t Memory = self.memory;
        let available = self.queue.avail_idx(memory, Ordering::Relaxed)?;
        Ok(u32::from(available.0.wrapping_sub(self.queue.next_avail())))
    }

    fn complete(
        &mut self,
        head: Head,
        walk: &Walk<'_>,
        (done, account): (Done, Account),
        begun: Instant,
    ) -> Result<(), RingError> {
        head.complete(self.queue, self.memory, walk, done)?;
        let took = self.tally.answered(account, done.status == Status::Ok, begun);
        self.unannounced += 1;
        if is_time_to_call(self.unannounced, self.left()?, took) {
            self.announce()?;
        }
        Ok(())
    }

    /// Puts the request aside, with a hold on the guest memory it lies in: popped once more, as a value that lasts.
    fn park(&mut self, head: Head, begun: Instant, work: &mut Work<'_>) -> Result<(), RingError> {
        head.put_back(self.queue);
        let again = self.queue.iter(self.memory.clone())?.next();
        let chain = again.ok_or(RingError::Unreadable)?;
        self.parking.park(chain, begun, work.scratch.cold.take());
        Ok(())
    }
}

/// Which attempt at a request it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attempt {
    /// The first: limits may put it back.
    First,
    /// It was let through once and cannot be put back, since others were popped after it.
    Further,
}

/// Walks, parses and executes one request. What cannot be read is an answer too.
fn execute<'m, M: Deref<Target = Memory>>(
    walk: &mut Walk<'m>,
    chain: DescriptorChain<M>,
    memory: &'m Memory,
    disk: &Disk,
    work: &mut Work<'_>,
    attempt: Attempt,
) -> Result<(Done, Account), PutDown> {
    const FAILED: Done = Done {
        status: Status::IoError,
        written: 0,
    };
    let loaded = walk.load(chain, memory);
    let request = match loaded.and_then(|()| Request::parse(walk)) {
        Ok(request) => request,
        Err(malformed) => {
            debug!("a malformed request: {malformed}");
            let account = Account {
                kind: Kind::Malformed,
                bytes: 0,
            };
            return Ok((FAILED, account));
        }
    };
    let done = match attempt {
        Attempt::First => {
            disk.admit(&request)?;
            let executed = match disk.execute(&request, work) {
                // What was parked could not be held any more.
                Err(PutDown::Cold) if request.may_grow() && disk.shortage().policy() == AtLimit::Hold => {
                    Err(PutDown::ColdInPlace)
                }
                other => other,
            };
            if let Err(PutDown::ColdInPlace | PutDown::Stopped | PutDown::Later(_)) = executed {
                // It goes back into the ring: a held request must not use up what other queues are to have.
                disk.throttle().put_back(request.moved());
            }
            executed?
        }
        Attempt::Further => match disk.execute(&request, work) {
            Err(PutDown::Later(_)) => FAILED,
            other => other?,
        },
    };
    Ok((done, request.account()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAST: Duration = Duration::from_micros(3);

    #[test]
    fn the_driver_is_called_when_the_rest_takes_as_long_as_its_waking() {
        assert!(!is_time_to_call(21, 11, FAST));
        assert!(is_time_to_call(22, 10, FAST));
        assert!(is_time_to_call(7, 1, WAKE_UP));
        assert!(!is_time_to_call(7, 1, WAKE_UP + Duration::from_nanos(1)));
    }

    #[test]
    fn few_answers_wait_for_the_others() {
        assert!(!is_time_to_call(3, 4, FAST));
        assert!(is_time_to_call(4, 4, FAST));
        assert!(!is_time_to_call(1, u32::from(u16::MAX), Duration::ZERO));
    }

    #[test]
    fn after_the_last_one_and_after_many_it_is_a_matter_of_their_number() {
        assert!(!is_time_to_call(CALL_EVERY - 1, 0, FAST));
        assert!(is_time_to_call(CALL_EVERY, 0, FAST));
        assert!(is_time_to_call(CALL_EVERY, 100, Duration::MAX));
    }
}
