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
use virtio_queue::{Queue, QueueOwnedT, QueueT};

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
    #[error("the ring is broken: {0}")]
    Broken(#[from] virtio_queue::Error),
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
    mut call: impl FnMut(),
) -> Result<Drained, RingError> {
    let mut walk = Walk::new();
    let mut completed = 0u32;
    queue.disable_notification(memory)?;
    let drained = loop {
        if completed >= budget {
            break Drained::More;
        }
        let Some(chain) = queue.iter(memory)?.next() else {
            if queue.enable_notification(memory)? {
                continue;
            }
            break Drained::Empty;
        };
        let head = Head(chain.head_index());
        let loaded = walk.load(chain, memory);
        let done = match loaded.and_then(|()| Request::parse(&walk)) {
            Ok(request) => disk.execute(&request, work),
            Err(malformed) => {
                debug!("a malformed request: {malformed}");
                Ok(Done {
                    status: Status::IoError,
                    written: 0,
                })
            }
        };
        match done {
            Ok(done) => head.complete(queue, memory, &walk, done)?,
            Err(Stopped) => {
                head.put_back(queue);
                break Drained::Stopped;
            }
        }
        completed += 1;
        if completed.is_multiple_of(CALL_EVERY) && queue.needs_notification(memory)? {
            call();
        }
        if work.stop.load(std::sync::atomic::Ordering::Relaxed) {
            break Drained::Stopped;
        }
    };
    if !completed.is_multiple_of(CALL_EVERY) && queue.needs_notification(memory)? {
        call();
    }
    Ok(drained)
}
