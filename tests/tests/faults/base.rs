//! A base that somebody shortens, again and again, under a guest at work: what is gone is an error, and never something else.

use std::fs::{self, File};
use std::time::{Duration, Instant};

use protocol::control::Event;
use tests::client::Client;
use tests::ctl::Ctl;
use tests::doubt::Doubt;
use tests::drive::{Notice, Plan, drive_in_doubt};
use tests::model::Model;
use tests::operator::Operator;
use tests::place::Place;

const DISK: usize = 2 << 20;

#[test]
fn a_base_that_is_truncated_under_a_guest_is_an_error_and_reported() {
    let place = Place::with_noise(DISK, 1);
    let base = place.dir().join("shrinking.raw");
    fs::copy(place.base(), &base).unwrap();
    let mut helper = place.helper().base(&base).controlled().start();
    let operator = Operator::connect(&place.control());
    operator.subscribe();
    let mut plan = Plan {
        seed: 1,
        requests: 500,
        in_flight: 32,
        notice: Notice::Eventfd,
        most_zeroed: 1 << 16,
    };
    let mut client = Client::connect(helper.socket(), plan.setup(2, true));
    let (mut model, mut doubt) = (Model::new(place.content()), Doubt::new(DISK));
    let mut failed = 0;
    for left in [DISK / 4 * 3, DISK / 2 + 100, 4096, 0] {
        let length = u64::try_from(left).unwrap();
        File::options()
            .write(true)
            .open(&base)
            .unwrap()
            .set_len(length)
            .unwrap();
        plan.seed += 1;
        failed += drive_in_doubt(&mut client, &mut model, &mut doubt, plan).failed;
    }

    assert!(failed > 10, "{failed}");
    helper.assert_alive();
    let begun = Instant::now();
    // The helper looks when it is awake.
    let other = Operator::connect(&place.control());
    while operator.event_within(Duration::from_millis(50)) != Some(Event::BaseChanged) {
        let _ = other.status();
        assert!(begun.elapsed() < Duration::from_secs(15), "nobody noticed");
    }
    let out = place.dir().join("saved");
    let ended = Ctl::at(place.control()).run(["save", out.to_str().unwrap()]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("shorter"), "{ended:?}");
    assert!(!out.exists());
    helper.terminate();
}
