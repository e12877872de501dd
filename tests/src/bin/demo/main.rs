//! Walks a person through what QEMU's `-snapshot` promised, with `mayfly run` and real guests (`make demo`).
//!
//! ```text
//!   demo [--write-mib N]    the walk; ends with failure if a promise was not kept
//!   demo thief ..., victim  played by the walk itself in processes of their own (`theft`)
//! ```
//!
//! The walk runs on a thread of its own, and this one waits for its end or for a signal. `mayfly` is killed by the kernel
//! when that thread ends, however it ends, and takes all with it; what is left to remove then is one directory.

#![deny(unsafe_code)]

use std::process::ExitCode;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use tests::ending::{self, chain};

mod begin;
mod burn;
mod crew;
mod failure;
mod holders;
mod keep;
mod life;
mod space;
mod stage;
mod theft;
mod thief;
mod walk;
mod workshop;

use failure::Failure;
use workshop::Workshop;

const USAGE: &str = "usage: demo [--write-mib N]";

/// How many MiB the guest writes unless told otherwise: enough to be seen by anybody's `df`.
const WRITE_MIB: u64 = 1024;

/// How long a failure waits for the signal that may have caused it: Ctrl-C reaches all processes at once.
const SIGNAL_IS_LATE: Duration = Duration::from_millis(300);

enum Event {
    Interrupted(Signal),
    Ended(Result<bool, Failure>),
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["thief", pid, descriptor, loot] => thief::steal(pid, descriptor, loot),
        ["victim", dir] => thief::be_ordinary(dir),
        [] => supervise(|workshop| walk::run(workshop, WRITE_MIB)),
        ["--write-mib", mib] => match mib.parse() {
            Ok(mib @ 1..) => supervise(move |workshop| walk::run(workshop, mib)),
            _ => complain(USAGE, 2),
        },
        _ => complain(USAGE, 2),
    }
}

/// Runs `act` until it ends or a signal comes. Nothing of it is left afterwards, except after SIGKILL, which leaves a
/// directory without any data in it.
fn supervise(act: impl FnOnce(&Workshop) -> Result<bool, Failure> + Send + 'static) -> ExitCode {
    let (sender, events) = channel();
    // Before any other thread exists, so that all of them leave the signals to the one that waits for them.
    let interrupted = sender.clone();
    // Nobody listens any more when all is over anyway.
    ending::when_asked(move |signal| drop(interrupted.send(Event::Interrupted(signal))));
    let workshop = match Workshop::open() {
        Ok(workshop) => workshop,
        Err(failure) => return complain(&chain(&failure), 1),
    };
    let place = workshop.clone();
    thread::spawn(move || sender.send(Event::Ended(act(&place))));
    let event = match events.recv() {
        Ok(Event::Ended(Err(failure))) => events
            .recv_timeout(SIGNAL_IS_LATE)
            .unwrap_or(Event::Ended(Err(failure))),
        Ok(event) => event,
        Err(_) => return complain("the walk ended without a word", 1),
    };
    workshop.clear();
    match event {
        Event::Interrupted(signal) => {
            stage::end_line();
            complain(&format!("ended by {signal}; its processes end with it"), 130)
        }
        Event::Ended(Ok(true)) => ExitCode::SUCCESS,
        Event::Ended(Ok(false)) => complain("not every promise was kept", 1),
        Event::Ended(Err(failure)) => complain(&chain(&failure), 1),
    }
}

fn complain(text: &str, code: u8) -> ExitCode {
    ending::complain("demo", text, code)
}
