//! What a helper counted since it started to serve.
//!
//! Numbers only grow, so whoever wants a rate asks twice and takes the difference. They are read while requests go on: each is
//! right, but two of them may be a few requests apart.

use serde::{Deserialize, Serialize};

/// Times of a [`Latency`] that are told apart.
pub const LATENCY_BUCKETS: usize = 24;

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// How long the helper has been serving, in microseconds.
    pub serving_us: u64,
    /// Reads.
    pub read: Count,
    /// Writes.
    pub write: Count,
    /// Discards.
    pub discard: Count,
    /// Requests to write zeros.
    pub write_zeroes: Count,
    /// Flushes.
    pub flush: Count,
    /// Requests for the disk's serial number.
    pub get_id: Count,
    /// Requests that made no sense.
    pub malformed: u64,
    /// How long reads took.
    pub read_latency: Latency,
    /// How long writes took.
    pub write_latency: Latency,
    /// How long queues waited because of the limits on requests and bytes a second, in microseconds, all queues together.
    pub throttled_us: u64,
    /// How long queues were held for want of space, in microseconds, all queues together.
    pub held_us: u64,
    /// Events that somebody who asked for them did not get: there was no room.
    pub events_dropped: u64,
}

/// Requests of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// How many were answered.
    pub requests: u64,
    /// Bytes they were about; for those answered with an error, none.
    pub bytes: u64,
    /// How many of them were answered with an error.
    pub errors: u64,
}

/// How long requests took, from when the helper took them up until they were answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// All of them together, in microseconds.
    pub sum_us: u64,
    /// How many took how long: the first less than a microsecond, each further one less than twice what the one before it says and
    /// not less than that, the last all the others. See [`Latency::bound_us`].
    pub buckets: [u64; LATENCY_BUCKETS],
}

impl Latency {
    /// The bucket for a request that took `us` microseconds.
    #[must_use]
    pub fn bucket(us: u64) -> usize {
        let bits = u64::BITS.saturating_sub(us.leading_zeros());
        usize::try_from(bits)
            .unwrap_or(usize::MAX)
            .min(LATENCY_BUCKETS.saturating_sub(1))
    }

    /// What requests in `bucket` took less than, in microseconds; none for the last one.
    #[must_use]
    pub fn bound_us(bucket: usize) -> Option<u64> {
        let last = LATENCY_BUCKETS.saturating_sub(1);
        let bits = u32::try_from(bucket).ok().filter(|_| bucket < last)?;
        1u64.checked_shl(bits)
    }
}

impl Stats {
    /// Each kind of request by its name, as fields are called, and what was counted of it.
    #[must_use]
    pub const fn kinds(&self) -> [(&'static str, Count); 6] {
        [
            ("read", self.read),
            ("write", self.write),
            ("discard", self.discard),
            ("write_zeroes", self.write_zeroes),
            ("flush", self.flush),
            ("get_id", self.get_id),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_lies_below_the_bound_of_its_bucket_and_not_below_the_one_before() {
        for us in (0..70_000).chain([1 << 22, (1 << 23) - 1, 1 << 23, u64::MAX]) {
            let bucket = Latency::bucket(us);
            assert!(Latency::bound_us(bucket).is_none_or(|bound| us < bound), "{us}");
            let below = bucket.checked_sub(1).and_then(Latency::bound_us);
            assert!(below.is_none_or(|bound| us >= bound), "{us}");
        }
        assert_eq!(Latency::bound_us(LATENCY_BUCKETS - 2), Some(1 << 22));
        assert_eq!(Latency::bound_us(LATENCY_BUCKETS - 1), None);
        assert_eq!(Latency::bound_us(LATENCY_BUCKETS), None);
    }
}
