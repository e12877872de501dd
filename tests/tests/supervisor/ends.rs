//! Who is told to end, dies or is killed, and what is left then: nothing.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use tests::mounted::{Mounted, free_bytes};
use tests::place::Place;
use tests::require;
use tests::supervised::{END, assert_gone};
use tests::theft::assert_gives_nothing;

use crate::support::{BOOT, DISK, PROMPT, shell, turn};

#[test]
fn signals_end_the_run_and_everything_with_it() {
    let _turn = turn();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT] {
        let place = Place::with_noise(DISK, 4);
        let mut run = shell(&place).on_pipes();
        let processes = run.processes(2);

        run.signal(signal);

        let ended = run.wait_within(END);
        assert_eq!(ended.code, Some(128 + signal as i32), "{ended:?}");
        assert!(ended.stderr.contains(&format!("ended by {signal}")), "{ended:?}");
        assert_gone(&processes);
    }
}

#[test]
fn another_process_of_its_user_gets_nothing_out_of_the_supervisor() {
    let _turn = turn();
    let place = Place::with_noise(DISK, 7);
    let run = shell(&place).on_pipes();

    // Root's gives nothing to others anyway; it is the ordinary user's that is looked at.
    for victim in [run.process("blk-helper"), run.pid()] {
        assert_gives_nothing(&place, victim);
    }
}

#[test]
fn a_killed_supervisor_leaves_no_process_and_no_space_taken() {
    require!(root);
    let _turn = turn();
    let place = Place::with_noise(DISK, 5);
    let _tmpfs = Mounted::tmpfs(&place.overlay_dir(), "64m");
    let before = free_bytes(&place.overlay_dir());
    let mut run = shell(&place).on_pipes();
    run.wait_for(PROMPT, BOOT);
    run.type_in("dd if=/dev/zero of=/dev/vda bs=1M count=8 conv=fsync; echo do''ne\n");
    run.wait_for("done", BOOT);
    assert!(free_bytes(&place.overlay_dir()) <= before - (8 << 20));
    let processes = run.processes(2);

    run.signal(Signal::SIGKILL);

    assert_gone(&processes);
    let begun = Instant::now();
    while free_bytes(&place.overlay_dir()) != before {
        assert!(begun.elapsed() < END, "space is still taken");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_helper_that_dies_takes_the_guest_with_it_and_is_named() {
    let _turn = turn();
    let place = Place::with_noise(DISK, 6);
    let mut run = shell(&place).on_pipes();
    let processes = run.processes(2);

    kill(run.process("blk-helper"), Signal::SIGKILL).unwrap();

    let ended = run.wait_within(END);
    assert_eq!(ended.code, Some(12), "{ended:?}");
    assert!(
        ended.stderr.contains("disk vda (base.raw)") && ended.stderr.contains("killed by SIGKILL"),
        "{ended:?}"
    );
    assert_gone(&processes);
}

#[test]
fn a_vmm_that_dies_takes_the_disks_with_it() {
    let _turn = turn();
    let place = Place::with_noise(DISK, 7);
    let mut run = shell(&place).on_pipes();
    let processes = run.processes(2);

    kill(run.process("qemu"), Signal::SIGSEGV).unwrap();

    let ended = run.wait_within(END);
    assert_eq!(ended.code, Some(10), "{ended:?}");
    assert!(ended.stderr.contains("the VMM ended: killed by SIGSEGV"), "{ended:?}");
    assert_gone(&processes);
}

#[test]
fn output_that_nobody_can_read_ends_the_run() {
    let _turn = turn();
    let place = Place::with_noise(DISK, 8);
    let mut run = shell(&place).on_pipes();
    let processes = run.processes(2);

    run.close_output();

    assert_eq!(run.wait_within(BOOT).code, Some(128 + 13));
    assert_gone(&processes);
}
