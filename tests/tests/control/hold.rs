//! Writes for which there is no space wait, if the operator wants that: until there is, until the policy changes, or until the
//! guest is taken away, and nothing else waits with them but their own queue.

use std::time::{Duration, Instant};

use nix::libc::EAGAIN;
use protocol::control::{AtLimit, Event, LimitsChange, Rate};
use tests::faults::{Call, Faults, Rule, When};
use tests::helper::{Helper, HelperBuilder};
use tests::operator::Operator;
use tests::place::Place;
use tests::raw::{
    DATA, Desc, IN, IOERR, OK, OUT, RawDisk, SMALL, UNTOUCHED, WRITE_ZEROES, linked, request_header, zero_segment,
};
use tests::require;

use crate::limits::{answered, guest, nothing, status, submit};
use crate::{await_status, read, write};

/// A helper that holds at a quota of one cluster, which is used up, its operator, and its guest.
fn full_and_holding(place: &Place, rings: u32) -> (Helper, Operator, RawDisk) {
    make_full_and_holding(place.helper(), place, rings)
}

fn make_full_and_holding(helper: HelperBuilder<'_>, place: &Place, rings: u32) -> (Helper, Operator, RawDisk) {
    let helper = helper
        .controlled()
        .value("--overlay-limit", "4K")
        .value("--at-limit", "hold")
        .start();
    let operator = Operator::connect(&place.control());
    assert_eq!(operator.status().limits.at_limit, AtLimit::Hold);
    let mut disk = guest(&helper, rings);
    assert_eq!(write(&mut disk, 0, 1), OK);
    operator.subscribe();
    (helper, operator, disk)
}

#[test]
fn a_held_write_waits_for_a_raised_quota_and_others_go_on() {
    let place = Place::with_noise(1 << 20, 1);
    let (helper, operator, mut disk) = full_and_holding(&place, 3);
    let other = Operator::connect(&place.control());

    submit(&mut disk, 1, 0, OUT, 64);
    assert_eq!(operator.event(), Event::QuotaReached { limit_bytes: 4096 });
    assert_eq!(write(&mut disk, 0, 2), OK, "another queue");
    submit(&mut disk, 2, 0, IN, 64);
    answered(&mut disk, 2);
    // It is tried again and again, and the event does not come again.
    assert_eq!(operator.event_within(Duration::from_millis(350)), None);
    assert_eq!(status(&disk, 1, 0), UNTOUCHED);
    let begun = Instant::now();
    while other.stats().held_us == 0 {
        assert!(begun.elapsed() < Duration::from_secs(5), "it is not tried again");
    }

    other.set_limits(LimitsChange {
        overlay_bytes: Some(8192),
        ..nothing()
    });

    answered(&mut disk, 1);
    assert_eq!(status(&disk, 1, 0), OK);
    assert_eq!(read(&mut disk, 64), [0xab; 512]);
    helper.terminate();
}

#[test]
fn a_held_write_goes_on_when_another_queue_gives_space_back() {
    let place = Place::with_noise(1 << 20, 1);
    let (helper, operator, mut disk) = full_and_holding(&place, 2);
    submit(&mut disk, 1, 0, OUT, 64);
    assert!(matches!(operator.event(), Event::QuotaReached { .. }));

    let segment = tests::raw::zero_segment(0, 8, 0);
    assert_eq!(disk.request(tests::raw::DISCARD, 0, &segment, 0).0, OK);

    answered(&mut disk, 1);
    assert_eq!(status(&disk, 1, 0), OK);
    helper.terminate();
}

#[test]
fn a_held_write_fails_once_the_policy_says_so() {
    let place = Place::with_noise(1 << 20, 1);
    let (helper, operator, mut disk) = full_and_holding(&place, 2);
    submit(&mut disk, 1, 0, OUT, 64);
    assert!(matches!(operator.event(), Event::QuotaReached { .. }));
    let other = Operator::connect(&place.control());

    other.set_limits(LimitsChange {
        at_limit: Some(AtLimit::Error),
        ..nothing()
    });

    answered(&mut disk, 1);
    assert_eq!(status(&disk, 1, 0), IOERR);
    helper.terminate();
}

