//! The honest conversation between frontend and backend, to the letter of the vhost-user specification.

use std::time::Duration;

use tests::place::Place;
use tests::raw::{
    Desc, IN, OK, OUT, PROTOCOL, PROTOCOL_FEATURES, RawDisk, SMALL, STATUS, linked, negotiate, patient, request_header,
    signalled, tell_memory,
};
use tests::wire::{REPLY, VERSION, code, longs, words};

const SHORT: Duration = Duration::from_millis(200);

/// SEG_MAX, BLK_SIZE, FLUSH, TOPOLOGY, MQ, DISCARD, WRITE_ZEROES; INDIRECT_DESC, EVENT_IDX, VERSION_1; the vhost-user bit.
const OFFERED: u64 =
    1 << 2 | 1 << 6 | 1 << 9 | 1 << 10 | 1 << 12 | 1 << 13 | 1 << 14 | 1 << 28 | 1 << 29 | 1 << 32 | PROTOCOL_FEATURES;

#[test]
fn exactly_the_promised_features_are_offered() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();
    let wire = patient(helper.socket());

    assert_eq!(wire.ask(code::GET_FEATURES, &[]).unwrap().number(), OFFERED);
    assert_eq!(wire.ask(code::GET_PROTOCOL_FEATURES, &[]).unwrap().number(), PROTOCOL);

    helper.terminate();
}

#[test]
fn a_read_only_disk_offers_nothing_that_changes_it() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().read_only().start();
    let wire = patient(helper.socket());

    let offered = wire.ask(code::GET_FEATURES, &[]).unwrap().number();

    assert_eq!(
        offered & (1 << 5 | 1 << 13 | 1 << 14),
        1 << 5,
        "RO, and neither DISCARD nor WRITE_ZEROES"
    );
    helper.terminate();
}

#[test]
fn an_answer_repeats_the_code_and_says_that_it_is_one() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();
    let wire = patient(helper.socket());

    negotiate(&wire);
    let queues = wire.ask(code::GET_QUEUE_NUM, &[]).unwrap();

    assert_eq!(
        (queues.code, queues.flags, queues.number()),
        (code::GET_QUEUE_NUM, VERSION | REPLY, 16)
    );
    helper.terminate();
}

#[test]
fn the_queue_count_is_what_the_operator_said() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().value("--num-queues", "3").start();
    let wire = patient(helper.socket());
    negotiate(&wire);

    assert_eq!(wire.ask(code::GET_QUEUE_NUM, &[]).unwrap().number(), 3);

    helper.terminate();
}

/// QEMU asks this before it says who it is.
#[test]
fn questions_may_come_before_set_owner() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();
    let wire = patient(helper.socket());

    wire.ask(code::GET_FEATURES, &[]).unwrap();
    let protocol = wire.ask(code::GET_PROTOCOL_FEATURES, &[]).unwrap().number();
    wire.send(code::SET_PROTOCOL_FEATURES, 0, &longs(&[protocol]), &[])
        .unwrap();
    let queues = wire.ask(code::GET_QUEUE_NUM, &[]).unwrap().number();
    let slots = wire.ask(code::GET_MAX_MEM_SLOTS, &[]).unwrap().number();

    assert_eq!(queues, 16);
    assert!(slots >= 8);
    helper.terminate();
}

#[test]
fn the_configuration_space_says_what_the_disk_is() {
    let place = Place::with_noise((1 << 20) + 512, 1);
    let helper = place.helper().value("--num-queues", "5").start();
    let wire = patient(helper.socket());
    negotiate(&wire);

    let answer = wire
        .ask(code::GET_CONFIG, &[words(&[0, 60, 0]), vec![0; 60]].concat())
        .unwrap();
    let config = &answer.body[12..];
    let word = |at: usize| u32::from_le_bytes(config[at..at + 4].try_into().unwrap());

    assert_eq!(config[..8], 2049_u64.to_le_bytes(), "capacity in sectors");
    assert!(word(12) >= 126, "seg_max");
    assert_eq!(word(20), 512, "blk_size");
    assert_eq!(config[24], 3, "physical_block_exp: 4 KiB");
    assert_eq!(config[34..36], 5_u16.to_le_bytes(), "num_queues");
    assert!(word(36) > 0, "max_discard_sectors");
    assert!(word(40) > 0, "max_discard_seg");
    assert!(word(48) > 0, "max_write_zeroes_sectors");
    assert!(word(52) > 0, "max_write_zeroes_seg");
    assert_eq!(config[56], 1, "write_zeroes_may_unmap");
    helper.terminate();
}

