//! Why the demo could not go on. A promise that was not kept is no failure: it is shown, and the walk goes on.

use std::io;
use std::path::PathBuf;

use tests::guest::GuestError;

/// Why the demo could not go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// A system call failed.
    #[error("cannot {doing}")]
    System {
        /// What we were doing, and on what.
        doing: String,
        /// The system's words.
        #[source]
        source: io::Error,
    },
    /// A program of the system failed.
    #[error("{program} failed: {said}")]
    Program {
        /// Its name.
        program: &'static str,
        /// What it wrote to standard error.
        said: String,
    },
    /// Something with the guest, which explains itself at length.
    #[error("the guest did not do its part")]
    Guest(#[source] GuestError),
    /// A command in the guest ended with an error.
    #[error("in the guest, '{command}' failed: {said}")]
    InGuest {
        /// The command.
        command: String,
        /// Its output.
        said: String,
    },
    /// There is no guest.
    #[error("mayfly did not start a guest; it said:\n{said}")]
    NotReady {
        /// What it wrote.
        said: String,
    },
    /// A report has not what its documentation says.
    #[error("the report of {program} has no {what}")]
    Report {
        /// Whose report.
        program: String,
        /// What was looked for.
        what: &'static str,
    },
    /// Nowhere to show that space on a disk comes back.
    #[error("{} is in memory: set TMPDIR to a directory on a disk", dir.display())]
    InMemory {
        /// The directory.
        dir: PathBuf,
    },
}

impl Failure {
    /// For `map_err`: what we were doing, with the system's words added.
    pub(crate) fn while_doing<E: Into<io::Error>>(doing: impl Into<String>) -> impl FnOnce(E) -> Self {
        let doing = doing.into();
        move |source| Self::System {
            doing,
            source: source.into(),
        }
    }
}
