//! Messages that no VMM sends: each is refused or means nothing, and the next client's disk works.

use std::fs;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::eventfd::EventFd;
use tests::abuse::{AT_ONCE, assert_serves, survives};
use tests::helper::Helper;
use tests::memory::GuestMemory;
use tests::place::Place;
use tests::raw::{PROTOCOL, RawDisk, negotiate, patient};
use tests::require;
use tests::rng::Rng;
use tests::wire::{NEED_REPLY, REPLY, VERSION, Wire, code, header, longs, words};

/// In which state of the conversation something is said.
#[derive(Clone, Copy, Debug)]
enum Stage {
    Fresh,
    Owned,
    Negotiated,
    Running,
}

/// A connection in that state, and whatever must live as long.
fn at_stage(helper: &Helper, stage: Stage) -> (Wire, Option<GuestMemory>) {
    match stage {
        Stage::Fresh => (patient(helper.socket()), None),
        Stage::Owned => {
            let wire = patient(helper.socket());
            wire.send(code::SET_OWNER, 0, &[], &[])
                .expect("the helper takes SET_OWNER");
            (wire, None)
        }
        Stage::Negotiated => {
            let wire = patient(helper.socket());
            negotiate(&wire);
            (wire, None)
        }
        Stage::Running => {
            let RawDisk { wire, memory, .. } = RawDisk::start(helper.socket(), 2, 64);
            (wire, Some(memory))
        }
    }
}

const STAGES: [Stage; 4] = [Stage::Fresh, Stage::Owned, Stage::Negotiated, Stage::Running];

#[test]
fn every_request_code_in_every_state_harms_nobody() {
    let place = Place::with_noise(1 << 20, 1);
    let mut helper = place.helper().start();
    let eventfd = EventFd::new().unwrap();

    for stage in STAGES {
        for code in (0..=60).chain([0x7fff_ffff, u32::MAX]) {
            for body in [vec![], longs(&[0]), longs(&[u64::MAX; 5]), vec![0; 300]] {
                let (wire, _memory) = at_stage(&helper, stage);
                let _ = wire.send(code, NEED_REPLY, &body, &[]);
                let _ = wire.send(code, 0, &body, &[eventfd.as_fd()]);
            }
        }
        helper.assert_alive();
    }

    assert_serves(helper, &place);
}

#[test]
fn random_bytes_harm_nobody() {
    let place = Place::with_noise(1 << 20, 1);
    let mut helper = place.helper().start();
    let mut rng = Rng::new(1);

    for stage in STAGES {
        for _ in 0..300 {
            let (wire, _memory) = at_stage(&helper, stage);
            let len = rng.index(200);
            let _ = wire.send_bytes(&rng.bytes(len), &[]);
            let code = u32::try_from(rng.below(50)).unwrap();
            let len = rng.index(64);
            let _ = wire.send(code, NEED_REPLY, &rng.bytes(len), &[]);
        }
        helper.assert_alive();
    }

    assert_serves(helper, &place);
}

#[test]
fn sizes_that_no_message_has_are_not_waited_for() {
    for size in [4097, 0x1_0000, 0x7fff_ffff, u32::MAX] {
        survives(|helper| {
            let wire = patient(helper.socket());
            wire.send_bytes(&header(code::SET_FEATURES, VERSION, size), &[])
                .unwrap();
            assert!(wire.closes_within(AT_ONCE), "a size of {size}");
            wire
        });
    }
}

#[test]
fn a_header_that_is_no_request_ends_the_conversation() {
    for flags in [0, 2, 3, VERSION | REPLY, u32::MAX] {
        survives(|helper| {
            let wire = patient(helper.socket());
            wire.send_bytes(&header(code::GET_FEATURES, flags, 0), &[]).unwrap();
            assert!(wire.closes_within(AT_ONCE), "flags {flags:#x}");
            wire
        });
    }
}

