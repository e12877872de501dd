//! The model test, on storage that fails at random in every way that it can.

use std::time::Instant;

use tests::client::Client;
use tests::doubt::Doubt;
use tests::drive::{Notice, Plan, drive_in_doubt};
use tests::faults::disk::every_way;
use tests::faults::{Faults, Rule, When};
use tests::model::Model;
use tests::require;
use tests::rng::Rng;

use crate::measure::{Ground, Row, await_leaving, held};
use crate::{duration, tell, turn};

const DISK: usize = (8 << 20) + 3 * 512;
/// After so many rounds everything has been used once.
const SETTLED: u64 = 3;
/// The disk as a whole is compared every so many rounds.
const EVERY: u64 = 10;

/// Each kind of fault, hardly ever or often.
fn rules(rng: &mut Rng, disk: &[i32]) -> Vec<Rule> {
    let sometimes = |rule: Rule| {
        let share = [0, 1, 10, 50, 200][rng.index(5)];
        rule.on(disk).when(When::Permille(share))
    };
    every_way().into_iter().map(sometimes).collect()
}

#[test]
fn a_disk_on_failing_storage_agrees_with_the_model() {
    require!(root);
    let _turn = turn();
    let ground = Ground::new(DISK, "64m");
    let faults = Faults::new(ground.place.dir());
    let mut row = Row::begin(&ground);
    let mut helper = ground.place.helper().value("--threads", "2").faulty(&faults).start();
    let idle = held(&helper);
    let disk = helper.disk();
    let (mut model, mut doubt) = (Model::new(ground.place.content()), Doubt::new(DISK));
    let (mut requests, mut failed, mut spoilt, mut rounds) = (0, 0, 0, 0);
    let begun = Instant::now();
    while begun.elapsed() < duration() || rounds <= SETTLED {
        let plan = Plan {
            seed: rounds,
            requests: 1000,
            in_flight: 64,
            notice: Notice::Eventfd,
            most_zeroed: 1 << 20,
        };
        let mut client = Client::connect(helper.socket(), plan.setup(4, rounds % 2 == 0));
        faults.set_seeded(rounds, &rules(&mut Rng::new(rounds), &disk));
        let tally = drive_in_doubt(&mut client, &mut model, &mut doubt, plan);
        spoilt += faults.spoilt().iter().sum::<u64>();
        faults.clear();
        requests += tally.completed;
        failed += tally.failed;
        if rounds % EVERY == 0 {
            let mut all = client.read_all();
            doubt.benefit(0, &mut all, model.read(0, model.len()));
            assert!(
                all == model.read(0, model.len()),
                "round {rounds}: the disk as a whole differs"
            );
            row.look();
        }
        drop(client);
        await_leaving(&helper, idle);
        helper.assert_alive();
        rounds += 1;
        if rounds == SETTLED {
            row.settled();
        }
    }
    row.finished();
    helper.terminate();
    row.end(&format!("{requests} requests under faults"));
    tell(&format!(
        "  {spoilt} system calls spoilt, {failed} requests failed, none with wrong data"
    ));
    assert!(spoilt > 100 && failed > 10, "hardly any fault");
}
