//! Limits, changed while a guest uses its disk: they are obeyed, the guest is told or waits, and whoever takes the disk away from a
//! guest that waits gets it.

use std::time::{Duration, Instant};

use protocol::control::{Event, LimitsChange, Rate};
use tests::memory::GuestMemory;
use tests::operator::Operator;
use tests::place::Place;
use tests::raw::{DATA, Desc, FLUSH, IN, IOERR, MEMORY, OK, OUT, RawDisk, SMALL, UNTOUCHED, linked, request_header};

use crate::{controlled, read, write};

/// Changes one thing and leaves the others.
pub(crate) fn nothing() -> LimitsChange {
    LimitsChange::default()
}

/// A guest with a ring for each of the helper's workers and some more.
pub(crate) fn guest(helper: &tests::helper::Helper, rings: u32) -> RawDisk {
    RawDisk::start_with(
        tests::raw::patient(helper.socket()),
        GuestMemory::sealed(MEMORY),
        rings,
        64,
    )
}

/// Where the parts of chain `slot` of ring `ring` are, in each of the areas for them. Not where those of [`RawDisk::request`] are.
fn place_of(ring: usize, slot: u16) -> u64 {
    let ring = u64::try_from(ring).expect("rings are few");
    (1 + ring * 16 + u64::from(slot)) * 0x400
}

/// Makes a request of 512 bytes available in ring `ring`, as chain `slot` of it, without waiting for the answer.
pub(crate) fn submit(disk: &mut RawDisk, ring: usize, slot: u16, kind: u32, sector: u64) {
    let place = place_of(ring, slot);
    let (header, data, status) = (SMALL + place, DATA + place, SMALL + place + 0x100);
    let RawDisk { memory, rings, .. } = disk;
    memory.write(header, &request_header(kind, sector));
    memory.write(status, &[UNTOUCHED]);
    memory.write(data, &[0xab; 512]);
    let body = match kind {
        IN => Some(Desc::writable(data, 512)),
        OUT => Some(Desc::readable(data, 512)),
        _ => None,
    };
    let parts = [Some(Desc::readable(header, 16)), body, Some(Desc::writable(status, 1))];
    let first = slot * 3;
    let mut chain = linked(&parts.into_iter().flatten().collect::<Vec<_>>());
    for desc in &mut chain {
        desc.next += first;
    }
    rings[ring].put(memory, first, &chain);
    rings[ring].publish(memory, &[first]);
    rings[ring].kick();
}

/// The status of the chain `slot` of ring `ring`.
pub(crate) fn status(disk: &RawDisk, ring: usize, slot: u16) -> u8 {
    disk.memory.byte(SMALL + place_of(ring, slot) + 0x100)
}

/// Waits for the next answer of ring `ring`.
pub(crate) fn answered(disk: &mut RawDisk, ring: usize) {
    let RawDisk { memory, rings, .. } = disk;
    assert_eq!(rings[ring].wait_used(memory, 1).len(), 1);
}

/// How near they come is printed (`--nocapture`), not asserted: a loaded machine may be late. `MAYFLY_LIMIT_SECONDS=10`, with the
/// programs of a release, gives the figures in docs/control.md.
#[test]
fn requests_and_bytes_go_through_at_the_rate_and_the_burst_and_no_faster() {
    let seconds = std::env::var("MAYFLY_LIMIT_SECONDS").map_or(1, |number| number.parse().expect("a number"));
    let place = Place::with_noise(1 << 20, 1);
    for (change, per_second, burst, cost) in [(Some("--iops"), 200, 20, 1), (None, 200 * 4096, 20 * 4096, 4096)] {
        let mut builder = place.helper().controlled();
        if let Some(option) = change {
            builder = builder.value(option, format!("{per_second}:{burst}"));
        }
        let helper = builder.start();
        let operator = Operator::connect(&place.control());
        let rate = Rate { per_second, burst };
        if change.is_none() {
            let limits = operator.set_limits(LimitsChange {
                bandwidth: Some(rate),
                ..nothing()
            });
            assert_eq!(limits.bandwidth, rate);
        }
        let mut disk = guest(&helper, 1);

        let begun = Instant::now();
        let requests = (seconds * per_second + burst) / cost;
        for request in 0..requests {
            assert_eq!(disk.request(OUT, request % 250 * 8, &[3; 4096], 0).0, OK);
        }
        let took = begun.elapsed();
        let flowed = took.as_nanos() * u128::from(per_second) / 1_000_000_000;
        let used = u128::from(requests * cost);

        // One request more than the burst: a debt may be left.
        assert!(
            used <= flowed + u128::from(burst + cost),
            "{used} of {flowed} and {burst}"
        );
        let share = u128::from(seconds * per_second) * 1000 / flowed;
        println!("{rate:?} for {took:.3?}: {share} thousandths of what it allows beyond the burst");
        operator.set_limits(LimitsChange {
            iops: Some(Rate::UNLIMITED),
            bandwidth: Some(Rate::UNLIMITED),
            ..nothing()
        });
        assert_eq!(disk.request(OUT, 0, &[3; 4096], 0).0, OK);
        helper.terminate();
    }
}