#[test]
fn acking_what_was_not_offered_is_refused() {
    for extra in [u64::MAX, 1 << 26, 1 << 27, 1 << 34, 1 << 63] {
        survives(|helper| {
            let wire = patient(helper.socket());
            negotiate(&wire);
            let offered = wire.ask(code::GET_FEATURES, &[]).unwrap().number();
            assert_eq!(
                offered & extra & (1 << 26 | 1 << 34),
                0,
                "LOG_ALL and RING_PACKED are not offered"
            );
            assert_ne!(
                wire.tell(code::SET_FEATURES, &longs(&[offered | extra]), &[]).ok(),
                Some(0),
                "{extra:#x}"
            );
            wire
        });
    }
}

#[test]
fn acking_protocol_features_that_were_not_offered_is_refused() {
    for extra in [u64::MAX, 1 << 1, 1 << 12, 1 << 19, 1 << 63] {
        survives(|helper| {
            let wire = patient(helper.socket());
            negotiate(&wire);
            assert_ne!(
                wire.tell(code::SET_PROTOCOL_FEATURES, &longs(&[PROTOCOL | extra]), &[])
                    .ok(),
                Some(0),
                "{extra:#x}"
            );
            wire
        });
    }
}

/// The library's own gates look at what the client acked, not at what was offered.
#[test]
fn a_dirty_log_is_refused_whatever_was_acked_before() {
    survives(|helper| {
        let wire = patient(helper.socket());
        wire.send(code::SET_OWNER, 0, &[], &[]).unwrap();
        let _ = wire.ask(code::GET_FEATURES, &[]);
        let _ = wire.ask(code::GET_PROTOCOL_FEATURES, &[]);
        let _ = wire.send(code::SET_PROTOCOL_FEATURES, 0, &longs(&[0xff]), &[]);
        let log = GuestMemory::sealed(4096);
        let _ = wire.send(code::SET_LOG_BASE, NEED_REPLY, &longs(&[1 << 40, 1]), &[log.as_fd()]);
        let answered_yes = wire
            .receive()
            .is_ok_and(|answer| answer.code == code::SET_LOG_BASE && answer.number() == 0);
        assert!(!answered_yes, "SET_LOG_BASE was accepted");
        wire
    });
}

#[test]
fn ring_sizes_that_are_none_are_refused() {
    for size in [0, 3, 100, 300, 32_769, 65_535, 65_536, u32::MAX] {
        survives(|helper| {
            let wire = patient(helper.socket());
            negotiate(&wire);
            assert_ne!(
                wire.tell(code::SET_VRING_NUM, &words(&[0, size]), &[]).ok(),
                Some(0),
                "{size}"
            );
            wire
        });
    }
}

#[test]
fn a_live_ring_cannot_be_rebuilt() {
    survives(|helper| {
        let mut disk = RawDisk::start(helper.socket(), 2, 64);
        disk.assert_serves();
        let _ = disk.wire.tell(code::SET_VRING_NUM, &words(&[0, 2]), &[]);
        let _ = disk.wire.tell(code::SET_VRING_BASE, &words(&[0, 0x8000]), &[]);
        let _ = disk.wire.tell(code::SET_VRING_NUM, &words(&[0, 32_768]), &[]);
        let RawDisk { memory, rings, .. } = &mut disk;
        rings[0].publish(memory, &[0, 0, 0, 0]);
        rings[0].kick();
        std::thread::sleep(Duration::from_millis(20));
        disk
    });
}

#[test]
fn one_descriptor_more_than_a_message_may_have_ends_the_conversation() {
    let eventfds: Vec<_> = (0..253).map(|_| EventFd::new().unwrap()).collect();
    for count in [1, 2, 8, 32, 33, 64, 253] {
        survives(|helper| {
            let wire = patient(helper.socket());
            negotiate(&wire);
            let fds: Vec<_> = eventfds[..count].iter().map(AsFd::as_fd).collect();
            let _ = wire.send(code::SET_VRING_NUM, 0, &words(&[0, 64]), &fds);
            let _ = wire.send(code::SET_VRING_CALL, 0, &longs(&[0]), &fds);
            wire
        });
    }
}

