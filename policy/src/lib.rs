//! How a Mayfly process gives things up, in what order, and how it proves that it did.
//!
//! A process goes through three doors, each of which consumes the value that the one before returned:
//!
//! ```text
//! prepare(&PrepareSpec) -> Prepared        before anything is opened
//!     (the program opens what it needs)
//! Prepared::enter(resources) -> Entered    no path is looked up after this
//!     (worker threads start inside `seal` and inherit everything)
//! Entered::seal(start, filter) -> Confined serve only what is inside one of these
//! ```
//!
//! | step | where | why not earlier, why not later |
//! | --- | --- | --- |
//! | not dumpable | `prepare` | first of all: whoever is not there by then stays out |
//! | stdin, descriptors, signals, environment, umask, limits | `prepare` | before anything secret exists |
//! | user namespace (ordinary user) | `prepare` | while there is nothing that the process which makes it could give away |
//! | bound to the parent | `prepare` | before the first descriptor that others must not reach |
//! | other namespaces, empty root | `enter` | after the last path was looked up, before authority goes |
//! | bounding set, groups, gid, uid (root) | `enter` | the last acts that need authority |
//! | not dumpable, bound to the parent, again | `enter` | a change of credentials resets both |
//! | capability sets, no-new-privs | `enter` | after the last privileged call |
//! | landlock, memory protection | `enter` | need no privilege once no-new-privs is set |
//! | read-back | `enter`, and each thread for itself | the kernel's word, not ours |
//! | exact descriptor list, then the filter | `seal` | last, so that the filter allows none of the above |
//!
//! Requirements are states, not acts: "no capabilities" holds for a process that never had any. A *required* state that does
//! not hold stops the start and no switch turns that off; a layer that is merely *where permitted* is reported.
//!
//! A confined process's log must never make it wait, whatever is done to the other end of its standard error: so [`logging`] is
//! here too. Beyond that, this crate knows no disks and no rings, prints nothing, and exits only in a signal handler or through
//! [`signals::exit_now`]. A confined process must end through the latter: returning from `main` makes system calls (the runtime
//! takes its signal stack down) that the filter kills.

#![deny(unsafe_code)]
#![warn(missing_docs, clippy::missing_docs_in_private_items)]

mod caps;
mod empty_root;
mod error;
mod fds;
pub mod forbidden;
mod hidden;
mod identity;
mod landlock;
mod limits;
pub mod logging;
mod namespaces;
mod probe;
mod report;
mod sandbox;
pub mod seccomp;
pub mod signals;
#[expect(
    unsafe_code,
    reason = "the raw calls that nix lacks; the only file of this crate with unsafe code"
)]
mod sys;

pub use error::{SealError, StepError};
pub use fds::{Descriptor, Descriptors, DescriptorsError};
pub use hidden::hide;
pub use identity::User;
pub use limits::ParentDeath;
pub use probe::{CapabilitySets, ThreadEvidence, read_back_thread, seccomp_mode};
pub use report::{Layer, Report};
pub use sandbox::{Confined, EnterSpec, Entered, PrepareSpec, Prepared, prepare};
pub use sys::{adopt, pidfd};
