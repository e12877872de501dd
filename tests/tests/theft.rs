//! Another process of the helper's own user wants the overlay, or to be the frontend, and gets neither.
//!
//! The other process is `stranger`, a program of this crate. What it gets of supervisor and VMM is a test of the suite `supervisor`.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tests::abuse::assert_serves;
use tests::client::{Client, Setup};
use tests::helper::beside_this_test;
use tests::place::Place;
use tests::process::copy_program;
use tests::require;
use tests::theft::{assert_gives_nothing, stranger};

/// The user that a helper of root becomes.
const NOBODY: u32 = 65_534;
/// A program that its user can run and not read, be he its owner as well. `make install` lets root, whose it is, read it.
const UNREADABLE: u32 = 0o111;
/// A user that has nothing to do with any of this.
const NEIGHBOUR: u32 = 4711;

#[test]
fn its_own_user_gets_nothing_out_of_it() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();
    Client::connect(helper.socket(), Setup::default()).write(0, &[7; 512]);

    assert_gives_nothing(&place, helper.pid(), NOBODY);

    helper.terminate();
}

/// How often each of two helpers is attacked while it starts. Most of these attacks hold where they can.
const STARTS: &str = "10";

#[test]
fn who_lurks_while_it_starts_gets_a_hold_only_where_its_program_can_be_read() {
    let place = Place::with_noise(1 << 20, 1);
    let open_to_all = place.dir().join("place");
    fs::create_dir(&open_to_all).unwrap();
    fs::set_permissions(&open_to_all, Permissions::from_mode(0o777)).unwrap();

    let mut holds = Vec::new();
    for mode in [0o755, UNREADABLE] {
        let program = place.dir().join(format!("helper-{mode:o}"));
        copy_program(&beside_this_test("blk-helper"), &program);
        fs::set_permissions(&program, Permissions::from_mode(mode)).unwrap();
        let (base, socket) = (place.base(), open_to_all.join("socket"));
        let lurk = [Path::new("lurk"), Path::new(STARTS), &program];
        let options = ["--read-only", "--report=json", "--blk-file"].map(Path::new);
        let paths = [&base, Path::new("--socket-path"), &socket];
        let output = stranger(&place, NEIGHBOUR, &[&lurk[..], &options, &paths].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let held: u32 = String::from_utf8_lossy(&output.stdout).trim().parse().unwrap();
        holds.push(held);
    }

    // The first shows that the attack is one.
    let [readable, hidden] = holds[..] else {
        unreachable!("there are two")
    };
    assert!(readable > 0, "{holds:?}");
    assert_eq!(hidden, 0, "{holds:?}");
}

#[test]
fn another_user_is_turned_away_even_where_the_sockets_mode_lets_it_in() {
    require!(root);
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();
    fs::set_permissions(helper.socket(), Permissions::from_mode(0o666)).unwrap();

    let output = stranger(&place, NEIGHBOUR, &[Path::new("ask"), helper.socket()]);

    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(complaint.contains("no answer"), "{complaint}");
    assert_serves(helper, &place);
}

#[test]
fn another_user_gives_no_orders_even_where_the_sockets_mode_lets_it_in() {
    require!(root);
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().controlled().start();
    fs::set_permissions(place.control(), Permissions::from_mode(0o666)).unwrap();

    for (user, served) in [(NEIGHBOUR, false), (NOBODY, true)] {
        let output = stranger(&place, user, &[Path::new("operate"), &place.control()]);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), served, "user {user}: {complaint}");
        assert!(served || complaint.contains("no answer"), "{complaint}");
    }
    assert_serves(helper, &place);
}

#[test]
fn the_helpers_own_user_is_served() {
    require!(root);
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();
    fs::set_permissions(helper.socket(), Permissions::from_mode(0o666)).unwrap();

    let output = stranger(&place, NOBODY, &[Path::new("ask"), helper.socket()]);

    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_serves(helper, &place);
}
