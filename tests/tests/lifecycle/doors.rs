//! Where frontends come in: the socket, before, during and after its helper.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::time::Duration;

use protocol::launch::ExitCode;
use tests::abuse::assert_serves;
use tests::client::{Client, Setup};
use tests::helper::Helper;
use tests::model::SECTOR;
use tests::place::Place;
use tests::raw::patient;

#[test]
fn ready_means_that_the_socket_takes_connections() {
    let place = Place::with_noise(1 << 20, 1);

    let helper = place.helper().start();

    Client::try_connect(helper.socket(), Setup::default()).expect("the first attempt succeeds");
    assert_eq!(helper.report()["disk"]["bytes"], 1 << 20);
    helper.terminate();
}

#[test]
fn the_socket_is_for_its_owner_only() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();

    let mode = fs::metadata(helper.socket()).unwrap().permissions().mode();

    assert_eq!(mode & 0o777, 0o600);
    helper.terminate();
}

#[test]
fn a_hundred_connections_see_one_disk() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();

    for round in 0..100_u8 {
        let mut client = Client::connect(
            helper.socket(),
            Setup {
                queues: 4,
                ..Setup::default()
            },
        );
        let offset = u64::from(round) * 1024;
        client.write(offset, &[round; SECTOR]);
        if round > 0 {
            assert_eq!(client.read(offset - 1024, SECTOR), [round - 1; SECTOR]);
        }
    }

    helper.terminate();
}

#[test]
fn a_listener_of_somebody_else_is_served() {
    let place = Place::with_noise(1 << 20, 1);
    let listener = UnixListener::bind(place.socket()).unwrap();

    let helper = place.helper().activated(listener).start();

    drop(patient(helper.socket()));
    assert_serves(helper, &place);
}

#[test]
fn a_dead_socket_is_replaced() {
    let place = Place::with_noise(1 << 20, 1);
    place.helper().start().kill();
    assert!(place.socket().exists());

    let helper = place.helper().start();

    assert_serves(helper, &place);
}

#[test]
fn a_live_socket_is_not_taken_away() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();

    place.helper().start_refused().assert_code(ExitCode::CannotStart);

    assert_serves(helper, &place);
}

#[test]
fn a_file_at_the_sockets_path_is_left_alone() {
    let place = Place::with_noise(1 << 20, 1);
    fs::write(place.socket(), "precious").unwrap();

    place.helper().start_refused().assert_code(ExitCode::CannotStart);

    assert_eq!(fs::read(place.socket()).unwrap(), b"precious");
}

#[test]
fn many_helpers_share_a_base() {
    let place = Place::with_noise(1 << 20, 1);
    let places: Vec<_> = (0..5).map(|_| Place::with_base(b"unused")).collect();
    let helpers: Vec<Helper> = places
        .iter()
        .map(|other| other.helper().base(place.base()).start())
        .collect();

    for (helper, byte) in helpers.iter().zip(0..) {
        Client::connect(helper.socket(), Setup::default()).write(0, &[byte; SECTOR]);
    }

    for (helper, byte) in helpers.iter().zip(0..) {
        assert_eq!(
            Client::connect(helper.socket(), Setup::default()).read(0, SECTOR),
            [byte; SECTOR]
        );
    }
}

#[test]
fn a_service_manager_is_told_when_it_is_ready() {
    let place = Place::with_noise(1 << 20, 1);
    let path = place.dir().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(5))).unwrap();

    let helper = place.helper().variable("NOTIFY_SOCKET", &path).start();
    let mut message = [0; 256];
    let len = manager.recv(&mut message).expect("READY is told");

    assert!(
        String::from_utf8_lossy(&message[..len])
            .lines()
            .any(|line| line == "READY=1")
    );
    assert_serves(helper, &place);
}

#[test]
fn descriptors_that_are_meant_for_another_process_are_not_served() {
    let place = Place::with_noise(1 << 20, 1);

    let helper = place
        .helper()
        .variable("LISTEN_PID", "1")
        .variable("LISTEN_FDS", "1")
        .start();

    assert_serves(helper, &place);
}
