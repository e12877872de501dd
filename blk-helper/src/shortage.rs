//! What is done where a guest's write finds no space, at the quota or at the floor: it fails, or its queue is held;
//! and who is told.
//!
//! An event is for the moment in which space runs out, not for each request that notices: it comes again only after there was
//! space in between, and not twice in a second, however a guest goes back and forth.

use crate::events::Events;
use crate::overlay::{FloorReached, Overlay, OverlayError};
use nix::errno::Errno;
use protocol::control::{AtLimit, Event};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The shortest time between two events of a kind. A guess: fast enough for people, too slow to flood anybody.
const BETWEEN: Duration = Duration::from_secs(1);

/// The policy, and whether space is short.
#[derive(Debug)]
pub(crate) struct Shortage {
    hold: AtomicBool,
    quota: Latch,
    floor: Latch,
    events: Arc<Events>,
}

impl Shortage {
    /// There is space; `events` is told when there is none.
    pub(crate) fn new(at_limit: AtLimit, events: Arc<Events>) -> Self {
        Self {
            hold: AtomicBool::new(at_limit == AtLimit::Hold),
            quota: Latch::default(),
            floor: Latch::default(),
            events,
        }
    }

    /// What is done.
    pub(crate) fn policy(&self) -> AtLimit {
        if self.hold.load(Ordering::Relaxed) {
            AtLimit::Hold
        } else {
            AtLimit::Error
        }
    }

    /// From now on does this.
    pub(crate) fn change(&self, at_limit: AtLimit) {
        self.hold.store(at_limit == AtLimit::Hold, Ordering::Relaxed);
    }

    /// What is to be done about a write that failed so: nothing but tell the guest, unless want of space is the cause, which
    /// is told to who asked for events.
    pub(crate) fn is_cause_of(&self, error: &OverlayError, overlay: &Overlay) -> AtLimit {
        match error {
            OverlayError::LimitReached => self.quota_reached(overlay.limit_bytes()),
            OverlayError::FloorReached(FloorReached { free, keep }) => self.space_low(*free, *keep),
            OverlayError::Io { source, .. } if is_full(source) => {
                self.space_low(overlay.file().free_bytes().unwrap_or(0), overlay.floor().keep());
            }
            // More memory for the map can never be had, so that waiting would be for ever.
            OverlayError::Stopped | OverlayError::Cold | OverlayError::MapLimitReached | OverlayError::Io { .. } => {
                return AtLimit::Error;
            }
        }
        self.policy()
    }

    /// A write was carried out: there may be space again.
    pub(crate) fn written(&self, overlay: &Overlay) {
        if (self.quota.is_closed() || self.floor.is_closed()) && overlay.has_room() {
            self.quota.open();
            self.floor.open();
        }
    }

    fn quota_reached(&self, limit_bytes: u64) {
        if self.quota.close(Instant::now()) {
            self.events.emit(Event::QuotaReached { limit_bytes });
        }
    }

    fn space_low(&self, free_bytes: u64, keep_free_bytes: u64) {
        if self.floor.close(Instant::now()) {
            self.events.emit(Event::SpaceLow {
                free_bytes,
                keep_free_bytes,
            });
        }
    }
}

/// Whether the host's file system has no space, or none for this user.
fn is_full(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::ENOSPC | Errno::EDQUOT))
}

/// Whether something holds and was told, and when it was told last.
#[derive(Debug, Default)]
struct Latch {
    closed: AtomicBool,
    told: Mutex<Option<Instant>>,
}

impl Latch {
    /// It holds. Says whether to tell. If it is too soon after the last time, who notices next tells:
    /// what lasts is told in the end.
    fn close(&self, now: Instant) -> bool {
        if self.is_closed() {
            return false;
        }
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let due = told.is_none_or(|told| now.saturating_duration_since(told) >= BETWEEN);
        if due {
            *told = Some(now);
            self.closed.store(true, Ordering::Relaxed);
        }
        due
    }

    /// Whether it holds, and that was told.
    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// It does not.
    fn open(&self) {
        self.closed.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_moment_is_told_and_not_each_request() {
        let events = Arc::new(Events::new().unwrap());
        let shortage = Shortage::new(AtLimit::Hold, Arc::clone(&events));
        assert_eq!(shortage.policy(), AtLimit::Hold);

        for _ in 0..100 {
            shortage.quota_reached(4096);
            shortage.space_low(1, 2);
        }
        assert_eq!(events.take(), Some(Event::QuotaReached { limit_bytes: 4096 }));
        let low = Event::SpaceLow {
            free_bytes: 1,
            keep_free_bytes: 2,
        };
        assert_eq!(events.take(), Some(low));
        assert_eq!(events.take(), None);
    }

    #[test]
    fn it_is_told_again_after_there_was_space_and_not_twice_in_a_second() {
        let (latch, now) = (Latch::default(), Instant::now());
        assert!(latch.close(now));
        assert!(!latch.close(now + 2 * BETWEEN), "it holds already");

        latch.open();

        assert!(!latch.close(now + BETWEEN / 2));
        assert!(latch.close(now + BETWEEN), "it is never told");
        assert!(!latch.close(now + 3 * BETWEEN));
    }

    #[test]
    fn only_want_of_space_is_one() {
        let full = |errno: Errno| is_full(&io::Error::from(errno));
        assert!(full(Errno::ENOSPC) && full(Errno::EDQUOT));
        assert!(!full(Errno::EIO) && !is_full(&io::ErrorKind::UnexpectedEof.into()));
    }
}
