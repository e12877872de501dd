//! A bucket of tokens: so many a second flow in, no more than its burst stay in it.
//!
//! Whoever finds a token takes what he needs, and may leave a debt that the next ones wait for. So a need that is larger than the
//! bucket is met too, and a large one is not passed for ever by small ones; and from any moment on, in `t` seconds no more goes
//! through than `rate * t + burst` and the last need.
//!
//! A value with no clock of its own, so that it can be tested whole.

use protocol::control::Rate;
use std::time::Duration;

const NS: i128 = 1_000_000_000;

/// The bucket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    rate: Rate,
    /// Tokens, in billionths; below zero there is a debt.
    level: i128,
    /// The time of the last look.
    at: Duration,
}

impl Bucket {
    /// A full bucket, or none if the rate is unlimited.
    pub(crate) fn new(rate: Rate, now: Duration) -> Self {
        let rate = effective(rate);
        Self {
            rate,
            level: i128::from(rate.burst) * NS,
            at: now,
        }
    }

    /// The rate in force.
    pub(crate) fn rate(&self) -> Rate {
        self.rate
    }

    /// Changes the rate. A debt stays, and so does what is in it, as far as it has room: who changes a rate often makes it no
    /// higher.
    pub(crate) fn change(&mut self, rate: Rate, now: Duration) {
        let fresh = Self::new(rate, now);
        if self.rate.is_unlimited() || fresh.rate.is_unlimited() {
            *self = fresh;
        } else {
            self.flow(now);
            self.rate = fresh.rate;
            self.level = self.level.min(fresh.level);
        }
    }

    /// How long until something can be taken; nothing if it can be now.
    pub(crate) fn wait(&mut self, now: Duration) -> Option<Duration> {
        if self.rate.is_unlimited() {
            return None;
        }
        self.flow(now);
        let lacking = NS.saturating_sub(self.level);
        if lacking <= 0 {
            return None;
        }
        let per_second = i128::from(self.rate.per_second);
        let ns = lacking.saturating_add(per_second - 1) / per_second;
        Some(Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX)))
    }

    /// Takes so many, after [`Bucket::wait`] said that it can be done.
    pub(crate) fn take(&mut self, tokens: u64) {
        if !self.rate.is_unlimited() {
            self.level = self.level.saturating_sub(i128::from(tokens) * NS);
        }
    }

    /// Puts back what was taken and not used.
    pub(crate) fn put_back(&mut self, tokens: u64) {
        if !self.rate.is_unlimited() {
            let most = i128::from(self.rate.burst) * NS;
            self.level = self.level.saturating_add(i128::from(tokens) * NS).min(most);
        }
    }

    /// What has flowed in since the last look. A clock that was set back brings nothing.
    fn flow(&mut self, now: Duration) {
        let elapsed = now.saturating_sub(self.at);
        self.at = self.at.max(now);
        let ns = i128::try_from(elapsed.as_nanos()).unwrap_or(i128::MAX);
        let more = ns.saturating_mul(i128::from(self.rate.per_second));
        let most = i128::from(self.rate.burst) * NS;
        self.level = self.level.saturating_add(more).min(most);
    }
}

