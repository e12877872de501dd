//! Resource limits, the bond to the parent, and memory that never becomes code.

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};

use crate::error::StepError;
use crate::report::Layer;
use crate::sys;

/// The process shall end when its parent does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParentDeath {
    /// The signal that it then gets. SIGKILL ends even a process that is stopped; give any other a handler with
    /// [`crate::signals::exit_on`] first.
    pub signal: Signal,
}

/// A parent, and what to send when it dies. To the kernel the parent is the *thread* that started us.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bond {
    /// Who it is, read before anything else.
    parent: Pid,
    /// What to do about its death.
    death: Option<ParentDeath>,
}

impl Bond {
    /// Notes who the parent is now.
    pub(crate) fn to_parent(death: Option<ParentDeath>) -> Self {
        Self {
            parent: getppid(),
            death,
        }
    }

    /// Asks for the signal, and makes sure that the parent did not die in between. Every change of credentials undoes this.
    pub(crate) fn tie(self) -> Result<(), StepError> {
        let Some(ParentDeath { signal }) = self.death else {
            return Ok(());
        };
        prctl::set_pdeathsig(signal).map_err(StepError::system("bind to the parent's life"))?;
        if getppid() == self.parent {
            Ok(())
        } else {
            Err(StepError::ParentGone)
        }
    }

    /// Reads back that the signal is still asked for.
    pub(crate) fn read_back(self) -> Result<Option<Layer>, StepError> {
        let Some(ParentDeath { signal }) = self.death else {
            return Ok(None);
        };
        let found = prctl::get_pdeathsig().map_err(StepError::system("read the parent-death signal back"))?;
        if found == Some(signal) {
            let evidence = format!("{signal} when process {} dies", self.parent);
            return Ok(Some(Layer::required("parent bond", evidence)));
        }
        Err(StepError::NotInForce {
            layer: "parent bond",
            found: format!("{found:?}"),
        })
    }
}

/// No execve ever gives more than the process has. Read back with everything else that holds for a thread.
pub(crate) fn no_new_privs() -> Result<(), StepError> {
    prctl::set_no_new_privs().map_err(StepError::system("set no-new-privs"))
}

/// No core files: they would hold guest data.
pub(crate) fn no_core_files() -> Layer {
    lower("core size", Resource::RLIMIT_CORE, 0)
}

/// At most that many descriptors: a frontend sends some with most messages.
pub(crate) fn descriptors(most: u64) -> Layer {
    lower("descriptor limit", Resource::RLIMIT_NOFILE, most)
}

/// No file grows beyond `bytes`: the second fence behind a quota that the program counts itself.
pub(crate) fn file_size(bytes: u64) -> Layer {
    lower("file size", Resource::RLIMIT_FSIZE, bytes)
}

/// The process's address space, and so its memory, grows to `bytes` at most.
pub(crate) fn memory(bytes: u64) -> Layer {
    lower("memory limit", Resource::RLIMIT_AS, bytes)
}

/// No further process or thread: the second fence behind the filter, which has no clone.
pub(crate) fn no_new_processes() -> Layer {
    lower("process limit", Resource::RLIMIT_NPROC, 0)
}

/// Lowers a limit, soft and hard, and reads it back. A state, not an act: a limit that is low enough already is fine, also where
/// setting one is forbidden.
fn lower(name: &'static str, resource: Resource, most: u64) -> Layer {
    let outcome = try_lower(resource, most);
    let result = match (getrlimit(resource), outcome) {
        (Ok((soft, hard)), _) if soft <= most && hard <= most => Ok(format!("{resource:?} = {hard}")),
        (Ok((soft, hard)), Ok(())) => Err(format!("{resource:?} is still {soft} (hard: {hard})")),
        (Ok((_, hard)), Err(errno)) => Err(format!("{resource:?} stays {hard}: {errno}")),
        (Err(errno), _) => Err(format!("cannot read {resource:?}: {errno}")),
    };
    Layer::where_permitted(name, result)
}

/// Lowers a limit; never raises one.
fn try_lower(resource: Resource, most: u64) -> Result<(), Errno> {
    let (_, hard) = getrlimit(resource)?;
    let wanted = most.min(hard);
    setrlimit(resource, wanted, wanted)
}

/// Memory never becomes code, where the kernel knows how (Linux 6.3).
pub(crate) fn refuse_exec_gain() -> Layer {
    let set = sys::refuse_exec_gain();
    let result = match (sys::refuses_exec_gain(), set) {
        (Ok(true), _) => Ok("PR_GET_MDWE = 1: no mapping gains the right to execute".to_owned()),
        (Ok(false) | Err(_), Err(errno)) => Err(format!("PR_SET_MDWE: {errno}")),
        (Ok(false) | Err(_), Ok(())) => Err("PR_GET_MDWE does not confirm it".to_owned()),
    };
    Layer::where_permitted("memory never code", result)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SIGURG does nothing to a process that does not expect it.
    const HARMLESS: Option<ParentDeath> = Some(ParentDeath { signal: Signal::SIGURG });

    #[test]
    fn a_parent_that_died_meanwhile_is_noticed() {
        let bond = Bond {
            parent: Pid::from_raw(i32::MAX),
            death: HARMLESS,
        };

        assert!(matches!(bond.tie(), Err(StepError::ParentGone)));
    }

    #[test]
    fn a_bond_that_was_undone_is_noticed() {
        let bond = Bond::to_parent(HARMLESS);
        bond.tie().unwrap();
        assert!(bond.read_back().unwrap().is_some());

        prctl::set_pdeathsig(None).unwrap();

        assert!(matches!(bond.read_back(), Err(StepError::NotInForce { .. })));
    }

    #[test]
    fn a_limit_that_is_low_enough_counts() {
        let (_, hard) = getrlimit(Resource::RLIMIT_MEMLOCK).unwrap();

        let layer = lower("locked memory", Resource::RLIMIT_MEMLOCK, hard);

        assert!(layer.achieved, "{layer:?}");
    }
}