#[test]
fn ten_thousand_messages_with_unwanted_descriptors_leave_none_behind() {
    require!(root);
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();
    let eventfd = EventFd::new().unwrap();
    let fds = [eventfd.as_fd(); 8];
    drop(patient(helper.socket()));
    let before = settled_descriptors(&helper);
    let mut wire = Wire::connect(helper.socket());

    for round in 0..10_000 {
        let code = [
            code::GET_FEATURES,
            code::GET_QUEUE_NUM,
            code::SET_OWNER,
            code::SET_VRING_NUM,
            99,
        ][round % 5];
        let sent = wire.send(code, 0, &[], &fds[..1 + round % 8]);
        if sent.is_err() || wire.closes_within(Duration::from_millis(1)) {
            wire = Wire::connect(helper.socket());
        }
    }
    drop(wire);

    assert_eq!(settled_descriptors(&helper), before);
    assert_serves(helper, &place);
}

#[test]
fn a_thousand_connections_leave_nothing_behind() {
    require!(root);
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();
    drop(patient(helper.socket()));
    let before = settled_descriptors(&helper);

    for _ in 0..1000 {
        let _ = Wire::connect(helper.socket());
    }

    assert_eq!(settled_descriptors(&helper), before);
    assert_serves(helper, &place);
}

/// How many descriptors the helper has once it noticed that everybody left.
fn settled_descriptors(helper: &Helper) -> usize {
    std::thread::sleep(Duration::from_millis(200));
    fs::read_dir(helper.proc("fd")).expect("root may look").count()
}

#[test]
fn the_second_client_is_turned_away_at_once_and_the_first_goes_on() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();
    let mut first = RawDisk::start(helper.socket(), 1, 64);

    for _ in 0..20 {
        assert!(Wire::connect(helper.socket()).closes_within(AT_ONCE));
        first.assert_serves();
    }

    drop(first);
    assert_serves(helper, &place);
}

#[test]
fn configuration_space_out_of_range_is_refused_and_inside_is_exact() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();
    let wire = patient(helper.socket());
    negotiate(&wire);
    let get = |offset: u32, size: u32| {
        let room = vec![0; usize::try_from(size).unwrap()];
        wire.ask(code::GET_CONFIG, &[words(&[offset, size, 0]), room].concat())
            .expect("inside the space is answered")
    };
    let whole = get(0, 256);

    assert_eq!(whole.body.len(), 12 + 256);
    for offset in 0..64 {
        for size in [1, 2, 4, 8, 57, 60, 64, 192] {
            let part = get(offset, size);
            let from = 12 + usize::try_from(offset).unwrap();
            assert_eq!(
                part.body[..12],
                words(&[offset, size, 0]),
                "offset {offset}, size {size}"
            );
            assert_eq!(
                part.body[12..],
                whole.body[from..from + usize::try_from(size).unwrap()],
                "{offset} + {size}"
            );
        }
    }

    drop(wire);
    assert_serves(helper, &place);
}

#[test]
fn configuration_space_that_is_not_there_harms_nobody() {
    for (offset, size) in [
        (0, 0),
        (0, 4084),
        (4095, 1),
        (4096, 1),
        (256, 8),
        (250, 16),
        (u32::MAX, 8),
        (u32::MAX, 1),
    ] {
        survives(|helper| {
            let wire = patient(helper.socket());
            negotiate(&wire);
            let room = vec![0; usize::try_from(size).unwrap()];
            let _ = wire.send(code::GET_CONFIG, 0, &[words(&[offset, size, 0]), room].concat(), &[]);
            let lying = words(&[offset, u32::MAX, 0]);
            let _ = wire.send(code::GET_CONFIG, 0, &lying, &[]);
            wire
        });
    }
}

#[test]
fn configuration_space_cannot_be_written() {
    survives(|helper| {
        let wire = patient(helper.socket());
        negotiate(&wire);
        let _ = wire.tell(code::SET_CONFIG, &[words(&[0, 8, 0]), vec![0xff; 8]].concat(), &[]);
        drop(wire);
        let wire = patient(helper.socket());
        negotiate(&wire);
        let answer = wire
            .ask(code::GET_CONFIG, &[words(&[0, 8, 0]), vec![0; 8]].concat())
            .unwrap();
        assert_eq!(answer.body[12..], 2048_u64.to_le_bytes());
        wire
    });
}
