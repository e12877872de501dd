//! Who asked for events gets them, and nobody else; who does not take them loses them, and nothing waits.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use protocol::control::{AtLimit, Event, Heard, LimitsChange};
use tests::operator::Operator;
use tests::place::Place;
use tests::raw::RawDisk;

use crate::controlled;

#[test]
fn a_frontends_coming_and_going_is_told_to_who_asked() {
    let place = Place::with_noise(1 << 20, 1);
    let (helper, operator) = controlled(&place);
    let other = Operator::connect(&place.control());
    operator.subscribe();
    operator.subscribe();

    for _ in 0..3 {
        let disk = RawDisk::start(helper.socket(), 1, 64);
        assert_eq!(operator.event(), Event::Connected);
        drop(disk);
        assert_eq!(operator.event(), Event::Disconnected);
    }

    assert!(!other.status().connected);
    assert_eq!(other.event_within(Duration::from_millis(50)), None);
    helper.terminate();
}

#[test]
fn a_change_of_limits_is_told() {
    let place = Place::with_noise(1 << 20, 1);
    let (helper, operator) = controlled(&place);
    let other = Operator::connect(&place.control());
    other.subscribe();

    let limits = operator.set_limits(LimitsChange {
        at_limit: Some(AtLimit::Hold),
        ..LimitsChange::default()
    });

    assert_eq!(limits.at_limit, AtLimit::Hold);
    assert_eq!(other.event(), Event::LimitsChanged { limits });
    helper.terminate();
}

#[test]
fn a_base_that_is_changed_underfoot_is_told_once() {
    let place = Place::with_noise(1 << 20, 1);
    // Not the place's own base, which must stay as it is.
    let base = place.dir().join("changing.raw");
    std::fs::write(&base, [1; 1 << 16]).unwrap();
    let helper = place.helper().base(&base).controlled().start();
    let operator = Operator::connect(&place.control());
    operator.subscribe();
    let other = Operator::connect(&place.control());
    let _ = other.status();
    std::thread::sleep(Duration::from_millis(20));

    let file = File::options().write(true).open(&base).unwrap();
    file.write_all_at(b"new", 0).unwrap();

    // The helper looks when it is awake.
    let begun = Instant::now();
    let event = loop {
        let _ = other.status();
        if let Some(event) = operator.event_within(Duration::from_millis(50)) {
            break event;
        }
        assert!(begun.elapsed() < Duration::from_secs(15), "nobody noticed");
    };
    assert_eq!(event, Event::BaseChanged);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(1500) {
        let _ = other.status();
        assert_eq!(operator.event_within(Duration::from_millis(100)), None);
    }
    helper.terminate();
}

#[test]
fn events_beyond_the_room_are_dropped_and_counted_and_nobody_waits() {
    let place = Place::with_noise(1 << 20, 1);
    let (helper, operator) = controlled(&place);
    let deaf = Operator::connect(&place.control());
    deaf.subscribe();
    let change = LimitsChange {
        at_limit: Some(AtLimit::Error),
        ..LimitsChange::default()
    };

    for _ in 0..2000 {
        operator.set_limits(change);
    }

    // The last one may be on its way yet.
    let heard = std::iter::from_fn(|| deaf.hear_within(Duration::from_millis(100))).count();
    let dropped = operator.stats().events_dropped;
    assert!(dropped > 0, "there was room for all");
    assert_eq!(u64::try_from(heard).unwrap() + dropped, 2000);
    operator.set_limits(change);
    match deaf.hear_within(Duration::from_secs(5)) {
        Some(Heard::Notice(notice)) => assert_eq!(notice.missed, dropped),
        other => panic!("no event: {other:?}"),
    }
    helper.terminate();
}
