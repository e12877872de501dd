//! Launchers, places and VMMs that are not what one expects: nothing hangs, and what is said is true.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tests::helper::beside_this_test;
use tests::place::Place;
use tests::require;
use tests::supervised::{END, Supervised, assert_gone};

use crate::support::{DISK, payload, turn, word};

/// A VMM that is a shell script, with a kernel for it that nobody looks at.
fn scripted(place: &Place, script: &str) -> Supervised {
    let (vmm, kernel) = (place.dir().join("vmm"), place.dir().join("kernel"));
    fs::write(&kernel, "none").expect("the place can be written");
    fs::write(&vmm, format!("#!/bin/sh\n{script}\n")).expect("the place can be written");
    fs::set_permissions(&vmm, fs::Permissions::from_mode(0o755)).expect("the file is ours");
    let words = [word("kernel", &kernel), word("disk", &place.base())];
    Supervised::new(["run", "--accel=kvm", "--memory=32M"])
        .and(words)
        .and([word("overlay-dir", &place.overlay_dir())])
        .variable("MAYFLY_VMM", vmm)
}

#[test]
fn a_vmm_that_ends_as_soon_as_it_is_ready_did_start() {
    require!(kvm);
    let _turn = turn();
    let place = Place::with_noise(4096, 40);
    for (exit, code, said) in [
        (0, 0, "the guest powered itself off"),
        (13, 13, "a triple fault"),
        (16, 14, "rebooted 10 times in a row"),
    ] {
        let ended = scripted(&place, &format!("echo '{{}}'; exit {exit}")).output();

        assert_eq!(ended.code, Some(code), "{ended:?}");
        assert!(ended.stderr.contains(said), "{ended:?}");
    }
}

#[test]
fn a_launcher_that_wants_to_hear_of_no_child_is_not_imitated() {
    require!(kvm);
    let _turn = turn();
    let place = Place::with_noise(4096, 41);
    let kernel = place.dir().join("kernel");
    fs::write(&kernel, "no kernel").unwrap();
    let mut run = Command::new("env")
        .args(["--ignore-signal=CHLD", "timeout", "--signal=KILL", "10"])
        .arg(beside_this_test("mayfly"))
        .args(["run", "--accel=kvm", "--memory=32M", &word("kernel", &kernel)])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();

    assert_eq!(run.wait().unwrap().code(), Some(1));
}

#[test]
fn a_console_that_cannot_be_written_says_why() {
    require!(kvm);
    let _turn = turn();
    let place = Place::with_noise(4096, 42);
    let kernel = scripted_kernel(&place);
    let full = fs::File::options().write(true).open("/dev/full").unwrap();

    let ended = Command::new(beside_this_test("mayfly"))
        .args(["run", "--accel=kvm", "--memory=32M", &word("kernel", &kernel)])
        .stdin(Stdio::null())
        .stdout(full)
        .output()
        .unwrap();

    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(128 + 13), "{said}");
    assert!(said.contains("No space left on device"), "{said}");
}

/// A program that prints, as a kernel.
fn scripted_kernel(place: &Place) -> PathBuf {
    let kernel = place.dir().join("payload");
    let program = tests::payload::Payload::new(tests::payload::Mode::Protected).print("hello\n");
    fs::write(&kernel, program.halt().to_elf()).expect("the place can be written");
    kernel
}

#[test]
fn a_report_that_nobody_reads_can_be_given_up() {
    require!(kvm);
    let _turn = turn();
    let place = Place::with_noise(4096, 43);
    let fifo = place.dir().join("report");
    mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    let mut run = payload(&place, |program| program.halt())
        .and([word("report", &fifo)])
        .on_pipes();
    std::thread::sleep(Duration::from_millis(500));

    run.signal(Signal::SIGTERM);

    assert_eq!(run.wait_within(END).signal, Some(15));
}

#[test]
fn a_vmm_that_is_stopped_does_not_outlive_its_supervisor() {
    require!(kvm);
    let _turn = turn();
    let place = Place::with_noise(DISK, 44);
    let run = payload(&place, |program| program.halt()).on_pipes();
    run.wait_for("hello", END);
    let processes = run.processes(2);
    kill(run.process("mayfly-vmm"), Signal::SIGSTOP).unwrap();

    run.signal(Signal::SIGKILL);

    assert_gone(&processes);
}
