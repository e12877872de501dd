//! What stops a start: one family for the steps, one for the seal. Every message says what we were doing; the system's own
//! words are the source and are printed once, by whoever prints the chain.

use nix::errno::Errno;
use std::os::fd::RawFd;
use thiserror::Error;

use crate::fds::DescriptorsError;
use crate::seccomp::FilterError;

/// A step of the confinement failed, or a required state does not hold.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StepError {
    /// A system call failed.
    #[error("cannot {doing}")]
    System {
        /// What the call was for.
        doing: &'static str,
        /// The kernel's answer.
        #[source]
        source: Errno,
    },
    /// A capability set could not be read or emptied.
    #[error("cannot {doing} the {set} capability set")]
    Capabilities {
        /// "read" or "empty".
        doing: &'static str,
        /// Which set.
        set: &'static str,
        /// What the kernel said.
        #[source]
        source: ::caps::errors::CapsError,
    },
    /// Landlock refused.
    #[error("cannot deny all paths with landlock")]
    Landlock(#[source] ::landlock::RulesetError),
    /// A thread's own filter could not be put over the process's.
    #[error("cannot load the own filter of the thread {thread}")]
    Filter {
        /// The thread.
        thread: String,
        /// Why.
        #[source]
        source: FilterError,
    },
    /// A required state does not hold.
    #[error("{layer} is required and does not hold: {found}")]
    NotInForce {
        /// The layer, as the report names it.
        layer: &'static str,
        /// What the kernel reports instead.
        found: String,
    },
    /// Namespaces, credentials and landlock apply to the calling thread only.
    #[error("the process must have a single thread while it gives things up")]
    ManyThreads,
    /// The process that this one was bound to is gone.
    #[error("the parent is already gone")]
    ParentGone,
    /// The user that this process has, or shall get, cannot be used.
    #[error("refusing to run as this user: {0}")]
    User(&'static str),
    /// A descriptor that was to be kept is not open, or is one of 0, 1 and 2.
    #[error("descriptor {0} cannot be kept: it is a standard stream or not open")]
    NotKept(RawFd),
}

impl StepError {
    /// For `map_err`: a system call failed while `doing` something.
    pub(crate) fn system(doing: &'static str) -> impl FnOnce(Errno) -> Self {
        move |source| Self::System { doing, source }
    }
}

/// The process could not be sealed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SealError<E: std::error::Error + 'static> {
    /// What the program starts before the filter (its threads) did not start.
    #[error("cannot start the work that is to be sealed")]
    Start(#[source] E),
    /// The open descriptors are not the listed ones.
    #[error("the open descriptors are not exactly the listed ones")]
    Descriptors(#[source] DescriptorsError),
    /// The filter is empty, does not compile or was refused by the kernel.
    #[error("cannot load the system call filter")]
    Filter(#[source] FilterError),
    /// A last step, or a read-back, failed.
    #[error("cannot finish the confinement")]
    Step(#[source] StepError),
}