/// With a burst that makes sense: one second's worth if none was named; and never less than what a hundredth of a second brings,
/// because timers are no finer than a few thousandths, and the rate would not be reached.
fn effective(rate: Rate) -> Rate {
    if rate.is_unlimited() {
        return Rate::UNLIMITED;
    }
    let named = if rate.burst == 0 { rate.per_second } else { rate.burst };
    Rate {
        burst: named.max(rate.per_second / 100).max(1),
        ..rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn rate(per_second: u64, burst: u64) -> Rate {
        Rate { per_second, burst }
    }

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_burst_goes_through_at_once_and_the_rest_at_the_rate() {
        let mut bucket = Bucket::new(rate(100, 5), at(0));
        for _ in 0..5 {
            assert_eq!(bucket.wait(at(0)), None);
            bucket.take(1);
        }
        assert_eq!(bucket.wait(at(0)), Some(at(10)));
        assert_eq!(bucket.wait(at(9)), Some(at(1)));
        assert_eq!(bucket.wait(at(10)), None);
        bucket.take(1);
        assert_eq!(bucket.wait(at(10)), Some(at(10)));
    }

    #[test]
    fn a_need_larger_than_the_bucket_is_met_and_paid_for() {
        let mut bucket = Bucket::new(rate(1000, 10), at(0));
        assert_eq!(bucket.wait(at(0)), None);
        bucket.take(2010);
        assert_eq!(bucket.wait(at(0)), Some(at(2001)));
        assert_eq!(bucket.wait(at(2001)), None);
    }

    #[test]
    fn without_a_limit_nothing_waits() {
        let mut bucket = Bucket::new(Rate::UNLIMITED, at(0));
        for _ in 0..3 {
            bucket.take(u64::MAX);
            assert_eq!(bucket.wait(at(0)), None);
        }
    }

    #[test]
    fn the_burst_makes_sense() {
        for (asked, is) in [
            (rate(1000, 0), rate(1000, 1000)),
            (rate(1000, 1), rate(1000, 10)),
            (rate(5, 1), rate(5, 1)),
            (rate(1000, 5000), rate(1000, 5000)),
            (rate(0, 7), Rate::UNLIMITED),
        ] {
            assert_eq!(Bucket::new(asked, at(0)).rate(), is);
        }
    }

    #[test]
    fn a_change_forgives_no_debt_and_gives_no_burst() {
        let mut bucket = Bucket::new(rate(1000, 1000), at(0));
        bucket.take(2000);
        bucket.change(rate(2000, 1000), at(0));
        assert_eq!(bucket.wait(at(0)), Some(Duration::from_micros(500_500)));
        bucket.change(Rate::UNLIMITED, at(0));
        assert_eq!(bucket.wait(at(0)), None);
    }

    /// Exhaustive: every bucket of one to three tokens a second and a burst of none to three, and every way to wait no, one or
    /// three quarters of a second and then to want none, one or three tokens, five times over.
    #[test]
    fn no_small_bucket_lets_too_much_through_or_starves_anybody() {
        const STEPS: usize = 5;
        const CHOICES: usize = 9;
        for (per_second, burst) in (1..=3).flat_map(|rate| (0..=3).map(move |burst| (rate, burst))) {
            for number in 0..CHOICES.pow(u32::try_from(STEPS).unwrap()) {
                let (mut now, mut left) = (Duration::ZERO, number);
                let mut bucket = Bucket::new(rate(per_second, burst), now);
                let most = bucket.rate().burst * 4;
                // Each step's time in quarters of a second, and what went through.
                let mut through = [(0_u64, 0_u64); STEPS];
                for step in &mut through {
                    let [pause, need] = [left % 3, left / 3 % 3].map(|which| [0, 1, 3][which]);
                    left /= CHOICES;
                    now += Duration::from_millis(pause * 250);
                    step.0 = u64::try_from(now.as_millis()).unwrap() / 250;
                    match bucket.wait(now) {
                        None => {
                            bucket.take(need);
                            step.1 = need;
                        }
                        Some(time) => {
                            let mut later = bucket;
                            assert_eq!(later.wait(now + time), None, "starved");
                            assert!(
                                time <= Duration::from_secs(3),
                                "longer than the largest need takes to flow in"
                            );
                        }
                    }
                }
                // From every moment to every need that was met: before it no more than the rate brought and the burst.
                for from in 0..STEPS {
                    let mut sum = 0;
                    for (at, need) in through.into_iter().skip(from).filter(|(_, need)| *need > 0) {
                        let flowed = per_second * (at - through[from].0);
                        assert!(sum <= flowed + most, "{per_second} {burst} {number}: from {from}");
                        sum += need * 4;
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn never_more_goes_through_than_the_rate_and_the_burst_allow(
            per_second in 1..1_000_000_000u64,
            burst in 0..10_000_000u64,
            steps in prop::collection::vec((0..50_000_000u64, 1..2_000_000u64), 1..200),
        ) {
            let mut now = Duration::from_secs(5);
            let mut bucket = Bucket::new(rate(per_second, burst), now);
            let burst = bucket.rate().burst;
            let (begun, mut taken, mut largest) = (now, 0u128, 0u128);
            for (pause, need) in steps {
                now += Duration::from_nanos(pause);
                if bucket.wait(now).is_none() {
                    bucket.take(need);
                    taken += u128::from(need);
                    largest = largest.max(need.into());
                    let flowed = (now - begun).as_nanos() * u128::from(per_second) / 1_000_000_000;
                    prop_assert!(taken <= flowed + u128::from(burst) + largest);
                }
            }
        }

        #[test]
        fn who_waits_as_long_as_told_waits_neither_again_nor_too_long(
            per_second in 1..1_000_000_000u64,
            burst in 0..10_000_000u64,
            needs in prop::collection::vec(1..10_000_000u64, 1..50),
        ) {
            let mut now = Duration::ZERO;
            let mut bucket = Bucket::new(rate(per_second, burst), now);
            let mut taken = 0u128;
            for need in needs {
                if let Some(wait) = bucket.wait(now) {
                    prop_assert!(bucket.wait(now + wait - Duration::from_nanos(1)).is_some());
                    now += wait;
                }
                prop_assert_eq!(bucket.wait(now), None);
                bucket.take(need);
                taken += u128::from(need);
            }
            // All of it, less the last debt, was let through as fast as the rate brought it.
            let flowed = now.as_nanos() * u128::from(per_second) / 1_000_000_000;
            prop_assert!(taken + u128::from(bucket.rate().burst) >= flowed);
        }

        #[test]
        fn no_number_is_too_large(
            per_second in any::<u64>(), burst in any::<u64>(), need in any::<u64>(), ns in any::<u64>()
        ) {
            let mut bucket = Bucket::new(rate(per_second, burst), Duration::ZERO);
            bucket.take(need);
            bucket.take(need);
            bucket.wait(Duration::from_nanos(ns));
            bucket.change(rate(burst, per_second), Duration::MAX);
            bucket.wait(Duration::MAX);
        }
    }
}
