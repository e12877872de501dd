//! Whether a worker that has nothing to do looks for more for a moment, or sleeps until it is kicked.
//!
//! Sleeping costs a kick, an interrupt of another processor and a wake-up, tens of microseconds; looking costs a
//! processor. So a worker looks for at most a *window* after the last request, and only while that has proved worth it: one
//! window in vain, and it sleeps. As nothing tells a sleeper that looking would have paid, it tries again now and then, the
//! less often the more often it was in vain.
//!
//! Pure: it is told the time.

use std::time::{Duration, Instant};

/// Sleeps before another try, at the least and at the most.
const EAGER: u32 = 8;
const RELUCTANT: u32 = 256;

/// Finds that make looking worth it: one costs a window at the end.
const WORTH: u32 = 4;

/// A worker's habit.
#[derive(Debug)]
pub(crate) struct Pace {
    /// How long to look. Less than what sleeping and waking cost both sides together, or it costs more than it saves; none at all
    /// for a worker that always sleeps.
    window: Duration,
    looking: bool,
    /// The last request, or the moment in which looking began.
    last: Instant,
    finds: u32,
    sleeps: u32,
    every: u32,
}

impl Pace {
    /// A worker that sleeps.
    pub(crate) fn new(now: Instant, window: Duration) -> Self {
        Self {
            window,
            looking: false,
            last: now,
            finds: 0,
            sleeps: 0,
            every: EAGER,
        }
    }

    /// The worker has slept and was woken.
    pub(crate) fn woken(&mut self) {
        self.sleeps = self.sleeps.saturating_add(1);
        if self.sleeps >= self.every && !self.window.is_zero() {
            self.sleeps = 0;
            self.finds = 0;
            self.looking = true;
        }
    }

    /// There were requests.
    pub(crate) fn found(&mut self, now: Instant) {
        self.last = now;
        self.finds = self.finds.saturating_add(1);
    }

    /// There were none. Says whether to go on looking.
    pub(crate) fn goes_on(&mut self, now: Instant) -> bool {
        if self.looking && now.saturating_duration_since(self.last) > self.window {
            self.looking = false;
            self.every = if self.finds > WORTH {
                EAGER
            } else {
                self.every.saturating_mul(2).min(RELUCTANT)
            };
        }
        self.looking
    }

    /// Whether rings are left without being asked for kicks, since they are looked at anyway.
    pub(crate) fn is_looking(&self) -> bool {
        self.looking
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_micros(20);

    /// A worker that has been woken until it looks; how often that was.
    fn until_looking(pace: &mut Pace) -> u32 {
        let mut sleeps = 0;
        while !pace.is_looking() {
            pace.woken();
            sleeps += 1;
        }
        sleeps
    }

    #[test]
    fn a_worker_that_finds_nothing_sleeps_ever_longer() {
        let now = Instant::now();
        let mut pace = Pace::new(now, WINDOW);
        let mut tries = Vec::new();
        for round in 1..9 {
            tries.push(until_looking(&mut pace));
            let now = now + Duration::from_millis(round);
            pace.found(now);
            assert!(pace.goes_on(now + WINDOW));
            assert!(!pace.goes_on(now + WINDOW + Duration::from_nanos(1)));
        }
        assert_eq!(tries, [8, 16, 32, 64, 128, 256, 256, 256]);
    }

    #[test]
    fn a_worker_without_a_window_never_looks() {
        let mut pace = Pace::new(Instant::now(), Duration::ZERO);
        for _ in 0..1000 {
            pace.woken();
            assert!(!pace.is_looking());
        }
    }

    #[test]
    fn looking_goes_on_as_long_as_requests_come() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now, WINDOW);
        until_looking(&mut pace);
        for _ in 0..1000 {
            pace.found(now);
            now += WINDOW;
            assert!(pace.goes_on(now));
        }

        assert!(!pace.goes_on(now + WINDOW));

        assert_eq!(until_looking(&mut pace), EAGER);
    }
}
