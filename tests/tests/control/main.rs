//! The control channel of a helper that listens (`--control-path`): what each order does, who may give one, and what it costs
//! when nobody behaves.

mod abuse;
mod events;
mod hold;
mod limits;
mod stats;
mod underfoot;

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::time::{Duration, Instant};

use protocol::control::{Answer, Command, Status};
use protocol::launch::ExitCode;
use tests::helper::Helper;
use tests::operator::Operator;
use tests::place::Place;
use tests::raw::{IN, OK, OUT, RawDisk};
use tests::require;

/// A helper with a socket for frontends and one for orders.
fn controlled(place: &Place) -> (Helper, Operator) {
    let helper = place.helper().controlled().start();
    (helper, Operator::connect(&place.control()))
}

fn write(disk: &mut RawDisk, sector: u64, byte: u8) -> u8 {
    disk.request(OUT, sector, &[byte; 512], 0).0
}

fn read(disk: &mut RawDisk, sector: u64) -> Vec<u8> {
    let (status, _, bytes) = disk.request(IN, sector, &[], 512);
    assert_eq!(status, OK, "read of sector {sector}");
    bytes
}

/// Waits until the helper says so.
fn await_status(operator: &Operator, what: &str, so: impl Fn(&Status) -> bool) -> Status {
    let begun = Instant::now();
    loop {
        let status = operator.status();
        if so(&status) {
            return status;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{what}: {status:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn clients_come_and_go_and_the_disk_stays() {
    let place = Place::with_noise(1 << 20, 1);
    let (helper, operator) = controlled(&place);
    let mut disk = RawDisk::start(helper.socket(), 1, 64);
    assert_eq!(write(&mut disk, 8, 7), OK);
    assert!(operator.status().connected);
    drop(operator);

    for round in 0..50 {
        let operator = Operator::connect(&place.control());
        assert_eq!(operator.status().overlay.expect("it can be written").dirty_clusters, 1);
        assert_eq!(read(&mut disk, 8), [7; 512], "round {round}");
    }

    helper.terminate();
}

#[test]
fn a_helper_that_only_takes_orders_serves_whom_a_client_attaches() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().closed().controlled().start();
    for round in 0..3 {
        let operator = Operator::connect(&place.control());
        await_status(&operator, "somebody is there", |status| !status.connected);
        let wire = operator.attach().unwrap();
        let mut disk = RawDisk::start_with(wire, tests::memory::GuestMemory::sealed(tests::raw::MEMORY), 1, 64);
        drop(operator);
        for earlier in 0..round {
            assert_eq!(read(&mut disk, earlier * 8), [7; 512]);
        }
        assert_eq!(write(&mut disk, round * 8, 7), OK);
    }
    helper.terminate();
}

#[test]
fn the_operator_and_clients_give_orders_side_by_side() {
    let place = Place::with_noise(1 << 20, 1);
    let (operator, theirs) = Operator::pair();
    let helper = place.helper().closed().operated(theirs).controlled().start();
    let client = Operator::connect(&place.control());

    let _wire = client.attach().unwrap();

    assert!(operator.status().connected);
    assert!(operator.attach().unwrap_err().contains("busy"));
    drop(client);
    assert!(operator.status().connected);
    drop(operator);
    helper.wait_within(Duration::from_secs(5)).assert_code(ExitCode::Burnt);
}

#[test]
fn status_tells_the_base_by_device_and_inode() {
    use std::os::unix::fs::MetadataExt;
    let place = Place::with_base(&[1; (1 << 20) + 700]);
    let (helper, operator) = controlled(&place);

    let status = operator.status();

    let info = fs::metadata(place.base()).unwrap();
    assert_eq!((status.base.device, status.base.inode), (info.dev(), info.ino()));
    assert_eq!(
        (status.base.bytes, status.disk_bytes),
        ((1 << 20) + 700, (1 << 20) + 1024)
    );
    helper.terminate();
}

#[test]
fn status_tells_what_the_overlay_takes_and_what_confines_the_helper() {
    let place = Place::with_noise(64 << 20, 1);
    let (helper, operator) = controlled(&place);
    let mut disk = RawDisk::start(helper.socket(), 1, 64);
    let before = operator.status().overlay.expect("it can be written");
    assert_eq!(
        (before.dirty_clusters, before.zero_clusters, before.map_bytes),
        (0, 0, 0)
    );

    for cluster in [0, 1, 1024, 2048] {
        assert_eq!(write(&mut disk, cluster * 8, 7), OK);
    }
    let zero = tests::raw::zero_segment(8, 8, 1);
    assert_eq!(disk.request(tests::raw::WRITE_ZEROES, 0, &zero, 0).0, OK);

    let status = operator.status();
    let overlay = status.overlay.expect("it can be written");
    assert_eq!((overlay.dirty_clusters, overlay.zero_clusters), (3, 1));
    assert_eq!((overlay.used_bytes, overlay.map_bytes), (3 * 4096, 3 * 4096));
    assert_eq!((overlay.limit_bytes, overlay.map_limit_bytes), (64 << 20, 64 << 10));
    assert!(overlay.disk_usage_bytes >= 3 * 4096, "{overlay:?}");
    assert!(overlay.encrypted);
    let in_force = &status.confinement.in_force;
    for layer in ["seccomp", "landlock", "no-new-privs", "no capabilities", "descriptors"] {
        assert!(in_force.iter().any(|name| name == layer), "{layer}: {in_force:?}");
    }
    helper.terminate();
}

#[test]
fn stop_is_answered_and_burns_the_disk_at_once() {
    let place = Place::with_noise(1 << 20, 1);
    let (helper, operator) = controlled(&place);
    let mut disk = RawDisk::start(helper.socket(), 1, 64);
    assert_eq!(write(&mut disk, 0, 1), OK);

    assert_eq!(operator.ask(Command::Stop, &[]), Ok(Answer::Stopping));

    helper.wait_within(Duration::from_secs(1)).assert_code(ExitCode::Burnt);
}

#[test]
fn the_socket_is_for_its_owner_and_only_a_dead_one_is_replaced() {
    let place = Place::with_noise(1 << 20, 1);
    let (helper, operator) = controlled(&place);
    let info = fs::metadata(place.control()).unwrap();
    assert!(info.file_type().is_socket());
    assert_eq!(info.permissions().mode() & 0o777, 0o600);

    let second = place.helper().closed().controlled().start_refused();
    second.assert_code(ExitCode::CannotStart);
    assert!(
        second.stderr.contains("another process serves there"),
        "{}",
        second.stderr
    );
    assert!(!operator.status().connected);

    helper.kill();
    let (helper, operator) = controlled(&place);
    assert!(!operator.status().connected);
    helper.terminate();
}

#[test]
fn exactly_the_reported_descriptors_are_open_when_clients_have_left() {
    require!(root);
    let place = Place::with_noise(1 << 20, 1);
    let (helper, operator) = controlled(&place);
    let reported = helper.report()["confinement"]["descriptors"]
        .as_array()
        .expect("the report lists descriptors")
        .len();
    let open = || fs::read_dir(helper.proc("fd")).expect("root may look").count();
    let control = helper.report()["confinement"]["descriptors"].to_string();
    assert!(control.contains("listening socket of the control channel"), "{control}");

    let more: Vec<_> = (0..5).map(|_| Operator::connect(&place.control())).collect();
    for client in &more {
        let _ = client.status();
    }
    assert_eq!(open(), reported + 6);
    drop(more);
    drop(operator);

    let begun = Instant::now();
    while open() != reported {
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "clients' descriptors stay open"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    helper.terminate();
}
