//! What a guest writes is what it reads, whatever the traffic, the queues and the length of the base.

mod agreement;
mod bases;
mod disk;
mod neighbours;

use tests::client::{Client, Setup};
use tests::drive::{Notice, Plan, Tally, drive};
use tests::helper::Helper;
use tests::model::{Model, SECTOR};

const EIO: i32 = -5;

/// Ends in the middle of a cluster, so that the last one is short.
const DISK: usize = (24 << 20) + 3 * SECTOR;

/// Requests of each model test: `MAYFLY_MODEL_REQUESTS`, or enough for a quick look.
fn requests() -> u64 {
    std::env::var("MAYFLY_MODEL_REQUESTS")
        .map_or(50_000, |text| text.parse().expect("MAYFLY_MODEL_REQUESTS is a number"))
}

fn plan(seed: u64, notice: Notice) -> Plan {
    Plan {
        seed,
        requests: requests(),
        in_flight: 96,
        notice,
        most_zeroed: 1 << 20,
    }
}

/// Traffic over a fresh disk, then the whole disk against the model.
fn agrees_with_the_model(helper: &Helper, base: &[u8], setup: Setup, plan: Plan) -> Tally {
    let mut client = Client::connect(helper.socket(), setup);
    let mut model = Model::new(base);

    let tally = drive(&mut client, &mut model, plan);

    assert_eq!(tally.completed, plan.requests);
    assert!(
        client.read_all() == model.read(0, model.len()),
        "the disk as a whole differs (seed {})",
        plan.seed
    );
    tally
}
