//! One drain of a virtqueue: pop, walk, parse, execute, complete.
//!
//! Requests are completed in the order in which they were popped, each exactly once: a popped head is a value that only
//! [`Head::complete`] or [`Head::put_back`] consume. What a guest puts *into* a chain can only fail that request; a ring
//! that cannot be read at all is a [`RingError`], after which nobody touches it again.
//!
//! Knows nothing of vhost-user, descriptors of this process, or threads.

use crate::chain::Walk;
use crate::disk::{Disk, Done, Stopped};
use crate::guest_memory::Memory;
use crate::overlay::Work;
use crate::request::Request;
use log::debug;
use protocol::blk::Status;
use thiserror::Error;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};

/// Completed requests after which the driver is called without waiting for the ring to be empty, so that a long drain
/// does not keep the first answers back. A guess: small enough to keep a driver busy, large enough to save calls.
const CALL_EVERY: u32 = 16;

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
    /// Nothing is available; the driver will kick.
    Empty,
    /// There is more, but it is another ring's turn.
    More,
    /// The ring was told to stop; the request in hand was put back.
    Stopped,
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

/// Executes what is available, up to `budget` requests, calling the driver as it wishes to be called.
///
/// # Errors
/// [`RingError`]; the ring must not be drained again.
pub(crate) fn drain(
    queue: &mut Queue,
    memory: &Memory,
    disk: &Disk,
    work: &mut Work<'_>,
    budget: u32,
    call: impl FnMut(),
) -> Result<Drained, RingError> {
    let mut turn = Turn {
        queue,
        memory,
        disk,
        unannounced: 0,
        call,
    };
    let drained = turn.run(work, budget);
    // Also when the ring turned out to be broken: the requests before that were answered, and their driver may sleep.
    let announced = turn.announce();
    let drained = drained?;
    announced.map(|()| drained)
}

/// One drain.
struct Turn<'t, C> {
    queue: &'t mut Queue,
    memory: &'t Memory,
    disk: &'t Disk,
    /// Completed since the driver was last asked whether it wants a call.
    unannounced: u32,
    call: C,
}

impl<'t, C: FnMut()> Turn<'t, C> {
    fn run(&mut self, work: &mut Work<'_>, budget: u32) -> Result<Drained, RingError> {
        let mut walk = Walk::new();
        self.queue.disable_notification(self.memory)?;
        for _ in 0..budget {
            let Some(chain) = self.pop()? else {
                return Ok(Drained::Empty);
            };
            let head = Head(chain.head_index());
            let loaded = walk.load(chain, self.memory);
            let done = match loaded.and_then(|()| Request::parse(&walk)) {
                Ok(request) => self.disk.execute(&request, work),
                Err(malformed) => {
                    debug!("a malformed request: {malformed}");
                    Ok(Done {
                        status: Status::IoError,
                        written: 0,
                    })
                }
            };
            match done {
                Ok(done) => head.complete(self.queue, self.memory, &walk, done)?,
                Err(Stopped) => {
                    head.put_back(self.queue);
                    return Ok(Drained::Stopped);
                }
            }
            self.unannounced += 1;
            if self.unannounced >= CALL_EVERY {
                self.announce()?;
            }
            if work.is_stopped() {
                return Ok(Drained::Stopped);
            }
        }
        Ok(Drained::More)
    }

    /// The next chain; none once the driver knows that it has to kick for another.
    fn pop(&mut self) -> Result<Option<DescriptorChain<&'t Memory>>, RingError> {
        if let Some(chain) = self.queue.iter(self.memory)?.next() {
            return Ok(Some(chain));
        }
        if !self.queue.enable_notification(self.memory)? {
            return Ok(None);
        }
        // Something is available, so that a queue which yields nothing now never will.
        let chain = self.queue.iter(self.memory)?.next();
        chain.map(Some).ok_or(RingError::Unreadable)
    }

    /// Calls the driver about what was completed, if it wants that.
    fn announce(&mut self) -> Result<(), RingError> {
        if std::mem::take(&mut self.unannounced) > 0 && self.queue.needs_notification(self.memory)? {
            (self.call)();
        }
        Ok(())
    }
}