fn base_of(disk: &RawDisk, ring: u32) -> u32 {
    let answer = disk
        .wire
        .ask(code::GET_VRING_BASE, &words(&[ring, 0]))
        .expect("GET_VRING_BASE is answered");
    u32::from_le_bytes(answer.body[4..8].try_into().expect("a state has eight bytes"))
}

#[test]
fn a_disabled_ring_is_not_served_and_an_enabled_one_goes_on() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();
    let mut disk = RawDisk::start(helper.socket(), 1, 64);
    disk.set_up_flush();

    for _ in 0..3 {
        assert_eq!(
            disk.wire.tell(code::SET_VRING_ENABLE, &words(&[0, 0]), &[]).ok(),
            Some(0)
        );
        assert_eq!(
            disk.wire.tell(code::SET_VRING_ENABLE, &words(&[0, 0]), &[]).ok(),
            Some(0)
        );
        disk.publish_and_kick(5);
        std::thread::sleep(SHORT);
        let RawDisk { memory, rings, .. } = &mut disk;
        assert_eq!(rings[0].take_used(memory), [], "a disabled ring");

        assert_eq!(
            disk.wire.tell(code::SET_VRING_ENABLE, &words(&[0, 1]), &[]).ok(),
            Some(0)
        );
        assert_eq!(
            disk.wire.tell(code::SET_VRING_ENABLE, &words(&[0, 1]), &[]).ok(),
            Some(0)
        );
        let RawDisk { memory, rings, .. } = &mut disk;
        assert_eq!(rings[0].wait_used(memory, 5).len(), 5, "without another kick");
    }

    helper.terminate();
}

#[test]
fn the_base_of_a_stopped_ring_is_where_it_was() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();
    let mut disk = RawDisk::start(helper.socket(), 1, 64);
    disk.set_up_flush();
    disk.publish_and_kick(37);
    let RawDisk { memory, rings, .. } = &mut disk;
    rings[0].wait_used(memory, 37);

    let base = base_of(&disk, 0);
    disk.publish_and_kick(2);
    std::thread::sleep(SHORT);

    assert_eq!(base, 37);
    let RawDisk { memory, rings, .. } = &mut disk;
    assert_eq!(rings[0].take_used(memory), [], "a stopped ring");
    disk.start_ring(0, base);
    let RawDisk { memory, rings, .. } = &mut disk;
    assert_eq!(rings[0].wait_used(memory, 2).len(), 2);
    helper.terminate();
}

/// Everything that was taken from the ring is answered before GET_VRING_BASE is.
#[test]
fn a_ring_is_drained_before_its_base_is_told() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();
    let mut disk = RawDisk::start(helper.socket(), 1, 64);
    let chain = linked(&[
        Desc::readable(SMALL, 16),
        Desc::writable(17 << 20, 1 << 19),
        Desc::writable(STATUS, 1),
    ]);

    for _ in 0..50 {
        disk.memory.write(SMALL, &request_header(IN, 0));
        disk.rings[0].put(&disk.memory, 0, &chain);
        disk.publish_and_kick(20);
        let base = base_of(&disk, 0);
        let used = disk.memory.load_index(disk.rings[0].used_ring() + 2);
        assert_eq!(base, u32::from(used));
        disk.start_ring(0, base);
        let RawDisk { memory, rings, .. } = &mut disk;
        rings[0].wait_used(memory, 20);
    }

    helper.terminate();
}

#[test]
fn a_guest_that_reconnects_goes_on_where_it_was() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();
    let mut disk = RawDisk::start(helper.socket(), 2, 64);
    disk.set_up_flush();
    disk.publish_and_kick(10);
    let RawDisk { memory, rings, .. } = &mut disk;
    rings[0].wait_used(memory, 10);

    let mut disk = disk.reconnect(helper.socket());
    disk.start_ring(0, 10);
    disk.start_ring(1, 0);

    disk.set_up_flush();
    disk.publish_and_kick(3);
    let RawDisk { memory, rings, .. } = &mut disk;
    assert_eq!(rings[0].wait_used(memory, 3).len(), 3);
    disk.assert_serves();
    helper.terminate();
}

