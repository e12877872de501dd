//! Workers watch over the control thread.
//!
//! It handles what a frontend sends, and a frontend can send what makes the kernel wait: a descriptor whose closing takes
//! for ever, a message that is shorter than it seems. Nothing at this level can tell such a thing beforehand. So while the
//! control thread is at work, workers look once a second, whatever else they do, and if it has not finished after [`PATIENCE`] of
//! their looks, the process ends: a helper that takes no messages must not exist. Looks are counted, not time, so that a process
//! which was stopped and continued is not punished for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How often to look.
pub(crate) const LOOK: Duration = Duration::from_secs(1);

/// Looks after which the control thread is given up: more than a queue may take to stop.
const PATIENCE: u32 = 40;

/// Whether the control thread is at work, and how often that was seen.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    at_work: AtomicBool,
    looks: AtomicU32,
}

impl Watch {
    /// The control thread begins to work. Whoever watches is to be woken now.
    pub(crate) fn begin(&self) {
        self.looks.store(0, Ordering::Relaxed);
        self.at_work.store(true, Ordering::Release);
    }

    /// It has finished.
    pub(crate) fn end(&self) {
        self.at_work.store(false, Ordering::Release);
    }

    /// Whether there is something to watch.
    pub(crate) fn is_on(&self) -> bool {
        self.at_work.load(Ordering::Acquire)
    }

    /// Looks, as one of `watchers`. Says whether it has been too long.
    fn is_overdue(&self, watchers: u32) -> bool {
        self.is_on() && self.looks.fetch_add(1, Ordering::Relaxed) >= PATIENCE.saturating_mul(watchers)
    }
}

/// One of those who watch.
#[derive(Debug)]
pub(crate) struct Watcher {
    watch: Arc<Watch>,
    watchers: u32,
    /// Its last look, if there is something to watch.
    looked: Option<Instant>,
}

impl Watcher {
    /// One of so many.
    pub(crate) fn new(watch: Arc<Watch>, watchers: u32) -> Self {
        Self {
            watch,
            watchers,
            looked: None,
        }
    }

    /// Whether there is something to watch.
    pub(crate) fn is_on(&self) -> bool {
        self.watch.is_on()
    }

    /// Looks, if it is time for that, however often this is asked. Says whether it has been too long.
    pub(crate) fn is_overdue(&mut self) -> bool {
        if self.is_on() {
            self.is_overdue_at(Instant::now())
        } else {
            self.looked = None;
            false
        }
    }

    fn is_overdue_at(&mut self, now: Instant) -> bool {
        let looked = *self.looked.get_or_insert(now);
        if now.saturating_duration_since(looked) < LOOK {
            return false;
        }
        self.looked = Some(now);
        self.watch.is_overdue(self.watchers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_takes_too_many_looks_is_overdue() {
        let watch = Watch::default();
        assert!(!watch.is_overdue(1), "nothing to watch");

        watch.begin();

        let looks = (0..).take_while(|_: &usize| !watch.is_overdue(2)).count();
        assert_eq!(looks, usize::try_from(PATIENCE).unwrap() * 2);
    }

    #[test]
    fn who_looks_in_often_looks_once_a_second_all_the_same() {
        let watch = Arc::new(Watch::default());
        let mut watcher = Watcher::new(Arc::clone(&watch), 1);
        assert!(!watcher.is_overdue(), "nothing to watch");
        watch.begin();
        let begun = Instant::now();

        let steps = (0..).take_while(|step: &u32| !watcher.is_overdue_at(begun + *step * LOOK / 10));

        assert_eq!(steps.count(), 10 * usize::try_from(PATIENCE + 1).unwrap());
    }

    #[test]
    fn each_piece_of_work_has_its_own_time() {
        let watch = Watch::default();
        for _ in 0..3 {
            watch.begin();
            assert!((0..PATIENCE).all(|_| !watch.is_overdue(1)));
            watch.end();
            assert!(!watch.is_overdue(1));
        }
    }
}
