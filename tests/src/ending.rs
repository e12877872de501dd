//! How the programs of this crate that a person starts come to an end: asked to by a signal, or with a complaint.

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;
use std::thread;

use nix::sys::signal::{SigSet, Signal};

/// From now on calls `act`, once, on a thread of its own, when somebody asks this process to end: by Ctrl-C, by SIGTERM, or by
/// closing the terminal. To be called before any other thread exists, so that all of them leave the signals to that one.
pub fn when_asked(act: impl FnOnce(Signal) + Send + 'static) {
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    if signals.thread_block().is_ok() {
        thread::spawn(move || {
            if let Ok(signal) = signals.wait() {
                act(signal);
            }
        });
    }
}

/// Says on standard error why `program` ends, and what to exit with.
#[must_use]
pub fn complain(program: &str, text: &str, code: u8) -> ExitCode {
    // Who closed standard error gets the exit code all the same.
    let _ = writeln!(std::io::stderr(), "{program}: {text}");
    ExitCode::from(code)
}

/// An error with all its causes, on one line.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}
