//! A guest's requests, many at once, under one kind of fault or all: each is answered, with what the disk should hold or with an
//! error, and those after it work.

use nix::libc::{EAGAIN, EINTR, EIO, ENOSPC};
use tests::client::{Client, Request, Setup};
use tests::doubt::Doubt;
use tests::drive::{Notice, Plan, drive, drive_in_doubt};
use tests::faults::disk::{READS, WRITES, every_way, requests};
use tests::faults::{Call, Faults, Rule, When};
use tests::model::Model;
use tests::place::Place;
use tests::require;

const DISK: usize = (2 << 20) + 3 * 512;
const REQUESTS: u64 = 300;

fn plan(seed: u64) -> Plan {
    Plan {
        seed,
        requests: REQUESTS,
        in_flight: 32,
        notice: Notice::Eventfd,
        most_zeroed: 1 << 20,
    }
}

/// How many calls were spoilt, and how many requests failed.
#[derive(Debug, Default)]
struct Outcome {
    spoilt: u64,
    failed: u64,
}

/// Runs traffic under the rules, encrypted and in the clear; then the disk must be what the model says, and go on without doubt.
fn survives(seed: u64, rules: &[Rule]) -> Outcome {
    let mut outcome = Outcome::default();
    for clear in [false, true] {
        let place = Place::with_noise(DISK, seed);
        let faults = Faults::new(place.dir());
        let helper = place.helper().value("--threads", "2");
        let helper = if clear { helper.option("--no-encrypt") } else { helper };
        let mut helper = helper.faulty(&faults).start();
        let mut client = Client::connect(helper.socket(), plan(seed).setup(2, true));
        let (mut model, mut doubt) = (Model::new(place.content()), Doubt::new(DISK));
        let on_disk = |rule: &Rule| rule.clone().on(&helper.disk());
        faults.set_seeded(seed, &rules.iter().map(on_disk).collect::<Vec<_>>());

        let tally = drive_in_doubt(&mut client, &mut model, &mut doubt, plan(seed));

        outcome.spoilt += faults.spoilt().iter().sum::<u64>();
        outcome.failed += tally.failed;
        faults.clear();
        let mut all = client.read_all();
        doubt.benefit(0, &mut all, model.read(0, model.len()));
        assert!(
            all == model.read(0, model.len()),
            "the disk as a whole differs (seed {seed})"
        );
        let mut model = Model::new(&client.read_all());
        drive(&mut client, &mut model, plan(seed + 1));
        helper.assert_alive();
        helper.terminate();
    }
    outcome
}

#[test]
fn what_is_done_by_halves_is_done_to_the_end() {
    require!(first_time);
    let outcome = survives(1, &[Rule::short(&READS), Rule::short(&WRITES)]);
    assert!(outcome.spoilt > REQUESTS, "{outcome:?}");
    assert_eq!(outcome.failed, 0);
}

#[test]
fn what_is_interrupted_is_done_again() {
    require!(first_time);
    let outcome = survives(2, &[Rule::fail(&requests(), EINTR).when(When::Permille(500))]);
    assert!(outcome.spoilt > REQUESTS, "{outcome:?}");
    assert_eq!(outcome.failed, 0);
}

#[test]
fn errors_of_the_medium_fail_requests_and_nothing_else() {
    require!(first_time);
    let outcome = survives(3, &[Rule::fail(&requests(), EIO).when(When::Permille(100))]);
    assert!(outcome.spoilt > 50 && outcome.failed > 50, "{outcome:?}");
}

#[test]
fn a_full_file_system_fails_requests_and_nothing_else() {
    require!(first_time);
    let calls = [&WRITES[..], &[Call::Fallocate]].concat();
    let outcome = survives(4, &[Rule::fail(&calls, ENOSPC).when(When::Permille(200))]);
    assert!(outcome.spoilt > 50 && outcome.failed > 50, "{outcome:?}");
}

/// What is not in memory yet is said so, and comes later; but a file system may also say so for ever.
#[test]
fn storage_that_always_says_later_is_not_asked_for_ever() {
    require!(first_time);
    let outcome = survives(5, &[Rule::fail(&READS, EAGAIN)]);
    assert!(outcome.spoilt > REQUESTS && outcome.failed > 50, "{outcome:?}");
}

#[test]
fn a_write_that_is_always_to_come_later_is_an_error() {
    for clear in [false, true] {
        let place = Place::with_noise(DISK, 7);
        let faults = Faults::new(place.dir());
        let helper = place.helper();
        let helper = if clear { helper.option("--no-encrypt") } else { helper };
        let helper = helper.faulty(&faults).start();
        let mut client = Client::connect(helper.socket(), Setup::default());
        client.write(0, &[1; 8192]);
        faults.set(&[Rule::fail(&WRITES, EAGAIN).on(&helper.disk())]);
        let zeroes = Request::WriteZeroes {
            offset: 512,
            len: 512,
            unmap: false,
        };

        for offset in [0, 1 << 20] {
            assert_eq!(client.try_write(offset, &[2; 1024]), -EIO, "at {offset}");
        }
        assert_eq!(client.run(&zeroes), -EIO);

        faults.clear();
        client.write(0, &[3; 8192]);
        assert_eq!(client.read(0, 8192), [3; 8192]);
        helper.terminate();
    }
}

#[test]
fn the_disk_agrees_with_the_model_whatever_goes_wrong() {
    require!(first_time);
    let some = |rule: Rule| rule.when(When::Permille(60));

    let outcome = survives(6, &every_way().into_iter().map(some).collect::<Vec<_>>());

    assert!(outcome.spoilt > REQUESTS && outcome.failed > 20, "{outcome:?}");
}
