//! A terminal: raw while the guest has it, with keys that are ours, and given back as it was.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;
use nix::sys::termios::{LocalFlags, tcgetattr};
use tests::place::Place;
use tests::supervised::{END, Running, assert_gone};

use crate::support::{BOOT, DISK, PROMPT, shell, turn};

#[test]
fn on_a_terminal_there_are_keys_and_it_is_given_back_as_it_was() {
    let _turn = turn();
    let place = Place::with_noise(DISK, 9);
    let mut run = shell(&place).and(["--on-exit=ask"]).on_terminal();
    let before = run.terminal_settings();
    assert!(before.local_flags.contains(LocalFlags::ICANON | LocalFlags::ISIG));
    run.wait_for(PROMPT, BOOT);

    let raw = run.terminal_settings().local_flags;
    assert!(
        !raw.intersects(LocalFlags::ICANON | LocalFlags::ISIG | LocalFlags::ECHO),
        "{raw:?}"
    );
    let flags = OFlag::from_bits_retain(fcntl(run.terminal(), FcntlArg::F_GETFL).unwrap());
    assert!(!flags.contains(OFlag::O_NONBLOCK), "the shell has this open file too");
    // What the guest's own terminal makes of C-c: a new prompt, and not the end of us.
    run.type_in("\x03echo al''ive\n");
    run.wait_for("alive", BOOT);
    run.type_in("\x01h");
    run.wait_for("C-a C-a  send C-a to the guest", END);
    keep_what_was_written(&place, &mut run);
    run.type_in("\x01c");
    run.wait_for("disk vda (base.raw): process ", END);
    run.wait_for("overlay 4 KiB of ", END);
    run.wait_for("weaker confinement", END);
    let processes = run.processes(2);
    run.type_in("\x01x");
    decide_at_the_end(&place, &mut run);

    // The terminal is looked at before the run's end closes it.
    let begun = Instant::now();
    while run.terminal_settings() != before {
        assert!(begun.elapsed() < END, "the terminal is not as it was");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(run.wait_within(END).code, Some(0));
    assert_gone(&processes);
}

/// C-a s while the guest runs: given up, refused, done.
fn keep_what_was_written(place: &Place, run: &mut Running) {
    let out = place.dir().join("now.raw");
    run.type_in("yes | head -c 4096 >/dev/vda; sync; echo writ''ten\n");
    run.wait_for("written", BOOT);
    run.type_in("\x01s");
    run.wait_for("commit, or save=PATH (nothing: go on)? ", END);
    assert!(run.terminal_settings().local_flags.contains(LocalFlags::ICANON));
    run.type_in("\x03echo wei''ter\n");
    run.wait_for("weiter", BOOT);
    run.type_in("\x01s");
    run.wait_for_times("(nothing: go on)? ", 2, END);
    run.type_in("burn\n");
    run.wait_for("it burns at the end of the run; nothing was done", END);
    run.type_in("\x01s");
    run.wait_for_times("(nothing: go on)? ", 3, END);
    run.type_in(&format!("save={}\n", out.display()));
    run.wait_for("saved to ", END);
    assert_is_kept(place, &out);
    run.type_in("echo still al''ive\n");
    run.wait_for("still alive", BOOT);
}

/// `--on-exit ask`: what cannot be done is asked again.
fn decide_at_the_end(place: &Place, run: &mut Running) {
    let out = place.dir().join("end.raw");
    run.wait_for("4 KiB written: burn, commit or save=PATH? [burn] ", END);
    run.type_in("save=/nowhere/x\n");
    run.wait_for("cannot open the directory /nowhere", END);
    run.wait_for_times("? [burn] ", 2, END);
    run.type_in(&format!("save={}\n", out.display()));
    run.wait_for("end.raw (16 MiB)", END);
    assert_is_kept(place, &out);
}

/// The file is the place's disk with what the guest wrote.
fn assert_is_kept(place: &Place, out: &Path) {
    let mut disk = place.content().to_vec();
    disk[..4096].copy_from_slice(&b"y\n".repeat(2048));
    let kept = fs::read(out).expect("the file has its name");
    assert!(kept == disk, "it is another disk");
}

#[test]
fn a_terminal_that_hangs_up_ends_the_run() {
    let _turn = turn();
    let place = Place::with_noise(DISK, 10);
    let mut run = shell(&place).on_terminal();
    let processes = run.processes(2);

    run.close_input();

    assert_eq!(run.wait_within(END).code, Some(128 + 1));
    assert_gone(&processes);
}

#[test]
fn a_signal_gives_the_terminal_back_too() {
    let _turn = turn();
    let place = Place::with_noise(DISK, 11);
    let mut run = shell(&place).on_terminal();
    let before = run.terminal_settings();
    run.wait_for("the guest has the terminal", BOOT);
    let terminal = run.terminal().try_clone().unwrap();

    run.signal(Signal::SIGTERM);

    assert_eq!(run.wait_within(END).code, Some(128 + 15));
    assert_eq!(tcgetattr(&terminal).unwrap(), before);
}
