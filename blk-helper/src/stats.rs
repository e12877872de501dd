//! What is counted while requests are served.
//!
//! Each worker has counters of its own, on cache lines of their own, and is the only one who writes them: a load and a store each,
//! without locks and without an atomic read-modify-write. Whoever asks adds them up meanwhile; two numbers may then be
//! a request apart.
//!
//! A request's time ends when it is answered, and the next one's begins there, so that each costs one look at the clock.

use crate::events::Events;
use protocol::control::{Count, LATENCY_BUCKETS, Latency, Stats};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write,
    Discard,
    WriteZeroes,
    Flush,
    GetId,
    /// It made no sense.
    Malformed,
}

/// A request as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) kind: Kind,
    /// Bytes of the disk that it is about.
    pub(crate) bytes: u64,
}

/// Why a queue waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waited {
    /// For the limits on requests and bytes a second.
    Throttled,
    /// For want of space.
    Held,
}

/// A number that one thread writes.
#[derive(Debug, Default)]
struct Counter(AtomicU64);

impl Counter {
    fn add(&self, more: u64) {
        // Not fetch_add: only one thread writes, and this costs a tenth.
        let sum = self.0.load(Ordering::Relaxed).wrapping_add(more);
        self.0.store(sum, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
struct KindCounters {
    requests: Counter,
    bytes: Counter,
    errors: Counter,
}

#[derive(Debug, Default)]
struct LatencyCounters {
    /// In nanoseconds, so that many short times are not lost.
    sum_ns: Counter,
    buckets: [Counter; LATENCY_BUCKETS],
}

/// The counters of one worker. The alignment keeps another's off its cache lines, and off those fetched along with them.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Counters {
    read: KindCounters,
    write: KindCounters,
    discard: KindCounters,
    write_zeroes: KindCounters,
    flush: KindCounters,
    get_id: KindCounters,
    malformed: Counter,
    read_latency: LatencyCounters,
    write_latency: LatencyCounters,
    throttled_ns: Counter,
    held_ns: Counter,
}

impl Counters {
    /// Counts a request of this `kind` about so many `bytes`, that was answered, well or with an error, `took` after it was taken
    /// up. For this worker's thread only.
    fn request(&self, kind: Kind, bytes: u64, ok: bool, took: Duration) {
        let (counters, latency) = match kind {
            Kind::Read => (&self.read, Some(&self.read_latency)),
            Kind::Write => (&self.write, Some(&self.write_latency)),
            Kind::Discard => (&self.discard, None),
            Kind::WriteZeroes => (&self.write_zeroes, None),
            Kind::Flush => (&self.flush, None),
            Kind::GetId => (&self.get_id, None),
            Kind::Malformed => return self.malformed.add(1),
        };
        counters.requests.add(1);
        if ok {
            counters.bytes.add(bytes);
        } else {
            counters.errors.add(1);
        }
        if let Some(latency) = latency {
            let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
            latency.sum_ns.add(ns);
            if let Some(bucket) = latency.buckets.get(Latency::bucket(ns / 1000)) {
                bucket.add(1);
            }
        }
    }

    /// Counts that a queue was not looked at for so long. For this worker's thread only.
    fn waited(&self, why: Waited, time: Duration) {
        let counter = match why {
            Waited::Throttled => &self.throttled_ns,
            Waited::Held => &self.held_ns,
        };
        counter.add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    fn add_to(&self, stats: &mut Stats) {
        add_count(&mut stats.read, &self.read);
        add_count(&mut stats.write, &self.write);
        add_count(&mut stats.discard, &self.discard);
        add_count(&mut stats.write_zeroes, &self.write_zeroes);
        add_count(&mut stats.flush, &self.flush);
        add_count(&mut stats.get_id, &self.get_id);
        stats.malformed = stats.malformed.wrapping_add(self.malformed.get());
        add_latency(&mut stats.read_latency, &self.read_latency);
        add_latency(&mut stats.write_latency, &self.write_latency);
        stats.throttled_us = stats.throttled_us.wrapping_add(self.throttled_ns.get() / 1000);
        stats.held_us = stats.held_us.wrapping_add(self.held_ns.get() / 1000);
    }
}

fn add_count(to: &mut Count, from: &KindCounters) {
    to.requests = to.requests.wrapping_add(from.requests.get());
    to.bytes = to.bytes.wrapping_add(from.bytes.get());
    to.errors = to.errors.wrapping_add(from.errors.get());
}

fn add_latency(to: &mut Latency, from: &LatencyCounters) {
    to.sum_us = to.sum_us.wrapping_add(from.sum_ns.get() / 1000);
    for (sum, bucket) in to.buckets.iter_mut().zip(&from.buckets) {
        *sum = sum.wrapping_add(bucket.get());
    }
}

/// What a worker counts with: its counters, and a clock that is read once for each request.
#[derive(Debug)]
pub(crate) struct Tally {
    counters: Arc<Counters>,
    /// The end of the last request, if the next one was taken up just then.
    last: Option<Instant>,
}

impl Tally {
    /// For the worker whose counters these are.
    pub(crate) fn new(counters: Arc<Counters>) -> Self {
        Self { counters, last: None }
    }

    /// Requests are about to be taken up, after a while without any.
    pub(crate) fn begin(&mut self) {
        self.last = None;
    }

    /// When the request in hand was taken up: when the one before was answered, for nothing happens in between.
    pub(crate) fn taken_up(&mut self) -> Instant {
        *self.last.get_or_insert_with(Instant::now)
    }

    /// Counts a request that is answered now, well or with an error, and was taken up at `begun`; says how long it took.
    pub(crate) fn answered(&mut self, account: Account, ok: bool, begun: Instant) -> Duration {
        let now = Instant::now();
        let took = now.saturating_duration_since(begun);
        self.counters.request(account.kind, account.bytes, ok, took);
        self.last = Some(now);
        took
    }

    /// Counts that a queue was left alone for so long.
    pub(crate) fn waited(&self, why: Waited, time: Duration) {
        self.counters.waited(why, time);
    }
}

/// The counters of all workers.
#[derive(Debug)]
pub(crate) struct Statistics {
    workers: Vec<Arc<Counters>>,
    since: Instant,
}

impl Statistics {
    /// Counters, all at zero, for so many workers.
    pub(crate) fn new(workers: usize) -> Self {
        Self {
            workers: (0..workers).map(|_| Arc::default()).collect(),
            since: Instant::now(),
        }
    }

    /// What each worker counts with.
    pub(crate) fn tallies(&self) -> impl Iterator<Item = Tally> {
        self.workers.iter().map(|counters| Tally::new(Arc::clone(counters)))
    }

    /// All of them together.
    pub(crate) fn total(&self, events: &Events) -> Stats {
        let mut stats = Stats {
            serving_us: u64::try_from(self.since.elapsed().as_micros()).unwrap_or(u64::MAX),
            events_dropped: events.dropped(),
            ..Stats::default()
        };
        for worker in &self.workers {
            worker.add_to(&mut stats);
        }
        stats
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_workers_count_adds_up() {
        let statistics = Statistics::new(3);
        for (index, counters) in statistics.workers.iter().enumerate() {
            let us = 1 << index;
            counters.request(Kind::Read, 4096, true, Duration::from_micros(us));
            counters.request(Kind::Write, 512, index != 0, Duration::from_micros(us));
            counters.request(Kind::Flush, 0, true, Duration::from_micros(us));
            counters.request(Kind::Malformed, 0, false, Duration::ZERO);
            counters.waited(Waited::Held, Duration::from_millis(us));
        }

        let total = statistics.total(&Events::new().unwrap());

        let count = |requests, bytes, errors| Count {
            requests,
            bytes,
            errors,
        };
        assert_eq!(total.read, count(3, 3 * 4096, 0));
        assert_eq!(total.write, count(3, 2 * 512, 1));
        assert_eq!(total.flush, count(3, 0, 0));
        assert_eq!(total.discard, Count::default());
        assert_eq!(total.malformed, 3);
        assert_eq!(total.read_latency.sum_us, 7);
        assert_eq!(total.read_latency.buckets[..5], [0, 1, 1, 1, 0]);
        assert_eq!(total.read_latency, total.write_latency);
        assert_eq!((total.held_us, total.throttled_us), (7000, 0));
    }

    #[test]
    fn times_too_short_for_a_microsecond_add_up_all_the_same() {
        let statistics = Statistics::new(1);
        for _ in 0..10 {
            statistics.workers[0].request(Kind::Read, 0, true, Duration::from_nanos(500));
        }
        let latency = statistics.total(&Events::new().unwrap()).read_latency;
        assert_eq!((latency.sum_us, latency.buckets[0]), (5, 10));
    }

    #[test]
    fn no_two_workers_share_a_cache_line() {
        assert_eq!(align_of::<Counters>(), 128);
        assert_eq!(size_of::<Counters>() % 128, 0);
    }
}
