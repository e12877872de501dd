//! Rings that have been used before: never on a fresh overlay.

use protocol::launch::ExitCode;
use tests::helper::END;
use tests::model::SECTOR;
use tests::place::Place;
use tests::raw::{OK, OUT, RawDisk};
use tests::wire::words;

#[test]
fn a_ring_with_history_is_refused_by_a_fresh_overlay() {
    for (base, used) in [(5, 5), (5, 0), (0, 5), (0xffff, 0xffff)] {
        let place = Place::with_noise(1 << 20, 1);
        let helper = place.helper().start();
        let disk = RawDisk::prepare(helper.socket(), 1, 64);
        disk.memory.store_index(disk.rings[0].used_ring() + 2, used);

        let refused = disk.try_start_ring(0, base);

        let ended = helper.wait_within(END);
        ended.assert_code(ExitCode::HistoryRefused);
        assert!(refused.is_some(), "base {base}, used {used}");
        assert!(ended.stderr.contains("roll back"), "{}", ended.stderr);
    }
}

/// Indices count modulo 65,536: a guest whose requests are a multiple of that looked as if it had just begun.
#[test]
fn a_ring_that_has_gone_round_has_a_history() {
    const SIZE: u16 = 64;
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();
    let disk = RawDisk::prepare(helper.socket(), 1, SIZE);
    // The answer to a flush in descriptor 0: what 65,536 of them leave behind is this, and an index of 0.
    let last = disk.rings[0].used_ring() + 4 + 8 * u64::from(SIZE - 1);
    disk.memory.write(last, &words(&[0, 1]));

    let refused = disk.try_start_ring(0, 0);

    let ended = helper.wait_within(END);
    ended.assert_code(ExitCode::HistoryRefused);
    assert!(refused.is_some());
    assert!(ended.stderr.contains("roll back"), "{}", ended.stderr);
}

#[test]
fn a_ring_with_history_is_welcome_on_a_read_only_disk() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().read_only().start();
    let mut disk = RawDisk::start(helper.socket(), 1, 64);
    disk.assert_serves();
    helper.kill();
    let helper = place.helper().read_only().start();

    let mut disk = disk.reconnect(helper.socket());
    disk.start_ring(0, 1);

    disk.assert_serves();
    helper.terminate();
}

#[test]
fn a_restarted_helper_never_rolls_back_a_living_guest() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();
    let mut disk = RawDisk::start(helper.socket(), 1, 64);
    let (status, ..) = disk.request(OUT, 0, &[7; SECTOR], 0);
    assert_eq!(status, OK);
    helper.kill();
    let helper = place.helper().start();

    let refused = disk.reconnect(helper.socket()).try_start_ring(0, 1);

    assert!(refused.is_some());
    helper.wait_within(END).assert_code(ExitCode::HistoryRefused);
}
