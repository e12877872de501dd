//! `make demo` keeps working: the same program, with a guest that writes less.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use tests::helper::beside_this_test;

/// Enough to stand out from what other programs write meanwhile, which only `df` can tell an ordinary user.
const WRITE_MIB: &str = "384";

/// Runs the demo in a directory of its own, on a disk (`/tmp` need not be one); it must leave nothing there.
fn demo(name: &str, prepare: impl FnOnce(&mut Command)) -> Output {
    let dir = PathBuf::from(format!("/var/tmp/mayfly-test-{name}-{}", std::process::id()));
    fs::create_dir(&dir).expect("everybody may write to /var/tmp");
    let mut command = Command::new(beside_this_test("demo"));
    command.env("TMPDIR", &dir).stdin(Stdio::null());
    prepare(&mut command);

    let output = command
        .output()
        .expect("the demo is built (cargo build -p tests --bin demo)");

    let left = fs::read_dir(&dir).expect("the directory is ours").count();
    fs::remove_dir_all(&dir).expect("the directory is ours");
    assert_eq!(left, 0, "the demo left something in its directory");
    output
}

fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn every_promise_is_kept() {
    let output = demo("walk", |command| {
        command.args(["--write-mib", WRITE_MIB]);
    });

    let (told, complained) = (shown(&output.stdout), shown(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{told}\n{complained}");
    assert_eq!(told.matches("\n  kept  ").count(), 12, "{told}");
}

#[test]
fn a_run_that_does_not_start_is_a_failure_with_its_reason() {
    let output = demo("failure", |command| {
        command.env("MAYFLY_BLK_HELPER", "/bin/false");
    });

    assert_eq!(output.status.code(), Some(1));
    let complained = shown(&output.stderr);
    assert!(complained.contains("mayfly did not start a guest"), "{complained}");
    assert!(
        complained.contains("disk vda (debian.raw) did not start"),
        "{complained}"
    );
}

#[test]
fn unknown_arguments_are_refused() {
    let output = demo("usage", |command| {
        command.arg("--frobnicate");
    });

    assert_eq!(output.status.code(), Some(2));
    assert!(shown(&output.stderr).contains("usage:"), "{output:?}");
}
