//! One helper, and frontends that come and go.

use tests::client::{Client, Setup};
use tests::require;

use crate::measure::{Ground, Row, await_leaving, held};
use crate::{times, turn};

const DISK: usize = 1 << 20;
/// After so many everything has been used once.
const SETTLED: u64 = 50;
const EVERY: u64 = 50;

#[test]
fn frontends_that_come_and_go_leave_nothing_behind() {
    require!(root);
    let _turn = turn();
    let ground = Ground::new(DISK, "16m");
    let mut row = Row::begin(&ground);
    let mut helper = ground.place.helper().start();
    let idle = held(&helper);
    let count = times(200, 10_000);
    for round in 0..count {
        let setup = Setup {
            queues: 1 + usize::try_from(round % 4).expect("small"),
            ..Setup::default()
        };
        let mut client = Client::connect(helper.socket(), setup);
        let sector = [round.to_le_bytes()[0]; 512];
        client.write(round % 64 * 8192, &sector);
        assert_eq!(client.read(round % 64 * 8192, 512), sector, "round {round}");
        if round % EVERY == 0 {
            row.look();
        }
        drop(client);
        if round == SETTLED {
            await_leaving(&helper, idle);
            row.settled();
        }
    }
    await_leaving(&helper, idle);
    row.finished();
    helper.assert_alive();
    helper.terminate();
    row.end(&format!("{count} connections to one helper"));
}
