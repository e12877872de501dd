//! The floor: space that the overlay's file system keeps free, whoever uses it up.
//!
//! The file system is asked now and then, not for each cluster: what it said is trusted for as long as others would need to use the
//! room up, and no longer than our own writes leave some of it.

use protocol::size::show;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use thiserror::Error;

/// Never asks more often than this.
const SHORTEST: Duration = Duration::from_millis(10);

/// Never trusts an answer for longer.
const LONGEST: Duration = Duration::from_secs(1);

/// Bytes that others are thought to write in [`SHORTEST`], at the most: 1.6 GB in a second. A guess.
const OTHERS: u64 = 16 << 20;

/// There is too little.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the overlay's file system has {} free, and {} are to stay free", show(*free), show(*keep))]
pub(crate) struct FloorReached {
    /// Free bytes.
    pub(crate) free: u64,
    /// Those to be kept.
    pub(crate) keep: u64,
}

/// The floor.
#[derive(Debug)]
pub(crate) struct Floor {
    /// Bytes to be kept free; 0 means that nobody looks.
    keep: AtomicU64,
    seen: Mutex<Option<Seen>>,
}

/// What the file system said.
#[derive(Clone, Copy, Debug)]
struct Seen {
    free: u64,
    /// What is left of it above the floor, less what we took since.
    room: u64,
    at: Instant,
    trusted_until: Instant,
}

impl Floor {
    /// One that keeps so many bytes free.
    pub(crate) fn new(keep: u64) -> Self {
        Self {
            keep: AtomicU64::new(keep),
            seen: Mutex::new(None),
        }
    }

    /// Bytes that are kept free.
    pub(crate) fn keep(&self) -> u64 {
        self.keep.load(Ordering::Relaxed)
    }

    /// From now on keeps so many free.
    pub(crate) fn change(&self, keep: u64) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        self.keep.store(keep, Ordering::Relaxed);
        *seen = None;
    }

    /// Makes sure that the file system has room for `bytes` more; `free` says how much it has.
    ///
    /// # Errors
    /// [`FloorReached`]. A file system that does not say is taken to have room: a write that finds none will tell.
    pub(crate) fn admit(&self, bytes: u64, free: impl FnOnce() -> io::Result<u64>) -> Result<(), FloorReached> {
        if self.keep() == 0 {
            return Ok(());
        }
        self.admit_at(Instant::now(), bytes, free)
    }

    fn admit_at(&self, now: Instant, bytes: u64, free: impl FnOnce() -> io::Result<u64>) -> Result<(), FloorReached> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let keep = self.keep();
        let current = match seen.filter(|seen| !seen.is_stale(bytes, now)) {
            Some(current) => current,
            None => match free() {
                Ok(free) => Seen::new(free, keep, now),
                Err(_) => return Ok(()),
            },
        };
        let left = current.room.checked_sub(bytes);
        *seen = Some(Seen {
            room: left.unwrap_or(current.room),
            ..current
        });
        left.map(|_| ()).ok_or(FloorReached {
            free: current.free,
            keep,
        })
    }
}

impl Seen {
    fn new(free: u64, keep: u64, now: Instant) -> Self {
        let room = free.saturating_sub(keep);
        let times = u32::try_from(room / OTHERS).unwrap_or(u32::MAX);
        let trust = SHORTEST.saturating_mul(times).clamp(SHORTEST, LONGEST);
        Self {
            free,
            room,
            at: now,
            trusted_until: now.checked_add(trust).unwrap_or(now),
        }
    }

    /// Whether to ask again for `bytes`: it is long ago, or what is left is too little and it may have become more.
    fn is_stale(&self, bytes: u64, now: Instant) -> bool {
        now >= self.trusted_until || (bytes > self.room && now.saturating_duration_since(self.at) >= SHORTEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    const MIB: u64 = 1 << 20;

    #[test]
    fn without_a_floor_nobody_asks() {
        Floor::new(0).admit(u64::MAX, || unreachable!()).unwrap();
    }

    #[test]
    fn what_would_go_below_the_floor_is_refused_and_costs_nothing() {
        let now = Instant::now();
        let floor = Floor::new(100 * MIB);
        let admit = |bytes| floor.admit_at(now, bytes, || Ok(101 * MIB));
        for _ in 0..255 {
            admit(4096).unwrap();
        }

        let refused = FloorReached {
            free: 101 * MIB,
            keep: 100 * MIB,
        };
        assert_eq!(admit(4097), Err(refused));
        admit(4096).unwrap();
        assert_eq!(admit(4096), Err(refused));
        floor.admit_at(now + SHORTEST, MIB, || Ok(102 * MIB)).unwrap();
    }

    #[test]
    fn a_lot_of_room_is_asked_for_seldom_and_little_often() {
        let now = Instant::now();
        let trust = |free| Seen::new(free, 100 * MIB, now).trusted_until - now;

        assert_eq!(trust(0), SHORTEST);
        assert_eq!(trust(101 * MIB), SHORTEST);
        assert_eq!(trust(100 * MIB + 10 * OTHERS), 10 * SHORTEST);
        assert_eq!(trust(u64::MAX), LONGEST);
    }

    #[test]
    fn an_answer_is_used_again_and_forgotten_when_the_floor_changes() {
        let asked = Cell::new(0);
        let floor = Floor::new(MIB);
        let now = Instant::now();
        let admit = || {
            floor.admit_at(now, 4096, || {
                asked.set(asked.get() + 1);
                Ok(1 << 40)
            })
        };
        for _ in 0..1000 {
            admit().unwrap();
        }
        assert_eq!(asked.get(), 1);

        floor.change(2 * MIB);

        admit().unwrap();
        assert_eq!((asked.get(), floor.keep()), (2, 2 * MIB));
    }

    #[test]
    fn near_the_floor_it_is_asked_again_but_not_each_time() {
        let now = Instant::now();
        let seen = Seen::new(100 * MIB, 100 * MIB, now);
        assert!(!seen.is_stale(4096, now + SHORTEST - Duration::from_nanos(1)));
        assert!(seen.is_stale(4096, now + SHORTEST));
        let roomy = Seen::new(u64::MAX, 0, now);
        assert!(!roomy.is_stale(4096, now + SHORTEST));
        assert!(roomy.is_stale(4096, now + LONGEST));
    }

    #[test]
    fn who_does_not_say_has_room() {
        Floor::new(MIB)
            .admit(1 << 40, || Err(io::ErrorKind::Other.into()))
            .unwrap();
    }
}
