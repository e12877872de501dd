//! `mayfly-vmm` as the VMM: its exit codes, what a reboot is, and a hundred moments to be killed at.

use std::collections::HashSet;
use std::fs;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::place::Place;
use tests::require;
use tests::rng::Rng;
use tests::supervised::{END, assert_gone};
use tests::theft::assert_gives_nothing;

use crate::support::{DISK, payload, turn};

#[test]
fn how_the_guest_ends_is_the_exit_code() {
    require!(kvm);
    let _turn = turn();
    let place = Place::with_noise(DISK, 20);
    let ends: [(fn(_) -> _, i32, &str); 2] = [
        (
            |program: tests::payload::Payload| program.power_off(),
            0,
            "the guest powered itself off",
        ),
        (|program| program.crash(), 13, "a triple fault"),
    ];
    for (end, code, said) in ends {
        let ended = payload(&place, end).output();

        assert_eq!(
            (ended.code, ended.stdout.as_str()),
            (Some(code), "hello\n"),
            "{ended:?}"
        );
        assert!(ended.stderr.contains(said), "{ended:?}");
    }
}

#[test]
fn a_reboot_is_a_new_vmm_with_the_same_helper() {
    require!(kvm);
    let _turn = turn();
    let place = Place::with_noise(DISK, 21);
    // Long enough to look at, short enough not to wait for: each turn of the loop is an exit to the VMM.
    let run = payload(&place, |program| {
        program.times(100_000, |turn| turn.out(0x80, 0)).reboot()
    })
    .on_pipes();
    let helper = run.process("blk-helper");
    let first = run.process("mayfly-vmm");

    run.wait_for("hello\nhello\n", END);

    let next = run.process("mayfly-vmm");
    assert_ne!(next, first);
    assert_eq!(run.process("blk-helper"), helper);
}

#[test]
fn a_guest_that_only_reboots_is_stopped() {
    require!(kvm);
    let _turn = turn();
    let place = Place::with_noise(DISK, 22);

    let ended = payload(&place, |program| program.reboot()).output();

    assert_eq!(ended.code, Some(14), "{ended:?}");
    assert_eq!(ended.stdout, "hello\n".repeat(10));
    assert!(ended.stderr.contains("rebooted 10 times in a row"), "{ended:?}");
}

#[test]
fn a_backend_of_somebody_else_is_connected_anew_at_each_reboot() {
    require!(kvm);
    let _turn = turn();
    let place = Place::with_noise(DISK, 23);
    let other = Place::with_noise(DISK, 24);
    let backend = other.helper().start();

    let ended = payload(&place, |program| program.reboot())
        .and([format!("--disk-socket={}", backend.socket().display())])
        .output();

    assert_eq!(ended.code, Some(14), "{ended:?}");
    backend.terminate();
}

#[test]
fn status_says_what_confines_whom() {
    require!(kvm);
    let _turn = turn();
    let place = Place::with_noise(DISK, 25);
    let mut run = payload(&place, |program| program.halt()).on_terminal();
    run.wait_for("hello", END);

    run.type_in("\x01c");

    run.wait_for("kvm, 0 reboots", END);
    run.wait_for("  vmm: process ", END);
    run.wait_for(" layers of confinement", END);
    run.wait_for("  disk vda (base.raw): process ", END);
    run.type_in("\x01x");
    assert_eq!(run.wait_within(END).code, Some(0));
}

#[test]
fn another_process_of_its_user_gets_nothing_out_of_the_vmm() {
    require!(kvm);
    let _turn = turn();
    let place = Place::with_noise(DISK, 27);
    let run = payload(&place, |program| program.halt()).on_pipes();
    run.wait_for("hello", END);

    assert_gives_nothing(&place, run.process("mayfly-vmm"));
}

#[test]
fn the_vmm_has_no_image_no_terminal_no_control_channel_and_no_file_but_its_kernel() {
    require!(root);
    require!(kvm);
    let _turn = turn();
    let place = Place::with_noise(DISK, 26);
    let run = payload(&place, |program| program.halt()).on_terminal();
    run.wait_for("hello", END);

    let vmm = run.process("mayfly-vmm");

    let links = fs::read_dir(format!("/proc/{vmm}/fd")).unwrap();
    let open: Vec<_> = links
        .map(|link| fs::read_link(link.unwrap().path()).unwrap().display().to_string())
        .collect();
    for word in [
        "base.raw",
        "overlay",
        "/dev/pts",
        "/dev/ptmx",
        "/dev/tty",
        "/home",
        "/root",
    ] {
        assert!(!open.iter().any(|what| what.contains(word)), "{word}: {open:?}");
    }
    // To the one disk's backend, under as many numbers as it likes; a control channel would be another.
    let sockets: HashSet<_> = open.iter().filter(|what| what.starts_with("socket:")).collect();
    assert_eq!(sockets.len(), 1, "{open:?}");
}

/// How many times to kill each: `MAYFLY_KILLS`, or enough for a quick look.
fn kills() -> u64 {
    std::env::var("MAYFLY_KILLS").map_or(10, |text| text.parse().expect("MAYFLY_KILLS is a number"))
}

/// Starts a run, kills one of its processes at a random moment, and sees to it that nothing is left.
fn killed_at_any_moment(name: &str, seed: u64, expected: fn(Option<i32>) -> bool) {
    let _turn = turn();
    let place = Place::with_noise(1 << 20, seed);
    let mut rng = Rng::new(seed);
    for _ in 0..kills() {
        let mut run = payload(&place, |program| program.halt()).on_pipes();
        let victim: Pid = if name == "mayfly" { run.pid() } else { run.process(name) };
        std::thread::sleep(Duration::from_micros(rng.below(60_000)));
        let processes = run.processes(0);

        // It may have ended by itself only if something is wrong, which the exit code will show.
        let _ = kill(victim, Signal::SIGKILL);

        let ended = run.wait_within(END);
        assert!(expected(ended.code), "{ended:?}");
        assert_gone(&processes);
    }
}

#[test]
fn a_vmm_killed_at_any_moment_leaves_nothing() {
    require!(kvm);
    // Before it is ready that is a start that failed.
    killed_at_any_moment("mayfly-vmm", 27, |code| matches!(code, Some(10 | 1)));
}

#[test]
fn a_helper_killed_at_any_moment_leaves_nothing() {
    require!(kvm);
    killed_at_any_moment("blk-helper", 28, |code| matches!(code, Some(12 | 1)));
}

#[test]
fn a_supervisor_killed_at_any_moment_leaves_nothing() {
    require!(kvm);
    killed_at_any_moment("mayfly", 29, |code| code.is_none());
}
