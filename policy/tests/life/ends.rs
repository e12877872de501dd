//! How a confined process ends.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader, Read};
use std::process::Child;

use crate::Test;
use crate::child::TERMINATED;
use crate::run::{everybody, finish, start};

/// The tests.
pub(crate) const TESTS: &[Test] = &[
    (
        "a_signal_ends_with_its_code_and_message",
        a_signal_ends_with_its_code_and_message,
    ),
    (
        "a_signal_that_the_launcher_blocked_ends_all_the_same",
        a_signal_that_the_launcher_blocked_ends_all_the_same,
    ),
    (
        "the_death_of_the_parent_ends_the_process",
        the_death_of_the_parent_ends_the_process,
    ),
];

/// Waits until the child has printed its report.
fn wait_until_confined(child: &mut Child) {
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert!(line.contains("seccomp"), "{line}");
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().try_into().unwrap())
}

fn a_signal_ends_with_its_code_and_message() {
    for who in everybody() {
        assert_terminates(start(who, &["signals"]));
    }
}

fn a_signal_that_the_launcher_blocked_ends_all_the_same() {
    for who in everybody() {
        assert_terminates(start(who, &["blocked-signals"]));
    }
}

fn assert_terminates(mut child: Child) {
    wait_until_confined(&mut child);

    kill(pid(&child), Signal::SIGTERM).unwrap();
    let end = finish(child);

    assert_eq!(end.code(), Some(i32::from(TERMINATED)), "{end:?}");
    assert_eq!(end.stderr, "terminated\n");
}

fn the_death_of_the_parent_ends_the_process() {
    for who in everybody() {
        let mut nurse = start(who, &["nurse"]);
        wait_until_confined(&mut nurse);

        nurse.kill().unwrap();
        let mut said = String::new();
        // Ends when the last holder of the pipe, the bound process, is gone.
        nurse.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        nurse.wait().unwrap();

        assert_eq!(said, "the parent is gone\n");
    }
}
