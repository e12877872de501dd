//! The card's thread: frames between the tap and the guest's queues, one at a time through a buffer of its own.
//!
//! Nothing here waits but [`Card::run`], which waits for everything at once: the tap, the kicks, the bell. All edge-triggered, and
//! only the tap is ever read: whatever wakes the thread, a turn looks at everything. A frame that cannot be delivered (no room, a
//! header that lies, an interface that is down) is dropped, as on a wire.

use super::header::{self, BYTES};
use super::{Ring, RingError, Rings, Shared};
use crate::sys::eventfd;
use log::warn;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::unistd::{read, write};
use std::fmt;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

/// The largest frame with its header: a 64 KiB segment with what Ethernet, VLAN, IP and TCP put before it.
const FRAME_BYTES: usize = BYTES + 65536 + 256;
/// Frames in each direction in one turn, during which the control thread may have to wait. A guess.
const TURN: usize = 64;
/// The event that is the tap.
const TAP: u64 = 1;
/// Any other event: a kick or the bell.
const NUDGE: u64 = 0;
/// Events taken at a time: one for each descriptor.
const EVENTS: usize = 4;

/// What the card's thread owns.
pub(crate) struct Card {
    shared: Arc<Shared>,
    epoll: Epoll,
    tap: OwnedFd,
    /// The tap still exists.
    plugged: bool,
    /// The tap may have a frame.
    readable: bool,
    /// A frame from the tap, which waits for a buffer if `waiting` says how long it is.
    received: Box<[u8]>,
    waiting: Option<usize>,
    /// A frame from the guest.
    sent: Box<[u8]>,
}

impl fmt::Debug for Card {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Card")
            .field("name", &self.shared.name)
            .field("plugged", &self.plugged)
            .finish_non_exhaustive()
    }
}

impl Card {
    /// A card on `tap`.
    pub(super) fn new(shared: Arc<Shared>, tap: OwnedFd) -> nix::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let edge = |data| EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, data);
        epoll.add(&tap, edge(TAP))?;
        for nudge in shared.lines.kicks.iter().chain([&shared.bell]) {
            epoll.add(eventfd(nudge), edge(NUDGE))?;
        }
        Ok(Self {
            shared,
            epoll,
            tap,
            plugged: true,
            readable: false,
            received: vec![0; FRAME_BYTES].into(),
            waiting: None,
            sent: vec![0; FRAME_BYTES].into(),
        })
    }

    /// The number of what it waits with.
    pub(super) fn epoll(&self) -> RawFd {
        self.epoll.0.as_raw_fd()
    }

    /// The thread's life. Returns only when waiting fails, which it cannot while the descriptors are ours.
    pub(crate) fn run(mut self) -> Errno {
        let mut more = false;
        loop {
            let timeout = if more { EpollTimeout::ZERO } else { EpollTimeout::NONE };
            if let Err(error) = self.wait(timeout) {
                return error;
            }
            more = self.turn();
        }
    }

    /// Waits for whatever there is to wait for.
    pub(crate) fn wait(&mut self, timeout: EpollTimeout) -> nix::Result<()> {
        let mut events = [EpollEvent::empty(); EVENTS];
        let count = match self.epoll.wait(&mut events, timeout) {
            Err(Errno::EINTR) => 0,
            other => other?,
        };
        self.readable |= events.iter().take(count).any(|event| event.data() == TAP);
        Ok(())
    }

    /// Moves some frames. Whether there may be more.
    pub(crate) fn turn(&mut self) -> bool {
        let shared = Arc::clone(&self.shared);
        let mut rings = shared.rings();
        let Some(rings) = rings.as_mut() else {
            // What came for the driver before a reset is not for the one after it.
            self.waiting = None;
            return false;
        };
        let Rings { receive, send, acked } = rings;
        let received = self.served(receive, |card, ring| card.receive(ring));
        let sent = self.served(send, |card, ring| card.send(ring, *acked));
        received || sent
    }

    /// Serves a queue with `serve`, unless it is broken or was never ready.
    fn served(
        &mut self,
        place: &mut Option<Ring>,
        serve: impl FnOnce(&mut Self, &mut Ring) -> Result<Turned, RingError>,
    ) -> bool {
        let Some(ring) = place else {
            return false;
        };
        let turned = serve(self, ring).and_then(|turned| {
            let calls = turned.moved && ring.wants_call()?;
            Ok((turned.more, calls))
        });
        let (more, calls) = turned.unwrap_or_else(|error| {
            self.shared.complaints.say(&self.shared.name, &error);
            *place = None;
            (false, true)
        });
        if calls {
            self.shared.lines.interrupt();
        }
        more
    }

    /// From the tap to the guest.
    fn receive(&mut self, ring: &mut Ring) -> Result<Turned, RingError> {
        let mut moved = false;
        for _ in 0..TURN {
            let Some(bytes) = self.waiting.or_else(|| self.read()) else {
                return Ok(Turned { moved, more: false });
            };
            self.waiting = Some(bytes);
            let Some(head) = ring.pop()? else {
                // The frame waits for a buffer; the driver will kick.
                return Ok(Turned { moved, more: false });
            };
            let written = self.received.get(..bytes).and_then(|frame| ring.scatter(frame));
            ring.complete(head, written.unwrap_or(0))?;
            self.waiting = None;
            moved = true;
        }
        Ok(Turned { moved, more: true })
    }

    /// From the guest to the tap.
    fn send(&mut self, ring: &mut Ring, acked: u64) -> Result<Turned, RingError> {
        let mut moved = false;
        for _ in 0..TURN {
            let Some(head) = ring.pop()? else {
                return Ok(Turned { moved, more: false });
            };
            if let Some(bytes) = ring.gather(&mut self.sent) {
                self.write(bytes, acked);
            }
            ring.complete(head, 0)?;
            moved = true;
        }
        Ok(Turned { moved, more: true })
    }

    /// The length of the next frame from the tap, whose header is replaced by ours.
    fn read(&mut self) -> Option<usize> {
        while self.plugged && self.readable {
            match read(&self.tap, &mut self.received) {
                Ok(0) => self.unplug(Errno::ENODEV),
                Ok(bytes) if bytes > BYTES => {
                    if let Some(header) = self.received.first_chunk_mut() {
                        *header = header::RECEIVED;
                    }
                    return Some(bytes);
                }
                // Less than a header is no frame; being interrupted is no news.
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => self.readable = false,
                Err(error) => self.unplug(error),
            }
        }
        None
    }

    /// Sends the first `bytes` bytes of `self.sent` out, if that is a frame that may go.
    fn write(&mut self, bytes: usize, acked: u64) {
        let Some(frame) = self.sent.get_mut(..bytes).filter(|_| self.plugged) else {
            return;
        };
        let Some((place, payload)) = frame.split_first_chunk_mut() else {
            return;
        };
        let Some(header) = header::sent(*place, payload.len(), acked) else {
            return;
        };
        *place = header;
        if let Err(error @ (Errno::EBADFD | Errno::ENODEV)) = write(&self.tap, frame) {
            self.unplug(error);
        }
    }

    /// The tap is gone: from now on nothing comes, and what is sent goes nowhere.
    fn unplug(&mut self, why: Errno) {
        warn!(
            "the tap of {} is gone; the guest goes on without it: {why}",
            self.shared.name
        );
        self.plugged = false;
    }
}

/// What a turn did.
#[derive(Clone, Copy, Debug)]
struct Turned {
    /// Something was completed.
    moved: bool,
    /// There may be more.
    more: bool,
}
