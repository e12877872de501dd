//! `mayfly-vmm --check-confinement`: no forbidden act is possible from any kind of thread, with this host's KVM and without. The
//! same for `mayfly-import`.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

const PROGRAM: &str = env!("CARGO_BIN_EXE_mayfly-vmm");
const IMPORT: &str = env!("CARGO_BIN_EXE_mayfly-import");

/// Runs the check to its end, which must be a good one.
fn check(mut command: Command) -> String {
    let output = command.arg("--check-confinement").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();

    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{complaints}");
    text
}

#[test]
fn no_forbidden_act_is_possible_from_any_thread() {
    let text = check(Command::new(PROGRAM));

    for whose in ["all threads", "the kind control", "the kind vcpu", "the kind net"] {
        assert!(text.contains(whose), "{text}");
    }
}

#[test]
fn no_forbidden_act_is_possible_for_an_ordinary_user_either() {
    if !nix::unistd::geteuid().is_root() {
        // Then the other tests have run as one.
        return;
    }
    let text = check_as_user(PROGRAM);
    assert!(text.starts_with("kvm: "), "{text}");
    check_as_user(IMPORT);
}

/// The check of a program, as an ordinary user.
fn check_as_user(program: &str) -> String {
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = place.path().join("program");
    fs::copy(program, &copy).unwrap();
    let mut command = Command::new(copy);
    command.uid(65_533).gid(65_533);
    check(command)
}

#[test]
fn no_forbidden_act_is_possible_from_an_import() {
    let text = check(Command::new(IMPORT));

    for evidence in [
        "RLIMIT_AS = 268435456",
        "image, read-only",
        "output",
        "PR_GET_SECCOMP = 2",
    ] {
        assert!(text.contains(evidence), "{evidence}: {text}");
    }
}