/// cloud-hypervisor names the available index after a reconnect, so requests that were never answered lie before it.
#[test]
fn requests_between_used_and_base_are_answered_after_a_reconnect() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();
    let mut disk = RawDisk::start(helper.socket(), 1, 64);
    disk.set_up_flush();
    disk.publish_and_kick(10);
    let RawDisk { memory, rings, .. } = &mut disk;
    rings[0].wait_used(memory, 10);

    let mut disk = disk.reconnect(helper.socket());
    let RawDisk { memory, rings, .. } = &mut disk;
    rings[0].publish(memory, &[0; 4]);
    disk.start_ring(0, 14);

    let RawDisk { memory, rings, .. } = &mut disk;
    assert_eq!(rings[0].wait_used(memory, 4).len(), 4, "without a kick");
    helper.terminate();
}

/// Firmware first, with few features, then the guest's kernel with many, on one connection (as QEMU does).
#[test]
fn features_may_shrink_and_grow_on_one_connection() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();
    let mut disk = RawDisk::start(helper.socket(), 1, 64);
    disk.assert_serves();

    for features in [
        1 << 32 | PROTOCOL_FEATURES,
        OFFERED,
        1 << 29 | 1 << 32 | PROTOCOL_FEATURES,
        OFFERED,
    ] {
        base_of(&disk, 0);
        assert_eq!(
            disk.wire.tell(code::SET_FEATURES, &longs(&[features]), &[]).ok(),
            Some(0),
            "{features:#x}"
        );
        // A guest that starts anew clears its rings.
        disk.memory.write(0, &vec![0; 1 << 20]);
        let RawDisk { wire, memory, rings } = disk;
        let rings = rings
            .iter()
            .map(|ring| tests::raw::RawRing::new(ring.index(), ring.size()))
            .collect();
        disk = RawDisk { wire, memory, rings };
        disk.start_ring(0, 0);
        disk.assert_serves();
        disk.assert_serves();
    }

    helper.terminate();
}

#[test]
fn reset_device_leaves_a_device_that_can_be_started_again() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();
    let mut disk = RawDisk::start(helper.socket(), 1, 64);
    disk.request(OUT, 0, &[7; 512], 0);

    assert_eq!(disk.wire.tell(code::RESET_DEVICE, &[], &[]).ok(), Some(0));
    disk.publish_and_kick(1);
    std::thread::sleep(SHORT);
    let RawDisk { memory, rings, .. } = &mut disk;
    assert_eq!(rings[0].take_used(memory), [], "a reset device");

    negotiate(&disk.wire);
    tell_memory(&disk.wire, &disk.memory);
    disk.memory.write(0, &vec![0; 1 << 20]);
    let RawDisk { wire, memory, .. } = disk;
    let mut disk = RawDisk {
        wire,
        memory,
        rings: vec![tests::raw::RawRing::new(0, 64)],
    };
    disk.start_ring(0, 0);
    let (status, _, data) = disk.request(IN, 0, &[], 512);
    assert_eq!((status, data), (OK, vec![7; 512]));
    helper.terminate();
}

#[test]
fn the_driver_is_called_only_as_it_asked() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();
    let mut disk = RawDisk::start(helper.socket(), 1, 64);
    disk.set_up_flush();
    let used_event = disk.rings[0].avail_ring() + 4 + 2 * 64;

    // Call me when request 4 is done, not before.
    disk.memory.store_index(used_event, 4);
    for _ in 0..4 {
        disk.publish_and_kick(1);
        let RawDisk { memory, rings, .. } = &mut disk;
        rings[0].wait_used(memory, 1);
    }
    let early = signalled(&disk.rings[0].call, SHORT);
    disk.publish_and_kick(1);
    let in_time = signalled(&disk.rings[0].call, Duration::from_secs(5));

    assert!(!early, "called before the driver's event index");
    assert!(in_time, "not called at the driver's event index");
    helper.terminate();
}
