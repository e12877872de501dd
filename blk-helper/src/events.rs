//! What happened, on its way from any thread to the control thread, which tells whoever asked for it.
//!
//! Telling never waits: a queue of fixed length behind a lock that nobody holds for longer than it takes to put something in, and
//! an eventfd that wakes the control thread and is never read. What finds the queue full is dropped and counted.

use nix::sys::eventfd::{EfdFlags, EventFd};
use protocol::control::Event;
use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Events that wait at a time. They are rare and the control thread takes them at once, so that it is a guess.
const ROOM: usize = 64;

/// The queue.
#[derive(Debug)]
pub(crate) struct Events {
    queue: Mutex<Queue>,
    bell: EventFd,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Event>,
    dropped: u64,
}

impl Events {
    /// An empty queue.
    ///
    /// # Errors
    /// When the kernel has no more descriptors.
    pub(crate) fn new() -> nix::Result<Self> {
        let queue = Queue {
            waiting: VecDeque::with_capacity(ROOM),
            dropped: 0,
        };
        Ok(Self {
            queue: Mutex::new(queue),
            bell: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
        })
    }

    /// Tells of `event`, from any thread, without waiting.
    pub(crate) fn emit(&self, event: Event) {
        {
            let mut queue = self.queue();
            if queue.waiting.len() < ROOM {
                queue.waiting.push_back(event);
            } else {
                queue.dropped = queue.dropped.saturating_add(1);
            }
        }
        // A full eventfd has woken the control thread already.
        let _ = self.bell.write(1);
    }

    /// The event that has waited longest.
    pub(crate) fn take(&self) -> Option<Event> {
        self.queue().waiting.pop_front()
    }

    /// Counts one that found no room elsewhere.
    pub(crate) fn count_dropped(&self) {
        let mut queue = self.queue();
        queue.dropped = queue.dropped.saturating_add(1);
    }

    /// Events that somebody did not get.
    pub(crate) fn dropped(&self) -> u64 {
        self.queue().dropped
    }

    /// The descriptor's number, for the list of what is open.
    pub(crate) fn number(&self) -> RawFd {
        self.bell.as_fd().as_raw_fd()
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for Events {
    /// Each event makes it readable once more: to be waited for edge-triggered.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_out_in_order_and_those_beyond_the_room_are_counted() {
        let events = Events::new().unwrap();
        for disk_bytes in 0..100 {
            events.emit(Event::Resized { disk_bytes });
        }

        let taken: Vec<_> = std::iter::from_fn(|| events.take()).collect();

        let expected = (0..64).map(|disk_bytes| Event::Resized { disk_bytes });
        assert!(taken.into_iter().eq(expected));
        assert_eq!(events.dropped(), 36);
        events.emit(Event::Reset);
        assert_eq!(events.take(), Some(Event::Reset));
    }
}
