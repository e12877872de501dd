//! The model test, on storage that fails at random in every way that it can.

use std::time::Instant;

use tests::client::Client;
use tests::doubt::Doubt;
use tests::drive::{Notice, Plan, drive_in_doubt};
use tests::faults::disk::every_way;
use tests::faults::{Faults, Rule, When};
use tests::helper::Helper;
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

/// A disk under faults, and what it has been through.
struct Trial {
    faults: Faults,
    helper: Helper,
    disk: Vec<i32>,
    model: Model,
    doubt: Doubt,
    requests: u64,
    failed: u64,
    spoilt: u64,
}

impl Trial {
    fn begin(ground: &Ground) -> Self {
        let faults = Faults::new(ground.place.dir());
        let helper = ground.place.helper().value("--threads", "2").faulty(&faults).start();
        Self {
            disk: helper.disk(),
            model: Model::new(ground.place.content()),
            doubt: Doubt::new(DISK),
            requests: 0,
            failed: 0,
            spoilt: 0,
            faults,
            helper,
        }
    }

    /// Traffic under the faults of this round; afterwards there are none, and the guest is still there.
    fn round(&mut self, number: u64) -> Client {
        let plan = Plan {
            seed: number,
            requests: 1000,
            in_flight: 64,
            notice: Notice::Eventfd,
            most_zeroed: 1 << 20,
        };
        let mut client = Client::connect(self.helper.socket(), plan.setup(4, number.is_multiple_of(2)));
        self.faults
            .set_seeded(number, &rules(&mut Rng::new(number), &self.disk));
        let tally = drive_in_doubt(&mut client, &mut self.model, &mut self.doubt, plan);
        self.spoilt += self.faults.spoilt().iter().sum::<u64>();
        self.faults.clear();
        self.requests += tally.completed;
        self.failed += tally.failed;
        client
    }

    fn compare(&mut self, client: &mut Client) {
        let mut all = client.read_all();
        let model = &self.model;
        self.doubt.benefit(0, &mut all, model.read(0, model.len()));
        assert!(all == model.read(0, model.len()), "the disk as a whole differs");
    }
}

#[test]
fn a_disk_on_failing_storage_agrees_with_the_model() {
    require!(root);
    let _turn = turn();
    let ground = Ground::new(DISK, "64m");
    let mut row = Row::begin(&ground);
    let mut trial = Trial::begin(&ground);
    let idle = held(&trial.helper);
    let mut rounds = 0;
    let begun = Instant::now();
    while begun.elapsed() < duration() || rounds <= SETTLED {
        let mut client = trial.round(rounds);
        if rounds % EVERY == 0 {
            trial.compare(&mut client);
            row.look();
        }
        drop(client);
        await_leaving(&trial.helper, idle);
        trial.helper.assert_alive();
        rounds += 1;
        if rounds == SETTLED {
            row.settled();
        }
    }
    let Trial { spoilt, failed, .. } = trial;
    row.finished();
    trial.helper.terminate();
    row.end(&format!("{} requests under faults", trial.requests));
    tell(&format!(
        "  {spoilt} system calls spoilt, {failed} requests failed, none with wrong data"
    ));
    assert!(spoilt > 100 && failed > 10, "hardly any fault");
}
