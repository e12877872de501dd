//! Peers that stop in the middle, and how long the helper waits for them. These tests are slow because waiting is.

use std::time::{Duration, Instant};

use tests::abuse::{AT_ONCE, assert_serves};
use tests::helper::Helper;
use tests::place::Place;
use tests::raw::{RawDisk, negotiate, patient};
use tests::wire::{VERSION, Wire, code, header};

/// A message must be whole within this, from its first byte.
const HALF: Duration = Duration::from_secs(5);
/// The first message must come within this.
const FIRST: Duration = Duration::from_secs(10);
/// What a loaded machine may add.
const SLACK: Duration = Duration::from_secs(3);

/// The helper drops `wire` after about `limit`, not at once and not much later, and serves the next.
fn assert_dropped_after(limit: Duration, helper: Helper, place: &Place, wire: &Wire) {
    let begun = Instant::now();
    assert!(wire.closes_within(limit + SLACK), "still open after {limit:?}");
    assert!(
        begun.elapsed() + SLACK > limit,
        "dropped after only {:?}",
        begun.elapsed()
    );
    assert_serves(helper, place);
}

#[test]
fn half_a_header_is_waited_for_five_seconds() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();
    let wire = patient(helper.socket());

    wire.send_bytes(&header(code::GET_FEATURES, VERSION, 0)[..5], &[])
        .unwrap();

    assert_dropped_after(HALF, helper, &place, &wire);
}

#[test]
fn half_a_body_is_waited_for_five_seconds() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();
    let wire = patient(helper.socket());
    negotiate(&wire);

    let half = [&header(code::SET_VRING_NUM, VERSION, 8)[..], &[0; 3]].concat();
    wire.send_bytes(&half, &[]).unwrap();

    assert_dropped_after(HALF, helper, &place, &wire);
}

#[test]
fn half_a_first_message_is_waited_for_ten_seconds_at_most() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();
    let wire = Wire::connect(helper.socket());

    wire.send_bytes(&[1, 0, 0], &[]).unwrap();

    assert!(wire.closes_within(FIRST + SLACK));
    assert_serves(helper, &place);
}

/// A byte a second keeps any time-out between two bytes from passing.
#[test]
fn a_message_that_drips_is_dropped_all_the_same() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();
    let wire = patient(helper.socket());
    let begun = Instant::now();

    let closed = header(code::GET_FEATURES, VERSION, 0)
        .iter()
        .any(|byte| wire.send_bytes(&[*byte], &[]).is_err() || wire.closes_within(Duration::from_secs(1)));

    assert!(closed, "twelve bytes in twelve seconds were waited for");
    assert!(begun.elapsed() < HALF + SLACK, "{:?}", begun.elapsed());
    assert_serves(helper, &place);
}

#[test]
fn a_client_that_says_nothing_is_dropped_after_ten_seconds() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();

    let wire = Wire::connect(helper.socket());

    assert_dropped_after(FIRST, helper, &place, &wire);
}

#[test]
fn while_one_says_nothing_the_next_is_turned_away_at_once() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();
    let silent = Wire::connect(helper.socket());

    assert!(Wire::connect(helper.socket()).closes_within(AT_ONCE));

    drop(silent);
    assert_serves(helper, &place);
}

#[test]
fn sigterm_is_obeyed_while_half_a_message_is_waited_for() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();
    let wire = patient(helper.socket());
    wire.send_bytes(&[1, 0, 0], &[]).unwrap();
    std::thread::sleep(Duration::from_millis(100));

    helper.terminate_at_once();
}

/// A client that never reads: the helper must not wait in `sendmsg` for it.
#[test]
fn answers_that_nobody_reads_hang_nobody() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();
    let wire = patient(helper.socket());
    let mut questions = 0;

    while questions < 100_000 && wire.send(code::GET_FEATURES, 0, &[], &[]).is_ok() {
        questions += 1;
    }

    drop(wire);
    assert_serves(helper, &place);
}

#[test]
fn sigterm_is_obeyed_while_nobody_reads_the_answers() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();
    let wire = patient(helper.socket());
    let sender = std::thread::spawn(move || {
        for _ in 0..100_000 {
            if wire.send(code::GET_FEATURES, 0, &[], &[]).is_err() {
                break;
            }
        }
        wire
    });
    std::thread::sleep(Duration::from_secs(1));

    helper.terminate_at_once();

    drop(sender.join().unwrap());
}

#[test]
fn a_guest_that_is_idle_is_not_dropped() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();
    let mut disk = RawDisk::start(helper.socket(), 2, 64);
    disk.assert_serves();

    std::thread::sleep(FIRST + SLACK);

    disk.assert_serves();
    helper.terminate();
}

#[test]
fn a_frontend_that_negotiated_and_waits_for_its_guest_is_not_dropped() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();
    let wire = patient(helper.socket());
    negotiate(&wire);

    std::thread::sleep(FIRST + SLACK);

    assert!(
        wire.ask(code::GET_QUEUE_NUM, &[])
            .is_ok_and(|answer| answer.number() >= 1)
    );
    helper.terminate();
}
