//! The limits on requests and bytes a second that hold for a disk, for all of its queues together.
//!
//! A request that is ready to be executed asks. If it may not be yet, it is put back and its queue left alone for as long as it is
//! told: nobody waits here. Without limits, asking costs one look at a flag that hardly ever changes.

mod bucket;

use bucket::Bucket;
use protocol::control::Rate;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The limits.
#[derive(Debug)]
pub(crate) struct Throttle {
    /// There is a limit at all.
    limited: AtomicBool,
    buckets: Mutex<Buckets>,
    epoch: Instant,
}

#[derive(Debug)]
struct Buckets {
    requests: Bucket,
    bytes: Bucket,
}

impl Throttle {
    /// These limits.
    pub(crate) fn new(iops: Rate, bandwidth: Rate) -> Self {
        let throttle = Self {
            limited: AtomicBool::new(false),
            buckets: Mutex::new(Buckets {
                requests: Bucket::new(iops, Duration::ZERO),
                bytes: Bucket::new(bandwidth, Duration::ZERO),
            }),
            epoch: Instant::now(),
        };
        throttle.update(&throttle.buckets());
        throttle
    }

    /// Changes them.
    pub(crate) fn change(&self, iops: Option<Rate>, bandwidth: Option<Rate>) {
        let now = self.epoch.elapsed();
        let mut buckets = self.buckets();
        if let Some(rate) = iops {
            buckets.requests.change(rate, now);
        }
        if let Some(rate) = bandwidth {
            buckets.bytes.change(rate, now);
        }
        self.update(&buckets);
    }

    /// The rates in force: requests and bytes.
    pub(crate) fn rates(&self) -> (Rate, Rate) {
        let buckets = self.buckets();
        (buckets.requests.rate(), buckets.bytes.rate())
    }

    /// Lets a request through that moves so many `bytes`, or says how long to leave its queue alone.
    ///
    /// # Errors
    /// That time.
    pub(crate) fn admit(&self, bytes: u64) -> Result<(), Duration> {
        if !self.limited.load(Ordering::Relaxed) {
            return Ok(());
        }
        let now = self.epoch.elapsed();
        let mut buckets = self.buckets();
        let for_request = buckets.requests.wait(now);
        // What moves nothing waits for no debt of what does.
        let for_bytes = if bytes > 0 { buckets.bytes.wait(now) } else { None };
        match for_request.max(for_bytes) {
            Some(wait) => Err(wait),
            None => {
                buckets.requests.take(1);
                buckets.bytes.take(bytes);
                Ok(())
            }
        }
    }

    /// A request of so many `bytes` that was let through was not executed after all, and will ask again.
    pub(crate) fn put_back(&self, bytes: u64) {
        if self.limited.load(Ordering::Relaxed) {
            let mut buckets = self.buckets();
            buckets.requests.put_back(1);
            buckets.bytes.put_back(bytes);
        }
    }

    fn update(&self, buckets: &Buckets) {
        let unlimited = buckets.requests.rate().is_unlimited() && buckets.bytes.rate().is_unlimited();
        self.limited.store(!unlimited, Ordering::Relaxed);
    }

    fn buckets(&self) -> MutexGuard<'_, Buckets> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So slow that no test lives to see the next token.
    const HARDLY: Rate = Rate {
        per_second: 1,
        burst: 3,
    };

    #[test]
    fn requests_and_bytes_are_limited_each_for_itself() {
        let requests = Throttle::new(HARDLY, Rate::UNLIMITED);
        let bytes = Throttle::new(Rate::UNLIMITED, HARDLY);

        for _ in 0..3 {
            requests.admit(1 << 40).unwrap();
        }
        requests.admit(0).unwrap_err();

        bytes.admit(0).unwrap();
        bytes.admit(1 << 40).unwrap();
        bytes.admit(1).unwrap_err();
        bytes.admit(0).unwrap();
    }

    #[test]
    fn what_is_put_back_costs_nothing_and_brings_nothing() {
        let throttle = Throttle::new(HARDLY, HARDLY);
        for _ in 0..100 {
            throttle.admit(1 << 40).unwrap();
            throttle.put_back(1 << 40);
        }
        for _ in 0..3 {
            throttle.admit(1).unwrap();
        }
        throttle.admit(1).unwrap_err();
    }

    #[test]
    fn what_is_refused_costs_nothing() {
        let throttle = Throttle::new(HARDLY, HARDLY);
        throttle.admit(1 << 40).unwrap();
        for _ in 0..100 {
            throttle.admit(1).unwrap_err();
        }

        throttle.change(None, Some(Rate::UNLIMITED));

        throttle.admit(1).unwrap();
        throttle.admit(1).unwrap();
        throttle.admit(1).unwrap_err();
        throttle.change(Some(Rate::UNLIMITED), None);
        throttle.admit(1).unwrap();
        assert_eq!(throttle.rates(), (Rate::UNLIMITED, Rate::UNLIMITED));
    }
}
