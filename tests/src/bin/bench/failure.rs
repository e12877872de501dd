//! Why the benchmark could not go on.

use std::io;

use crate::ring::RingError;

/// Why the benchmark could not go on.
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
    /// A disk did not work.
    #[error("the disk does not work")]
    Ring(#[from] RingError),
    /// Something is not as it must be for the figures to mean anything.
    #[error("{0}")]
    Unfit(String),
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
