//! Why a conversion stops: the image is at fault, or the host is.

use std::io;
use thiserror::Error;

/// Why an image is not converted.
#[derive(Debug, Error)]
pub(super) enum ImportError {
    /// What is wrong with the image, in words that follow on its name.
    #[error("{which} {what}")]
    Refused { which: Which, what: String },
    /// A file could not be read or written.
    #[error("cannot {doing} {which}")]
    Failed {
        doing: &'static str,
        which: Which,
        #[source]
        source: io::Error,
    },
}

/// One of the files, as the operator knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// The image, number 0, or a backing image, counted from 1.
    Image(usize),
    /// What is written.
    Output,
}

impl std::fmt::Display for Which {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Image(0) => write!(to, "the image"),
            Self::Image(number) => write!(to, "backing image {number}"),
            Self::Output => write!(to, "the output"),
        }
    }
}

impl Which {
    /// The image is refused: `what` follows on its name.
    pub(super) fn refused(self, what: impl Into<String>) -> ImportError {
        ImportError::Refused {
            which: self,
            what: what.into(),
        }
    }

    /// The host could not do something with the file.
    pub(super) const fn failed(self, doing: &'static str) -> impl FnOnce(io::Error) -> ImportError {
        move |source| ImportError::Failed {
            doing,
            which: self,
            source,
        }
    }
}