#[test]
fn a_frontend_may_leave_while_it_is_held_and_the_next_finds_the_request_again() {
    let place = Place::with_noise(1 << 20, 1);
    let (helper, operator, mut disk) = full_and_holding(&place, 2);
    submit(&mut disk, 1, 0, OUT, 64);
    assert!(matches!(operator.event(), Event::QuotaReached { .. }));
    let other = Operator::connect(&place.control());

    let disk = disk.reconnect(helper.socket());
    await_status(&other, "it came back", |status| status.connected);
    other.set_limits(LimitsChange {
        overlay_bytes: Some(1 << 20),
        ..nothing()
    });
    disk.start_ring(1, 0);

    let begun = Instant::now();
    while status(&disk, 1, 0) != OK {
        assert!(begun.elapsed() < Duration::from_secs(5), "the request was lost");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(other.stats().write.errors, 0);
    helper.terminate();
}

#[test]
fn a_held_write_uses_up_no_rate_however_often_it_is_tried() {
    let place = Place::with_noise(1 << 20, 1);
    let (helper, operator, mut disk) = full_and_holding(&place, 3);
    let other = Operator::connect(&place.control());
    other.set_limits(LimitsChange {
        iops: Some(Rate {
            per_second: 1,
            burst: 4,
        }),
        ..nothing()
    });

    submit(&mut disk, 1, 0, OUT, 64);
    assert!(matches!(operator.event(), Event::LimitsChanged { .. }));
    assert!(matches!(operator.event(), Event::QuotaReached { .. }));
    let begun = Instant::now();
    while other.stats().held_us < 600_000 {
        assert_eq!(other.stats().throttled_us, 0, "it waits for more than space");
        assert!(begun.elapsed() < Duration::from_secs(10), "it is not tried again");
        std::thread::sleep(Duration::from_millis(10));
    }

    assert_eq!(write(&mut disk, 0, 2), OK, "another queue");
    assert_eq!(other.stats().throttled_us, 0);
    helper.terminate();
}

/// The same with one worker for three rings, and ring 1 `wants` to change parts of `cold` clusters that storage takes its
/// time to deliver.
fn waiting_for_storage(
    place: &Place,
    faults: &Faults,
    cold: usize,
    wants: impl FnOnce(&mut RawDisk),
) -> (Helper, Operator, RawDisk) {
    let builder = place.helper().value("--threads", "1").faulty(faults);
    let (helper, operator, mut disk) = make_full_and_holding(builder, place, 3);
    let base = helper.descriptors("base");
    // The worker's look for each, and whoever reads next.
    let look = Rule::fail(&[Call::Preadv2], EAGAIN).on(&base).when(When::Nth(1));
    let mut rules = vec![look; cold];
    rules.push(Rule::hold(&[Call::Preadv2]).on(&base));
    faults.set(&rules);
    wants(&mut disk);
    let begun = Instant::now();
    while faults.spoilt() != vec![1; cold + 1] {
        assert!(begun.elapsed() < Duration::from_secs(10), "nobody waits for storage");
        std::thread::sleep(Duration::from_millis(1));
    }
    (helper, operator, disk)
}

fn part_of_a_cluster(disk: &mut RawDisk) {
    submit(disk, 1, 0, OUT, 64);
}

/// Makes two pieces of eight sectors zeros that begin and end within clusters.
fn parts_of_four_clusters(disk: &mut RawDisk) {
    let RawDisk { memory, rings, .. } = disk;
    memory.write(SMALL, &request_header(WRITE_ZEROES, 0));
    let segments = [zero_segment(68, 8, 0), zero_segment(132, 8, 0)].concat();
    memory.write(DATA, &segments);
    memory.write(SMALL + 0x100, &[UNTOUCHED]);
    let table = linked(&[
        Desc::readable(SMALL, 16),
        Desc::readable(DATA, 32),
        Desc::writable(SMALL + 0x100, 1),
    ]);
    rings[1].put(memory, 0, &table);
    rings[1].publish(memory, &[0]);
    rings[1].kick();
}

/// The worker has only so many attempts before it waits itself: what a request needs it must find at one.
#[test]
fn a_write_that_waits_for_storage_in_many_places_keeps_its_queue_only() {
    let place = Place::with_noise(1 << 20, 1);
    let faults = Faults::new(place.dir());
    let (helper, operator, mut disk) = waiting_for_storage(&place, &faults, 4, parts_of_four_clusters);

    submit(&mut disk, 2, 0, IN, 0);
    answered(&mut disk, 2);

    Operator::connect(&place.control()).set_limits(LimitsChange {
        overlay_bytes: Some(5 * 4096),
        ..nothing()
    });
    faults.clear();
    answered(&mut disk, 1);
    assert_eq!(disk.memory.read(SMALL + 0x100, 1), [OK]);
    for zeroed in [68, 132] {
        let content = |sector: u64| usize::try_from(sector * 512).unwrap();
        assert_eq!(read(&mut disk, zeroed), [0; 512]);
        assert_eq!(read(&mut disk, zeroed + 7), [0; 512]);
        let before = content(zeroed - 1);
        assert_eq!(read(&mut disk, zeroed - 1), place.content()[before..before + 512]);
        let behind = content(zeroed + 8);
        assert_eq!(read(&mut disk, zeroed + 8), place.content()[behind..behind + 512]);
    }
    drop(operator);
    helper.terminate();
}

/// Its worker used to wait for storage itself, each time it was tried.
#[test]
fn a_write_that_waits_for_storage_keeps_its_queue_only_and_is_held_afterwards() {
    let place = Place::with_noise(1 << 20, 1);
    let faults = Faults::new(place.dir());
    let (helper, operator, mut disk) = waiting_for_storage(&place, &faults, 1, part_of_a_cluster);

    assert_eq!(write(&mut disk, 0, 2), OK, "another queue of the same worker");
    submit(&mut disk, 2, 0, IN, 0);
    answered(&mut disk, 2);
    assert_eq!(status(&disk, 1, 0), UNTOUCHED);

    faults.clear();
    assert_eq!(operator.event(), Event::QuotaReached { limit_bytes: 4096 });
    assert_eq!(status(&disk, 1, 0), UNTOUCHED);
    Operator::connect(&place.control()).set_limits(LimitsChange {
        overlay_bytes: Some(8192),
        ..nothing()
    });
    answered(&mut disk, 1);
    assert_eq!(status(&disk, 1, 0), OK);
    assert_eq!(read(&mut disk, 64), [0xab; 512]);
    assert_eq!(read(&mut disk, 65), place.content()[65 * 512..66 * 512]);
    helper.terminate();
}

#[test]
fn a_queue_that_waits_for_storage_so_is_given_back_at_once_with_its_write() {
    let place = Place::with_noise(1 << 20, 1);
    let faults = Faults::new(place.dir());
    let (helper, _operator, disk) = waiting_for_storage(&place, &faults, 1, part_of_a_cluster);

    let mut disk = disk.reconnect(helper.socket());

    assert_eq!(status(&disk, 1, 0), UNTOUCHED);
    Operator::connect(&place.control()).set_limits(LimitsChange {
        overlay_bytes: Some(8192),
        ..nothing()
    });
    faults.clear();
    disk.start_ring(1, 0);
    answered(&mut disk, 1);
    assert_eq!(status(&disk, 1, 0), OK);
    helper.terminate();
}

#[test]
fn a_held_guest_burns_as_fast_as_any() {
    let place = Place::with_noise(1 << 20, 1);
    let (helper, operator, mut disk) = full_and_holding(&place, 2);
    submit(&mut disk, 1, 0, OUT, 64);
    assert!(matches!(operator.event(), Event::QuotaReached { .. }));
    helper.terminate();
}

#[test]
fn the_floor_keeps_space_free_and_a_freed_host_goes_on() {
    require!(root);
    let place = Place::with_noise(8 << 20, 1);
    let _tmpfs = tests::mounted::Mounted::tmpfs(&place.overlay_dir(), "8m");
    let ballast = place.overlay_dir().join("ballast");
    std::fs::write(&ballast, vec![1; 3 << 20]).unwrap();
    let helper = place
        .helper()
        .controlled()
        .value("--keep-free", "3M")
        .value("--at-limit", "hold")
        .start();
    let operator = Operator::connect(&place.control());
    operator.subscribe();
    let mut disk = guest(&helper, 2);
    assert_eq!(operator.event(), Event::Connected);

    // 2 MiB are left above the floor.
    let held = (0..1024).find_map(|cluster| {
        submit(&mut disk, 1, 0, OUT, cluster * 8);
        let begun = Instant::now();
        while status(&disk, 1, 0) == UNTOUCHED {
            assert!(begun.elapsed() < Duration::from_secs(10), "neither answered nor held");
            if let Some(event) = operator.event_within(Duration::from_millis(1)) {
                return Some((cluster, event));
            }
        }
        answered(&mut disk, 1);
        None
    });
    let (clusters, event) = held.expect("the floor is reached");
    assert!((256..=512).contains(&clusters), "after {clusters} clusters");
    assert!(
        matches!(event, Event::SpaceLow { free_bytes, keep_free_bytes } if free_bytes >= 3 << 20 && keep_free_bytes == 3 << 20),
        "{event:?}"
    );
    assert!(tests::mounted::free_bytes(&place.overlay_dir()) >= 3 << 20);

    std::fs::remove_file(&ballast).unwrap();

    answered(&mut disk, 1);
    assert_eq!(status(&disk, 1, 0), OK);
    helper.terminate();
}
