//! What is done where a guest's write finds no space, at the quota or at the floor: it fails, or its queue is held; and who is told.
//!
//! An event is for the moment in which space runs out, not for each request that notices: it comes again only after there was
//! space in between, and not twice in a second, however a guest goes back and forth.

use crate::events::Events;
use protocol::control::{AtLimit, Event};
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

    /// A write found the quota used up.
    pub(crate) fn quota_reached(&self, limit_bytes: u64) {
        if self.quota.close() {
            self.events.emit(Event::QuotaReached { limit_bytes });
        }
    }

    /// A write found less space than is to be kept free.
    pub(crate) fn space_low(&self, free_bytes: u64, keep_free_bytes: u64) {
        if self.floor.close() {
            self.events.emit(Event::SpaceLow {
                free_bytes,
                keep_free_bytes,
            });
        }
    }

    /// A write found space.
    pub(crate) fn found(&self) {
        self.quota.open();
        self.floor.open();
    }
}

/// Whether something holds, and when that was told last.
#[derive(Debug, Default)]
struct Latch {
    closed: AtomicBool,
    told: Mutex<Option<Instant>>,
}

impl Latch {
    /// It holds. Says whether to tell.
    fn close(&self) -> bool {
        if self.closed.swap(true, Ordering::Relaxed) {
            return false;
        }
        let now = Instant::now();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let due = told.is_none_or(|told| now.saturating_duration_since(told) >= BETWEEN);
        if due {
            *told = Some(now);
        }
        due
    }

    /// It does not. Nearly always so, and then nothing is written.
    fn open(&self) {
        if self.closed.load(Ordering::Relaxed) {
            self.closed.store(false, Ordering::Relaxed);
        }
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
        let begun = Instant::now();

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

        shortage.found();
        shortage.quota_reached(4096);
        assert!(
            events.take().is_none() || begun.elapsed() >= BETWEEN,
            "told twice in a second"
        );
        std::thread::sleep(BETWEEN);
        shortage.found();
        shortage.quota_reached(8192);
        assert_eq!(events.take(), Some(Event::QuotaReached { limit_bytes: 8192 }));
    }
}
