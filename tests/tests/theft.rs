//! Another process of the helper's own user wants the overlay, or to be the frontend, and gets neither.
//!
//! The other process is `stranger`, a program of this crate. What it gets of supervisor and VMM is a test of the suite
//! `supervisor`.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tests::abuse::assert_serves;
use tests::client::{Client, Setup};
use tests::helper::beside_this_test;
use tests::place::Place;
use tests::process::copy_program;
use tests::require;
use tests::theft::{NEIGHBOUR, assert_gives_nothing, stranger};

/// The user that a helper of root becomes.
const NOBODY: u32 = 65_534;
/// A program that its user can run and not read, be he its owner as well. `make install` lets root, whose it is, read it.
const UNREADABLE: u32 = 0o111;

#[test]
fn its_own_user_gets_nothing_out_of_it() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();
    Client::connect(helper.socket(), Setup::default()).write(0, &[7; 512]);

    assert_gives_nothing(&place, helper.pid());

    helper.terminate();
}

const OURS: &str = "the place is ours";

/// A copy of the helper, which its user can read or not, and words for it: it serves the place's disk, read-only.
fn helper_of_mode(place: &Place, mode: u32) -> (PathBuf, Vec<PathBuf>) {
    let program = place.dir().join(format!("helper-{mode:o}"));
    copy_program(&beside_this_test("blk-helper"), &program);
    fs::set_permissions(&program, Permissions::from_mode(mode)).expect(OURS);
    let dir = place.dir().join(format!("for-{mode:o}"));
    fs::create_dir(&dir).expect(OURS);
    fs::set_permissions(&dir, Permissions::from_mode(0o777)).expect(OURS);
    let options = ["--read-only", "--report=json", "--blk-file"].map(PathBuf::from);
    let paths = [place.base(), "--socket-path".into(), dir.join("socket")];
    (program, options.into_iter().chain(paths).collect())
}

#[test]
fn who_lurks_while_it_starts_gets_a_hold_only_where_its_program_can_be_read() {
    let place = Place::with_noise(1 << 20, 1);
    // Starts ten of them, and says of how many the memory was got hold of.
    let lurk = |(program, words): &(PathBuf, Vec<PathBuf>)| -> u32 {
        let lurk = [Path::new("lurk"), Path::new("10"), program];
        let words: Vec<_> = lurk.into_iter().chain(words.iter().map(PathBuf::as_path)).collect();
        let output = stranger(&place, NEIGHBOUR, &words);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().parse().unwrap()
    };
    let (readable, hidden) = (helper_of_mode(&place, 0o755), helper_of_mode(&place, UNREADABLE));

    // A race, which is won most times; that it can be shows that it is one.
    assert!((0..20).any(|_| lurk(&readable) > 0));
    assert_eq!(lurk(&hidden), 0);
}

#[test]
fn programs_that_their_user_cannot_read_pass_their_own_check() {
    let place = Place::with_noise(1 << 20, 1);
    let dir = place.dir().join("installed");
    fs::create_dir(&dir).unwrap();
    for name in ["mayfly", "mayfly-vmm", "mayfly-import", "blk-helper"] {
        copy_program(&beside_this_test(name), &dir.join(name));
        fs::set_permissions(dir.join(name), Permissions::from_mode(UNREADABLE)).unwrap();
    }
    let mut check = Command::new(dir.join("mayfly"));
    check.arg("--check-confinement").current_dir("/");
    if nix::unistd::geteuid().is_root() {
        check.uid(NEIGHBOUR).gid(NEIGHBOUR);
    }

    let ended = check.output().unwrap();

    let (said, complaint) = (
        String::from_utf8_lossy(&ended.stdout),
        String::from_utf8_lossy(&ended.stderr),
    );
    assert!(ended.status.success(), "{said}{complaint}");
    // And are what they are installed for.
    assert!(said.contains("PR_GET_DUMPABLE was 0"), "{said}");
}

#[test]
fn one_that_is_hidden_from_its_start_does_not_start_under_a_tracer() {
    let place = Place::with_noise(1 << 20, 1);
    let (program, words) = helper_of_mode(&place, UNREADABLE);
    let mut traced = Command::new("strace");
    traced
        .args(["-o", "/dev/null"])
        .arg(program)
        .args(words)
        .current_dir("/");
    if nix::unistd::geteuid().is_root() {
        traced.uid(NEIGHBOUR).gid(NEIGHBOUR);
    }

    let ended = traced.output().expect("strace is installed");

    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(3), "{said}");
    assert!(said.contains("traces this one"), "{said}");
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
