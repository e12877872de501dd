//! Another process of the helper's own user wants the overlay, or to be the frontend, and gets neither.
//!
//! The other process is `stranger`, a program of this crate.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

use tests::abuse::assert_serves;
use tests::client::{Client, Setup};
use tests::helper::beside_this_test;
use tests::place::Place;
use tests::process::copy_program;
use tests::require;

/// The user that a helper of root becomes.
const NOBODY: u32 = 65_534;
/// A user that has nothing to do with any of this.
const NEIGHBOUR: u32 = 4711;

/// Runs the stranger, as `uid` where this process is root.
fn stranger(place: &Place, uid: u32, arguments: &[&Path]) -> Output {
    // A copy, since the tree may lie where that user cannot go.
    let program = place.dir().join("stranger");
    copy_program(&beside_this_test("stranger"), &program);
    let mut command = Command::new(program);
    command.args(arguments).current_dir("/");
    if nix::unistd::geteuid().is_root() {
        command.uid(uid).gid(uid);
    }
    command.output().expect("a program of this crate runs")
}

#[test]
fn its_own_user_gets_nothing_out_of_it() {
    let place = Place::with_noise(1 << 20, 1);
    let loot = place.dir().join("loot");
    fs::create_dir(&loot).unwrap();
    fs::set_permissions(&loot, Permissions::from_mode(0o777)).unwrap();
    let helper = place.helper().start();
    Client::connect(helper.socket(), Setup::default()).write(0, &[7; 512]);

    let pid = helper.pid().to_string();
    let output = stranger(&place, NOBODY, &[Path::new("steal"), Path::new(&pid), &loot]);

    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fs::read_dir(&loot).unwrap().count(), 0);
    helper.terminate();
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
