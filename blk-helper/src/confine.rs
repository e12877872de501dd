//! From a process as it was started to one that may serve: the order is in the types.
//!
//! ```text
//! prepare -> open -> enter -> seal -> prove
//! ```
//!
//! Nothing can be opened before `prepare`, nothing entered before everything is open, nothing served that is not sealed.

use crate::args::Config;
use crate::environment::Environment;
use crate::resources::{OpenError, Resources, Sources};
use crate::service::{Service, ServiceError};
use crate::staff::StaffError;
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::{SigSet, Signal};
use policy::logging;
use policy::signals;
use policy::{Confined, EnterSpec, ParentDeath, PrepareSpec, SealError, StepError, User};
use protocol::launch::ExitCode;
use thiserror::Error;

/// Why the process cannot serve.
#[derive(Debug, Error)]
pub(crate) enum StartError {
    #[error("cannot prepare the confinement")]
    Prepare(#[source] StepError),
    #[error("cannot arrange for signals")]
    Signals(#[source] Errno),
    #[error("{needed} descriptors are needed, and {allowed} are allowed (ulimit -n)")]
    Descriptors { allowed: u64, needed: u64 },
    #[error("cannot open what is needed")]
    Open(#[source] OpenError),
    #[error("cannot confine the process")]
    Enter(#[source] StepError),
    #[error("cannot seal the process")]
    Seal(#[source] SealError<ServiceError>),
    #[error("cannot prove the confinement")]
    Prove(#[source] StaffError),
}

impl StartError {
    /// What it means for whoever started the process.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Prepare(StepError::ParentGone) | Self::Enter(StepError::ParentGone) => ExitCode::ParentGone,
            Self::Descriptors { .. } | Self::Open(_) | Self::Seal(SealError::Start(_)) => ExitCode::CannotStart,
            Self::Prepare(_) | Self::Signals(_) | Self::Enter(_) | Self::Seal(_) | Self::Prove(_) => {
                ExitCode::NotConfined
            }
        }
    }
}

/// Confines the process, with everything it needs to serve inside.
///
/// # Errors
/// [`StartError`].
pub(crate) fn confine(
    config: &Config,
    environment: &Environment,
    sources: impl FnOnce() -> Result<Sources, OpenError>,
) -> Result<Confined<Service>, StartError> {
    // Reads files of the system, so it must be asked before they are out of reach.
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let needed = descriptors_needed(config, cpus);
    // Before anything that sends one of them can happen.
    let bound = config.die_with_parent || config.fd.is_some() || config.control_fd.is_some();
    arrange_ends().map_err(StartError::Signals)?;
    let prepared = policy::prepare(&PrepareSpec {
        keep: Sources::numbers(config, environment),
        max_descriptors: needed,
        // No signal with a handler: a process that is stopped would not hear it, and keep its overlay.
        die_with_parent: bound.then_some(ParentDeath {
            signal: Signal::SIGKILL,
        }),
    })
    .map_err(StartError::Prepare)?;

    let allowed = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
    if allowed < needed {
        return Err(StartError::Descriptors { allowed, needed });
    }

    let resources = sources()
        .and_then(|sources| Resources::open(&prepared, config, config.workers(cpus), environment, sources))
        .map_err(StartError::Open)?;
    let spec = enter_spec(config, &resources);
    let mut confined = prepared
        .enter(resources, &spec)
        .map_err(StartError::Enter)?
        .seal(
            |resources, _| {
                let service = Service::start(resources, config, cpus)?;
                leave_signals_to_workers();
                Ok(service)
            },
            Service::filter,
        )
        .map_err(StartError::Seal)?;

    for evidence in confined.get().prove().map_err(StartError::Prove)? {
        confined.add_thread(evidence).map_err(StartError::Enter)?;
    }
    Ok(confined)
}

/// What is given up, and what is left, once everything is open.
fn enter_spec(config: &Config, resources: &Resources) -> EnterSpec {
    EnterSpec {
        user: User {
            uid: config.user.uid,
            gid: config.user.gid,
        },
        // Slots are handed out in order, so the file is never longer than what the disk can need. The limit counts for every
        // file: neither a save's output nor a log that standard error was redirected to must be cut by it.
        file_size_limit: resources
            .overlay
            .as_ref()
            .map(|overlay| overlay.file_bytes().max(logging::room_for_log())),
        no_new_processes: true,
    }
}

/// From now on a worker takes the signals that end the process. A frontend may send a descriptor on which this thread then
/// waits in the kernel, deaf to all but SIGKILL.
fn leave_signals_to_workers() {
    let mut signals = SigSet::empty();
    for signal in ASKED {
        signals.add(signal);
    }
    // It fails only for an operation that does not exist.
    let _ = signals.thread_block();
}

/// The signals by which an operator asks for the end.
const ASKED: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];

/// Every signal that may come has its end. Nothing needs cleaning up: the kernel closes the overlay's last descriptor,
/// and that is the burn.
fn arrange_ends() -> Result<(), Errno> {
    let told = "blk-helper: info: told to end; the disk is burnt\n";
    for signal in ASKED {
        signals::exit_on(signal, ExitCode::Burnt.number(), told)?;
    }
    signals::exit_on(
        Signal::SIGBUS,
        ExitCode::GuestMemoryGone.number(),
        "blk-helper: error: guest memory is gone: its file was truncated or has no pages left (SIGBUS); \
         the disk is burnt\n",
    )?;
    signals::ignore(Signal::SIGPIPE)
}

/// Descriptors that can be open at a time: a kick, a call and an err for each queue, two for each worker, what came with
/// the messages in hand (at most 32 a message), eight clients of the control channel, and a few dozen of our own.
fn descriptors_needed(config: &Config, cpus: usize) -> u64 {
    let queues = u64::from(config.num_queues);
    let workers = u64::try_from(config.workers(cpus)).unwrap_or(u64::MAX);
    queues
        .saturating_mul(3)
        .saturating_add(workers.saturating_mul(2))
        .saturating_add(104)
}