#[test]
fn all_queues_share_a_limit_and_flushes_count() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().controlled().value("--iops", "1:4").start();
    let operator = Operator::connect(&place.control());
    let mut disk = guest(&helper, 4);

    let begun = Instant::now();
    for ring in 0..4 {
        for slot in 0..3 {
            submit(&mut disk, ring, slot, if slot == 0 { FLUSH } else { IN }, 0);
        }
    }
    std::thread::sleep(Duration::from_millis(300));
    let stats = operator.stats();
    let through = stats.read.requests + stats.flush.requests;
    assert!(through <= 4 + begun.elapsed().as_secs(), "{through} at once");

    // Whoever is let go is let go at once, not when a timer says so.
    operator.set_limits(LimitsChange {
        iops: Some(Rate::UNLIMITED),
        ..nothing()
    });
    for ring in 0..4 {
        let RawDisk { memory, rings, .. } = &mut disk;
        assert_eq!(rings[ring].wait_used(memory, 3).len(), 3);
        assert!((0..3).all(|slot| status(&disk, ring, slot) == OK));
    }
    assert!(operator.stats().throttled_us > 0);
    helper.terminate();
}

#[test]
fn a_throttled_queue_is_given_back_with_what_was_not_popped() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().controlled().value("--iops", "1:1").start();
    let operator = Operator::connect(&place.control());
    let mut disk = guest(&helper, 1);
    for slot in 0..6 {
        submit(&mut disk, 0, slot, IN, 0);
    }
    answered(&mut disk, 0);

    // All that the frontend says is answered as ever, and it goes on elsewhere.
    let begun = Instant::now();
    let disk = disk.reconnect(helper.socket());
    assert!(begun.elapsed() < Duration::from_secs(5));
    operator.set_limits(LimitsChange {
        iops: Some(Rate::UNLIMITED),
        ..nothing()
    });
    disk.start_ring(0, 1);

    let begun = Instant::now();
    while !(0..6).all(|slot| status(&disk, 0, slot) == OK) {
        assert!(begun.elapsed() < Duration::from_secs(5), "a request was lost");
        std::thread::sleep(Duration::from_millis(1));
    }
    helper.terminate();
}

#[test]
fn the_quota_can_be_raised_and_lowered_while_a_guest_writes() {
    let place = Place::with_noise(1 << 20, 1);
    let (helper, operator) = controlled(&place);
    operator.subscribe();
    let other = Operator::connect(&place.control());
    let mut disk = guest(&helper, 1);
    assert_eq!(operator.event(), Event::Connected);
    let set = |bytes| {
        let limits = other.set_limits(LimitsChange {
            overlay_bytes: Some(bytes),
            ..nothing()
        });
        assert_eq!(operator.event(), Event::LimitsChanged { limits });
        limits.overlay_bytes
    };
    assert_eq!(write(&mut disk, 0, 1), OK);
    assert_eq!(write(&mut disk, 8, 1), OK);

    assert_eq!(set(4096 + 100), 4096);
    for sector in [16, 24] {
        assert_eq!(write(&mut disk, sector, 1), IOERR);
    }
    assert_eq!(operator.event(), Event::QuotaReached { limit_bytes: 4096 });
    assert_eq!(write(&mut disk, 8, 2), OK, "what it has, it may change");
    assert_eq!(other.status().overlay.unwrap().used_bytes, 8192);

    assert_eq!(set(3 * 4096), 3 * 4096);
    assert_eq!(write(&mut disk, 16, 1), OK);
    assert_eq!(write(&mut disk, 24, 1), IOERR);
    assert_eq!(set(u64::MAX), 1 << 20);
    assert_eq!(write(&mut disk, 24, 1), OK);
    assert_eq!(read(&mut disk, 8), [2; 512]);
    helper.terminate();
}

#[test]
fn a_raised_quota_may_go_beyond_the_one_at_the_start() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().controlled().value("--overlay-limit", "8K").start();
    let operator = Operator::connect(&place.control());
    let mut disk = guest(&helper, 1);
    operator.set_limits(LimitsChange {
        overlay_bytes: Some(1 << 20),
        ..nothing()
    });

    for cluster in 0..256 {
        assert_eq!(write(&mut disk, cluster * 8, 1), OK);
    }

    assert_eq!(operator.status().overlay.unwrap().used_bytes, 1 << 20);
    helper.terminate();
}

#[test]
fn a_read_only_disk_has_rates_and_no_space_to_limit() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().read_only().controlled().start();
    let operator = Operator::connect(&place.control());
    let rate = Rate {
        per_second: 1000,
        burst: 500,
    };
    let limits = operator.set_limits(LimitsChange {
        iops: Some(rate),
        ..nothing()
    });
    assert_eq!((limits.iops, limits.overlay_bytes), (rate, 0));

    let change = LimitsChange {
        overlay_bytes: Some(1),
        iops: Some(Rate::UNLIMITED),
        ..nothing()
    };
    let refused = operator.ask(protocol::control::Command::SetLimits(change), &[]);

    assert!(refused.unwrap_err().contains("read-only"));
    assert_eq!(operator.status().limits, limits);
    helper.terminate();
}
