//! Launchers, places and VMMs that are not what one expects: nothing hangs, and what is said is true.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use tests::helper::beside_this_test;
use tests::payload::Payload;
use tests::place::Place;
use tests::require;
use tests::supervised::{END, Running, Supervised, assert_gone};

use crate::support::{BOOT, DISK, PROMPT, payload, shell, turn, word};

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

#[test]
fn a_console_that_cannot_be_written_is_told_of_once_and_costs_no_disk() {
    require!(kvm);
    let _turn = turn();
    let place = Place::with_noise(DISK, 45);
    let kernel = scripted_kernel(&place);
    let out = place.dir().join("out.raw");
    let full = fs::File::options().write(true).open("/dev/full").unwrap();

    let ended = Command::new(beside_this_test("mayfly"))
        .args(["run", "--accel=kvm", "--memory=32M", &word("kernel", &kernel)])
        .args([word("disk", &place.base()), word("overlay-dir", &place.overlay_dir())])
        .arg(format!("--on-exit=save={}", out.display()))
        .stdin(Stdio::null())
        .stdout(full)
        .output()
        .unwrap();

    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(128 + 13), "{said}");
    assert_eq!(said.matches("cannot write what the guest prints").count(), 1, "{said}");
    assert!(said.contains("out.raw (16"), "{said}");
    assert!(fs::read(out).unwrap() == place.content(), "it is another disk");
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
fn processes_that_are_stopped_do_not_outlive_their_supervisor() {
    require!(kvm);
    let _turn = turn();
    let place = Place::with_noise(DISK, 44);
    let run = payload(&place, |program| program.halt()).on_pipes();
    run.wait_for("hello", END);
    let processes = run.processes(2);
    for (_, process) in &processes {
        kill(*process, Signal::SIGSTOP).unwrap();
    }

    run.signal(Signal::SIGKILL);

    assert_gone(&processes);
}

/// A guest that reboots while its disk's helper is stopped, so that the helper takes no new VMM; the helper.
fn rebooting_without_a_helper(place: &Place) -> (Running, Pid) {
    let mut run = payload(place, |program| program.wait_for_key().reboot()).on_pipes();
    run.wait_for("hello", END);
    let helper = run.process("blk-helper");
    kill(helper, Signal::SIGSTOP).expect("it runs");
    run.type_in("x");
    let begun = Instant::now();
    while run.processes(1).iter().any(|(name, _)| name.starts_with("mayfly-vmm")) {
        assert!(begun.elapsed() < END, "the guest does not reboot");
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(100));
    (run, helper)
}

#[test]
fn a_helper_that_takes_no_new_vmm_makes_nobody_deaf() {
    require!(kvm);
    let _turn = turn();
    let place = Place::with_noise(DISK, 45);
    let (mut run, _) = rebooting_without_a_helper(&place);
    let processes = run.processes(1);

    run.signal(Signal::SIGTERM);

    let ended = run.wait_within(END);
    assert_eq!(ended.code, Some(128 + 15), "{ended:?}");
    assert_gone(&processes);
}

#[test]
fn a_helper_that_dies_while_it_is_offered_a_new_vmm_is_named() {
    require!(kvm);
    let _turn = turn();
    let place = Place::with_noise(DISK, 46);
    let (mut run, helper) = rebooting_without_a_helper(&place);

    kill(helper, Signal::SIGKILL).unwrap();

    let ended = run.wait_within(END);
    assert_eq!(ended.code, Some(12), "{ended:?}");
    assert!(ended.stderr.contains("killed by SIGKILL"), "{ended:?}");
}

#[test]
fn a_vmm_that_will_never_be_ready_is_not_called_slow() {
    require!(kvm);
    let _turn = turn();
    let place = Place::with_noise(4096, 47);

    let ended = scripted(&place, "exec >&-; sleep 20").output();

    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("closed its standard output"), "{ended:?}");
}

#[test]
fn a_control_socket_that_is_somebody_elses_by_now_is_left() {
    require!(kvm);
    let _turn = turn();
    let place = Place::with_noise(DISK, 46);
    let socket = place.dir().join("ctl");
    let disk = format!("{},control={}", place.base().display(), socket.display());
    let mut run = payload(&place, Payload::halt)
        .and([format!("--disk={disk}")])
        .on_pipes();
    run.wait_for("hello\n", END);
    assert!(socket.exists());
    fs::remove_file(&socket).unwrap();
    let _other = UnixListener::bind(&socket).unwrap();

    run.signal(Signal::SIGTERM);

    assert_eq!(run.wait_within(END).code, Some(128 + 15));
    assert!(socket.exists(), "it was another's");
}

#[test]
fn runs_of_root_share_no_user() {
    require!(root);
    let _turn = turn();
    let place = Place::with_noise(DISK, 47);
    let users = |words: &[&str]| -> Vec<String> {
        let planned = shell(&place).and(["--dry-run"]).and(words).output().stdout;
        let helper = planned.split_once("--user=").and_then(|(_, rest)| rest.split_once(':'));
        let qemu = planned.split_once("as uid ").and_then(|(_, rest)| rest.split_once(','));
        [helper, qemu]
            .map(|found| found.expect("both have a user").0.to_owned())
            .into()
    };
    let (one, other) = (users(&[]), users(&[]));
    assert!(
        one[0] == one[1] && other[0] == other[1] && one != other,
        "{one:?} {other:?}"
    );
    assert_eq!(users(&["--user=4711:4712"]), ["4711", "4711"]);

    let mut run = shell(&place).on_pipes();
    run.wait_for(PROMPT, BOOT);
    for (name, pid) in run.processes(2) {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let own = 0x7f00_0000 + run.pid().as_raw();
        for line in ["Uid:", "Gid:"].map(|what| format!("{what}\t{own}\t{own}\t{own}\t{own}\n")) {
            assert!(status.contains(&line), "{name}: {status}");
        }
    }
    run.signal(Signal::SIGTERM);
    assert_eq!(run.wait_within(END).code, Some(128 + 15));
}
