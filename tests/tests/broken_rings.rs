//! A ring that lies about itself is given up, alone: its err eventfd says so, the other rings and the process go on.

use std::time::Duration;

use tests::helper::Helper;
use tests::place::Place;
use tests::raw::{Desc, FLUSH, RawDisk, SMALL, linked, request_header, signalled};

const SOON: Duration = Duration::from_secs(5);
const STATUS: u64 = SMALL + 0x100;

fn start(place: &Place) -> (Helper, RawDisk) {
    let helper = place.helper().start();
    let disk = RawDisk::start(helper.socket(), 2, 64);
    disk.memory.write(SMALL, &request_header(FLUSH, 0));
    let chain = linked(&[Desc::readable(SMALL, 16), Desc::writable(STATUS, 1)]);
    for ring in &disk.rings {
        ring.put(&disk.memory, 0, &chain);
    }
    (helper, disk)
}

/// Ring 1 was broken: nothing comes back on it, ring 0 works, and so does the next connection.
fn assert_only_ring_1_is_broken(mut helper: Helper, mut disk: RawDisk) {
    assert!(
        signalled(&disk.rings[1].err, SOON),
        "the err eventfd of the broken ring"
    );
    let RawDisk { memory, rings, .. } = &mut disk;
    rings[1].take_used(memory);
    rings[1].kick();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(rings[1].take_used(memory), [], "a broken ring stays broken");
    assert!(
        !signalled(&rings[0].err, Duration::ZERO),
        "the err eventfd of the other ring"
    );
    disk.assert_serves();
    drop(disk);
    helper.assert_alive();
    RawDisk::start(helper.socket(), 2, 64).assert_serves();
    helper.terminate();
}

#[test]
fn an_available_index_too_far_ahead_stops_its_ring() {
    for ahead in [65, 66, 1000, 0x8000, u16::MAX] {
        let place = Place::with_noise(1 << 20, 1);
        let (helper, mut disk) = start(&place);
        let RawDisk { memory, rings, .. } = &mut disk;

        rings[1].publish_index(memory, ahead);
        rings[1].kick();

        assert_only_ring_1_is_broken(helper, disk);
    }
}

#[test]
fn an_available_index_a_whole_ring_ahead_is_fine() {
    let place = Place::with_noise(1 << 20, 2);
    let (helper, mut disk) = start(&place);
    let RawDisk { memory, rings, .. } = &mut disk;

    rings[1].publish(memory, &[0; 64]);
    rings[1].kick();
    let used = rings[1].wait_used(memory, 64);

    assert_eq!(used.len(), 64);
    assert!(!signalled(&rings[1].err, Duration::ZERO));
    disk.assert_serves();
    helper.terminate();
}

#[test]
fn a_head_outside_the_table_stops_its_ring() {
    for head in [64, 65, 0x8000, u16::MAX] {
        let place = Place::with_noise(1 << 20, 3);
        let (helper, mut disk) = start(&place);
        let RawDisk { memory, rings, .. } = &mut disk;

        rings[1].publish(memory, &[head]);
        rings[1].kick();

        assert_only_ring_1_is_broken(helper, disk);
    }
}

#[test]
fn good_heads_before_a_bad_one_are_answered() {
    let place = Place::with_noise(1 << 20, 4);
    let (helper, mut disk) = start(&place);
    let RawDisk { memory, rings, .. } = &mut disk;

    rings[1].publish(memory, &[0, 0, 64, 0]);
    rings[1].kick();
    let used = rings[1].wait_used(memory, 2);

    assert_eq!(used.len(), 2);
    assert!(signalled(&rings[1].call, SOON), "the driver is told of them");
    assert_only_ring_1_is_broken(helper, disk);
}

/// The library's own answer to a bad index is an error line for each look at the ring.
#[test]
fn a_hundred_thousand_kicks_of_a_broken_ring_are_not_worth_a_hundred_lines() {
    let place = Place::with_noise(1 << 20, 5);
    let (mut helper, mut disk) = start(&place);
    let RawDisk { memory, rings, .. } = &mut disk;

    rings[1].publish_index(memory, 0x4000);
    for _ in 0..100_000 {
        rings[1].kick();
    }
    disk.assert_serves();
    helper.assert_alive();
    helper.signal(nix::sys::signal::Signal::SIGTERM);
    let ended = helper.wait_within(tests::helper::END);

    assert!(ended.stderr.lines().count() < 100, "{}", ended.stderr);
}

/// And a good one whose requests are all wrong.
#[test]
fn a_hundred_thousand_malformed_requests_are_not_worth_a_hundred_lines() {
    let place = Place::with_noise(1 << 20, 6);
    let (mut helper, mut disk) = start(&place);
    let RawDisk { memory, rings, .. } = &mut disk;
    rings[1].put(memory, 0, &[Desc::readable(SMALL, 3)]);

    for _ in 0..100_000 / 64 {
        rings[1].publish(memory, &[0; 64]);
        rings[1].kick();
        rings[1].wait_used(memory, 64);
    }
    disk.assert_serves();
    helper.assert_alive();
    helper.signal(nix::sys::signal::Signal::SIGTERM);
    let ended = helper.wait_within(tests::helper::END);

    assert!(ended.stderr.lines().count() < 100, "{}", ended.stderr);
}
