//! What holds for the calling thread, in the kernel's words.
//!
//! By system call and not through `/proc`, which is out of reach by then. Threads inherit everything from the one that entered
//! the sandbox, and each asks for itself all the same.

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::prctl;
use nix::sys::stat::Mode;
use serde::{Serialize, Serializer};
use std::fmt;

use crate::caps;
use crate::error::StepError;
use crate::seccomp::Filter;
use crate::sys;

/// The five capability sets of a thread, as bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct CapabilitySets {
    /// What the thread may do now.
    #[serde(serialize_with = "as_hex")]
    pub effective: u64,
    /// What it may make effective.
    #[serde(serialize_with = "as_hex")]
    pub permitted: u64,
    /// What survives an execve.
    #[serde(serialize_with = "as_hex")]
    pub inheritable: u64,
    /// What an execve gives without a privileged file.
    #[serde(serialize_with = "as_hex")]
    pub ambient: u64,
    /// What an execve could ever give; moot under no-new-privs.
    #[serde(serialize_with = "as_hex")]
    pub bounding: u64,
}

impl CapabilitySets {
    /// Whether all but the bounding set are empty.
    #[must_use]
    pub fn give_nothing(&self) -> bool {
        self.effective | self.permitted | self.inheritable | self.ambient == 0
    }
}

impl fmt::Display for CapabilitySets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "effective {:x}, permitted {:x}, inheritable {:x}, ambient {:x}, bounding {:x}",
            self.effective, self.permitted, self.inheritable, self.ambient, self.bounding
        )
    }
}

/// Sixteen digits, as `/proc/PID/status` shows them.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
fn as_hex<S: Serializer>(bits: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{bits:016x}"))
}

/// What one thread read back for itself.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is what the kernel said to one question"
)]
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ThreadEvidence {
    /// The thread's name.
    pub name: String,
    /// `PR_GET_NO_NEW_PRIVS`.
    pub no_new_privs: bool,
    /// `PR_GET_SECCOMP`: 0 none yet, 2 a filter. Set it again from [`seccomp_mode`] once the process is sealed.
    pub seccomp_mode: u32,
    /// Whether a filter of its own lies over the process's, shown by the refusal to load another.
    pub own_filter: bool,
    /// The capability sets.
    pub capabilities: CapabilitySets,
    /// `PR_GET_DUMPABLE`.
    pub dumpable: bool,
    /// That opening `/` and `/etc/passwd` was refused.
    pub opens_denied: bool,
}

impl fmt::Display for ThreadEvidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: no-new-privs {}, seccomp {}{}, dumpable {}, opens denied {}, capabilities {}",
            self.name,
            u8::from(self.no_new_privs),
            self.seccomp_mode,
            if self.own_filter { " with its own filter" } else { "" },
            u8::from(self.dumpable),
            u8::from(self.opens_denied),
            self.capabilities
        )
    }
}

impl ThreadEvidence {
    /// Puts `filter` over the process's for the calling thread alone, and shows that it is in force. The process's filter must
    /// allow one to be loaded, and `filter` must refuse another one with EPERM.
    ///
    /// # Errors
    ///
    /// The filter is refused; or another one is not.
    pub fn narrow(&mut self, filter: &Filter) -> Result<(), StepError> {
        filter.load_for_this_thread().map_err(|source| StepError::Filter {
            thread: self.name.clone(),
            source,
        })?;
        self.seccomp_mode = seccomp_mode().map_err(StepError::system("read the seccomp mode back"))?;
        match sys::load_no_filter() {
            Err(Errno::EPERM) => {
                self.own_filter = true;
                Ok(())
            }
            other => Err(StepError::NotInForce {
                layer: "a thread's own filter",
                found: format!("loading another one: {other:?}"),
            }),
        }
    }
}

/// Reads back what holds for the calling thread. Before the filter: it makes calls that a filter would not allow.
///
/// # Errors
///
/// A required state does not hold for this thread, or the kernel does not say.
pub fn read_back_thread(name: &str) -> Result<ThreadEvidence, StepError> {
    let evidence = ThreadEvidence {
        name: name.to_owned(),
        no_new_privs: prctl::get_no_new_privs().map_err(StepError::system("read no-new-privs back"))?,
        seccomp_mode: seccomp_mode().map_err(StepError::system("read the seccomp mode"))?,
        own_filter: false,
        capabilities: caps::sets()?,
        dumpable: prctl::get_dumpable().map_err(StepError::system("read dumpability back"))?,
        opens_denied: opens_are_denied(),
    };
    let holds =
        evidence.no_new_privs && evidence.capabilities.give_nothing() && !evidence.dumpable && evidence.opens_denied;
    if holds {
        Ok(evidence)
    } else {
        Err(StepError::NotInForce {
            layer: "the state of a thread",
            found: evidence.to_string(),
        })
    }
}

/// The calling thread's seccomp mode: 0 none, 2 a filter.
///
/// # Errors
///
/// The kernel was built without seccomp.
pub fn seccomp_mode() -> Result<u32, Errno> {
    sys::seccomp_mode().map(i32::cast_unsigned)
}

/// Whether `/` and `/etc/passwd` cannot be opened. Everybody may list `/`, so a refusal (and not, say, a full descriptor table)
/// is landlock's; in an empty root the other does not exist.
fn opens_are_denied() -> bool {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let refused = |path| open(path, flags, Mode::empty()).err();
    matches!(refused("/"), Some(Errno::EACCES | Errno::EPERM))
        && matches!(
            refused("/etc/passwd"),
            Some(Errno::EACCES | Errno::EPERM | Errno::ENOENT)
        )
}
