//! Whether a worker that has nothing to do looks for more for a moment, or sleeps until it is kicked.
//!
//! Sleeping costs a kick, an interrupt of another processor and a wake-up, tens of microseconds; looking costs a
//! processor. So a worker looks for at most a *window* after the last request, several if many came at once, and only while
//! that has proved worth it: once in vain, and it sleeps. As nothing tells a sleeper that looking would have paid, it tries again
//! now and then, the less often the more often it was in vain.
//!
//! Pure: it is told the time.

use std::time::{Duration, Instant};

/// Sleeps before another try, at the least and at the most: a window in vain for eight wake-ups is little beside what they cost.
/// Both are guesses.
const EAGER: u32 = 8;
const RELUCTANT: u32 = 256;

/// Windows to look at the most. A driver that was called for many answers has them to take and as many requests to make before
/// there is one to be found, and all of those share what looking costs. With one window of 20 µs a virtual machine of two
/// processors had 325 thousand random reads a second, 32 in flight, with five 386, both at 2.5 µs of processor time each
/// (`make bench BENCH="--rows read-d32-eventfd"`).
const MOST: u32 = 5;

/// Finds that make looking worth it: it costs the last window, or windows, at the end.
const WORTH: u32 = 4;

/// A worker's habit.
#[derive(Debug)]
pub(crate) struct Pace {
    /// How long to look for one request. Less than what sleeping and waking cost both sides together, or it costs more than it
    /// saves; none at all for a worker that always sleeps.
    window: Duration,
    looking: bool,
    /// How long to look now.
    patience: Duration,
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
            patience: window,
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
            self.patience = self.window;
            self.looking = true;
        }
    }

    /// There were so many requests.
    pub(crate) fn found(&mut self, now: Instant, requests: u32) {
        self.last = now;
        // Slowly less, since the last of many may come alone.
        self.patience = (self.patience / 2).max(self.window.saturating_mul(requests.clamp(1, MOST)));
        self.finds = self.finds.saturating_add(1);
    }

    /// There were none. Says whether to go on looking.
    pub(crate) fn goes_on(&mut self, now: Instant) -> bool {
        if self.looking && now.saturating_duration_since(self.last) > self.patience {
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
            pace.found(now, 1);
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
            pace.found(now, 1);
            now += WINDOW;
            assert!(pace.goes_on(now));
        }

        assert!(!pace.goes_on(now + WINDOW));

        assert_eq!(until_looking(&mut pace), EAGER);
    }

    #[test]
    fn for_many_requests_at_once_it_looks_longer_and_for_fewer_soon_no_more() {
        let now = Instant::now();
        let mut pace = Pace::new(now, WINDOW);
        until_looking(&mut pace);
        let mut windows = Vec::new();
        for requests in [128, 3, 1, 1, 1] {
            pace.found(now, requests);
            windows.push(
                (1..9)
                    .take_while(|windows| pace.goes_on(now + WINDOW * *windows))
                    .count(),
            );
            // That was in vain.
            until_looking(&mut pace);
        }
        assert_eq!(windows, [5, 3, 1, 1, 1]);

        pace.found(now, 128);
        pace.found(now, 1);

        assert!(pace.goes_on(now + WINDOW * 5 / 2));
        assert!(!pace.goes_on(now + WINDOW * 3));
    }
}
