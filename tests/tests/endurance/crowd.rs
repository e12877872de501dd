//! Many helpers at once on one base.

use tests::client::{Client, Setup};
use tests::helper::Helper;
use tests::place::Place;
use tests::require;

use crate::measure::{Ground, Row};
use crate::{times, turn};

const DISK: usize = 1 << 20;

#[test]
fn a_crowd_on_one_base_starts_serves_and_stops() {
    require!(root);
    let _turn = turn();
    let ground = Ground::new(DISK, "256m");
    let count = times(20, 200);
    let places: Vec<_> = (0..count).map(|_| Place::with_base(b"unused")).collect();
    let mut row = Row::begin(&ground);
    let start = |place: &Place| {
        let helper = place.helper().base(ground.place.base());
        helper.overlay_dir(ground.place.overlay_dir()).start()
    };
    let helpers: Vec<Helper> = places.iter().map(start).collect();
    let connect = |helper: &Helper| Client::connect(helper.socket(), Setup::default());
    let mut clients: Vec<_> = helpers.iter().map(connect).collect();
    for (client, number) in clients.iter_mut().zip(0_u64..) {
        client.write(4096, &number.to_le_bytes().repeat(1024));
    }
    row.look();
    for (client, number) in clients.iter_mut().zip(0_u64..) {
        assert_eq!(
            client.read(4096, 8192),
            number.to_le_bytes().repeat(1024),
            "helper {number}"
        );
        assert!(
            client.read(0, 4096) == ground.place.content()[..4096],
            "helper {number}"
        );
    }
    drop(clients);
    for helper in helpers {
        helper.terminate();
    }
    row.end(&format!("{count} helpers at once on one base"));
}
