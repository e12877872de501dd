//! Tables and lines.

use super::*;

fn latency(times: &[u64]) -> Latency {
    let mut latency = Latency::default();
    for us in times {
        latency.buckets[Latency::bucket(*us)] += 1;
        latency.sum_us += us;
    }
    latency
}

#[test]
fn quantiles_are_bounds() {
    assert_eq!(quantile(&latency(&[]), 50), "-");
    assert_eq!(quantile(&latency(&[100]), 99), "< 128 µs");
    let mut times = vec![100; 99];
    times.push(u64::MAX >> 10);
    assert_eq!(quantile(&latency(&times), 50), "< 128 µs");
    assert_eq!(quantile(&latency(&times), 99), "< 128 µs");
    assert_eq!(quantile(&latency(&times), 100), "long");
}

#[test]
fn a_second_is_the_difference_of_two_counts() {
    let mut before = Stats {
        serving_us: 5_000_000,
        ..Stats::default()
    };
    before.read.requests = 100;
    let mut now = before;
    now.serving_us = 7_000_000;
    now.read.requests = 300;
    now.write.bytes = 4 << 20;
    now.flush.requests = 2;

    let line = second(&before, &now);

    let words: Vec<_> = line.split_whitespace().collect();
    assert_eq!(words[..7], ["100", "0", "bytes", "0", "2", "MiB", "1"]);
}

#[test]
fn lost_events_are_counted_once() {
    let notice = Notice {
        event: Event::QuotaReached { limit_bytes: 1 << 20 },
        missed: 5,
    };

    assert_eq!(event(&notice, 5), "the overlay is full: its limit is 1 MiB\n");
    assert_eq!(
        event(&notice, 2),
        "the overlay is full: its limit is 1 MiB (3 events before this one are lost)\n"
    );
}

#[test]
fn limits_are_told_in_words() {
    let text = limits(&Limits {
        overlay_bytes: 1 << 30,
        iops: Rate {
            per_second: 500,
            burst: 2000,
        },
        bandwidth: Rate::UNLIMITED,
        keep_free_bytes: 0,
        at_limit: AtLimit::Hold,
    });

    for part in [
        "overlay 1 GiB; writes without space wait",
        "requests: 500 a second, 2000 at once after a pause",
        "bytes: as many as come",
        "nothing",
    ] {
        assert!(text.contains(part), "{text}");
    }
}
