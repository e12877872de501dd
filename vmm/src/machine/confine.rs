//! From a process as it was started to one that may run a guest: the order is in the types.
//!
//! ```text
//! prepare -> open -> enter -> seal (threads start here) -> narrow (each thread for itself) -> the report
//! ```
//!
//! It does not know what a machine is: whatever is [`Crewed`] goes through these steps, and `check` sends something else through
//! them.

use super::thread::{Parked, ThreadError};
use crate::contract::MachineExit;
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::Signal;
use policy::seccomp::vmm::{Role, VmmDescriptors};
use policy::signals;
use policy::{
    Confined, Descriptors, EnterSpec, ParentDeath, PrepareSpec, Prepared, SealError, StepError, User, logging,
};
use std::error::Error;
use std::mem::ManuallyDrop;
use std::os::fd::RawFd;
use thiserror::Error;

/// What can be sealed: it lists its descriptors, and its threads wait to be told what they may do.
pub(crate) trait Crewed: Descriptors {
    /// The descriptors that the filters name.
    fn named(&self) -> VmmDescriptors;

    /// Every thread but the control thread (the calling one), and what kind it is.
    fn threads(&self) -> Vec<(Role, &Parked)>;
}

/// What the process keeps and becomes.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    /// Inherited descriptors above 2 that stay open.
    pub(crate) keep: Vec<RawFd>,
    /// Descriptors that may be open at a time.
    pub(crate) descriptors: u64,
    /// Whom root becomes: uid and gid.
    pub(crate) user: (u32, u32),
}

/// Why the process cannot run a guest.
#[derive(Debug, Error)]
pub(crate) enum ConfineError {
    #[error("cannot arrange for signals")]
    Signals(#[source] Errno),
    #[error("cannot prepare the confinement")]
    Prepare(#[source] StepError),
    #[error("{needed} descriptors are needed, and {allowed} are allowed; raise the limit on open files (ulimit -n)")]
    Descriptors { allowed: u64, needed: u64 },
    #[error("cannot open what the machine needs")]
    Open(#[source] Box<dyn Error>),
    #[error("cannot confine the process")]
    Enter(#[source] StepError),
    #[error("cannot build the machine")]
    Start(#[source] Box<dyn Error>),
    #[error("cannot seal the process")]
    Seal(#[source] Box<dyn Error>),
    #[error("cannot confine every thread")]
    Thread(#[source] ThreadError),
}

impl ConfineError {
    /// What it means for whoever started the process.
    pub(crate) fn exit(&self) -> MachineExit {
        match self {
            Self::Prepare(StepError::ParentGone) | Self::Enter(StepError::ParentGone) => MachineExit::ParentGone,
            Self::Descriptors { .. } | Self::Open(_) | Self::Start(_) => MachineExit::CannotStart,
            Self::Signals(_) | Self::Prepare(_) | Self::Enter(_) | Self::Seal(_) | Self::Thread(_) => {
                MachineExit::NotConfined
            }
        }
    }
}

/// Confines the process, with what `open` opened and `start` made of it inside. All threads have their own filters when it
/// returns, and still wait.
///
/// # Errors
/// [`ConfineError`].
pub(crate) fn confine<R, S, O, E>(
    terms: &Terms,
    open: impl FnOnce(&Prepared) -> Result<R, O>,
    start: impl FnOnce(R) -> Result<S, E>,
) -> Result<Confined<S>, ConfineError>
where
    R: Descriptors,
    S: Crewed,
    O: Error + 'static,
    E: Error + 'static,
{
    let mut confined = seal(terms, open, start)?;
    if let Err(error) = narrow(&mut confined) {
        // The filter has no call for closing anything: dropped, this would end the process before it can say why.
        let _kept = ManuallyDrop::new(confined);
        return Err(error);
    }
    Ok(confined)
}

/// The same without the threads' own filters.
///
/// # Errors
/// [`ConfineError`].
pub(crate) fn seal<R, S, O, E>(
    terms: &Terms,
    open: impl FnOnce(&Prepared) -> Result<R, O>,
    start: impl FnOnce(R) -> Result<S, E>,
) -> Result<Confined<S>, ConfineError>
where
    R: Descriptors,
    S: Crewed,
    O: Error + 'static,
    E: Error + 'static,
{
    // Before anything that sends one of them can happen.
    arrange_ends().map_err(ConfineError::Signals)?;
    let prepared = policy::prepare(&PrepareSpec {
        keep: terms.keep.clone(),
        max_descriptors: terms.descriptors,
        // No signal with a handler: who has taken this process over could spoil that, and one that is stopped would not hear it.
        die_with_parent: Some(ParentDeath {
            signal: Signal::SIGKILL,
        }),
    })
    .map_err(ConfineError::Prepare)?;
    let needed = terms.descriptors;
    let allowed = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
    if allowed < needed {
        return Err(ConfineError::Descriptors { allowed, needed });
    }

    let resources = open(&prepared).map_err(|error| ConfineError::Open(Box::new(error)))?;
    let (uid, gid) = terms.user;
    let spec = EnterSpec {
        user: User { uid, gid },
        // It writes no file, but its log may be one.
        file_size_limit: Some(logging::room_for_log()),
        // KVM makes a thread in this process when the guest first runs (Linux 6.14).
        no_new_processes: false,
    };
    let sealed = prepared
        .enter(resources, &spec)
        .map_err(ConfineError::Enter)?
        .seal(|resources, _| start(resources), |crewed| crewed.named().common_filter());
    sealed.map_err(|error| {
        if let SealError::Start(error) = error {
            ConfineError::Start(Box::new(error))
        } else {
            ConfineError::Seal(Box::new(error))
        }
    })
}

/// Puts its own filter over each thread, this one last.
fn narrow<S: Crewed>(confined: &mut Confined<S>) -> Result<(), ConfineError> {
    let named = confined.get().named();
    let evidence = confined
        .get()
        .threads()
        .into_iter()
        .map(|(role, thread)| thread.narrow(named.filter(role)))
        .collect::<Result<Vec<_>, _>>()
        .map_err(ConfineError::Thread)?;
    for thread in evidence {
        confined.add_thread(thread).map_err(ConfineError::Enter)?;
    }
    confined
        .narrow(&named.filter(Role::Control))
        .map_err(ConfineError::Enter)
}

/// The signals by which somebody asks for the end.
const ASKED: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];

/// Every signal that may come has its end. Nothing needs cleaning up: the guest is gone with the process.
fn arrange_ends() -> Result<(), Errno> {
    let told = "mayfly-vmm: info: told to end\n";
    for signal in ASKED {
        signals::exit_on(signal, MachineExit::Told.number(), told)?;
    }
    signals::exit_on(
        Signal::SIGBUS,
        MachineExit::RunFailed.number(),
        "mayfly-vmm: error: the host has no memory left for the guest (SIGBUS); give it less with --memory\n",
    )?;
    signals::exit_on(
        Signal::SIGALRM,
        MachineExit::DiskGone.number(),
        "mayfly-vmm: error: a disk's backend does not answer; if others can reach it too, another VMM may be using \
         it; the guest is stopped\n",
    )?;
    signals::ignore(Signal::SIGPIPE)
}
