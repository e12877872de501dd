//! A terminal: raw while the guest has it, with keys that are ours, and given back as it was.

use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;
use nix::sys::termios::{LocalFlags, tcgetattr};
use tests::place::Place;
use tests::supervised::{END, assert_gone};

use crate::support::{BOOT, DISK, PROMPT, shell, turn};

#[test]
fn on_a_terminal_there_are_keys_and_it_is_given_back_as_it_was() {
    let _turn = turn();
    let place = Place::with_noise(DISK, 9);
    let mut run = shell(&place).on_terminal();
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
    run.type_in("\x01s");
    run.wait_for("saving is not there yet", END);
    run.type_in("\x01c");
    run.wait_for("disk vda (base.raw): process ", END);
    run.wait_for("overlay 0 bytes of 16 MiB", END);
    run.wait_for("weaker confinement", END);
    let processes = run.processes(2);
    run.type_in("\x01x");

    // The terminal is looked at before the run's end closes it.
    let begun = Instant::now();
    while run.terminal_settings() != before {
        assert!(begun.elapsed() < END, "the terminal is not as it was");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(run.wait_within(END).code, Some(0));
    assert_gone(&processes);
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
