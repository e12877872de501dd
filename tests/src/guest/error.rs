//! What can go wrong with a guest, always with what its console showed last.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

/// Text of a console. Shown as it looked, also where a failed test prints its error for debugging.
#[derive(Clone, PartialEq, Eq)]
pub struct Transcript(pub String);

impl fmt::Display for Transcript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Transcript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\n--- console ---\n{}\n--- end of console ---\n", self.0)
    }
}

/// Why a guest did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// `make images` was not run, or for another cache directory.
    #[error("there is no {}: run 'make images'", path.display())]
    NoAsset {
        /// What is missing.
        path: PathBuf,
    },
    /// The emulator, or what stands for it, could not be run.
    #[error("cannot start {program} (run 'make deps' and 'cargo build')")]
    Start {
        /// The command that was not found, or not permitted.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// QEMU's end could not be asked for.
    #[error("cannot wait for QEMU")]
    Wait(#[source] io::Error),
    /// QEMU reads nothing more.
    #[error("cannot write to the guest's console")]
    Keyboard(#[source] io::Error),
    /// A command that does not fit a terminal's line.
    #[error("a command of {length} bytes is too long for the guest's console")]
    TooLong {
        /// Its length.
        length: usize,
    },
    /// The agent's mark could not be read, because something else wrote into it.
    #[error("the end of a command was garbled on the console: {line:?}")]
    Garbled {
        /// The line with the mark.
        line: String,
    },
    /// Waited in vain.
    #[error("waited {limit:?} for {awaited:?} in vain; the console ends with:\n{console}")]
    TimedOut {
        /// What was waited for.
        awaited: String,
        /// How long.
        limit: Duration,
        /// The end of the console.
        console: Transcript,
    },
    /// The console was closed while something was waited for.
    #[error("QEMU ended while {awaited:?} was waited for; the console ends with:\n{console}")]
    Closed {
        /// What was waited for.
        awaited: String,
        /// The end of the console.
        console: Transcript,
    },
    /// QEMU ended in another way than expected.
    #[error("QEMU ended with {status}; the console ends with:\n{console}")]
    Ended {
        /// How it ended.
        status: ExitStatus,
        /// The end of the console.
        console: Transcript,
    },
}
