//! What is counted is what was asked for.

use std::time::{Duration, Instant};

use protocol::control::{Count, Stats};
use tests::place::Place;
use tests::raw::{DISCARD, FLUSH, GET_ID, IN, IOERR, OK, OUT, RawDisk, UNSUPP, WRITE_ZEROES, zero_segment};

use crate::controlled;

fn count(requests: u64, bytes: u64, errors: u64) -> Count {
    Count {
        requests,
        bytes,
        errors,
    }
}

#[test]
fn each_kind_of_request_is_counted_with_its_bytes_and_errors() {
    let place = Place::with_noise(1 << 20, 1);
    let (helper, operator) = controlled(&place);
    let mut disk = RawDisk::start(helper.socket(), 1, 64);
    let before = operator.stats();
    assert_eq!(
        Stats {
            serving_us: 0,
            ..before
        },
        Stats::default()
    );

    for sector in 0..5 {
        assert_eq!(disk.request(IN, sector, &[], 1024).0, OK);
    }
    for sector in 0..3 {
        assert_eq!(disk.request(OUT, sector, &[1; 4096], 0).0, OK);
    }
    assert_eq!(disk.request(OUT, 1 << 40, &[1; 512], 0).0, IOERR);
    assert_eq!(disk.request(DISCARD, 0, &zero_segment(8, 16, 0), 0).0, OK);
    assert_eq!(disk.request(WRITE_ZEROES, 0, &zero_segment(0, 1, 0), 0).0, OK);
    assert_eq!(disk.request(FLUSH, 0, &[], 0).0, OK);
    assert_eq!(disk.request(GET_ID, 0, &[], 20).0, OK);
    assert_eq!(disk.request(99, 0, &[], 0).0, UNSUPP);

    let stats = operator.stats();
    assert_eq!(stats.read, count(5, 5 * 1024, 0));
    assert_eq!(stats.write, count(4, 3 * 4096, 1));
    assert_eq!(stats.discard, count(1, 16 * 512, 0));
    assert_eq!(stats.write_zeroes, count(1, 512, 0));
    assert_eq!(stats.flush, count(1, 0, 0));
    assert_eq!(stats.get_id, count(1, 20, 0));
    assert_eq!(stats.malformed, 1);
    assert_eq!(stats.read_latency.buckets.iter().sum::<u64>(), 5);
    assert_eq!(stats.write_latency.buckets.iter().sum::<u64>(), 4);
    assert!(stats.write_latency.sum_us <= stats.serving_us);
    assert_eq!((stats.throttled_us, stats.held_us), (0, 0));
    helper.terminate();
}

#[test]
fn requests_of_all_queues_and_connections_add_up() {
    let place = Place::with_noise(1 << 20, 1);
    let (helper, operator) = controlled(&place);
    for _ in 0..3 {
        let mut disk = RawDisk::start(helper.socket(), 1, 64);
        for sector in 0..100 {
            assert_eq!(disk.request(IN, sector, &[], 512).0, OK);
        }
    }

    let begun = Instant::now();
    while operator.stats().read != count(300, 300 * 512, 0) {
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", operator.stats());
    }
    helper.terminate();
}
