//! The threads beside the control thread: started before the filter is loaded, and never ending.
//!
//! Each proves what confines it, before the filter and under it. One that could not go on would leave something undone in a
//! live process, so what it cannot handle ends the process.

use crate::bell::{Bell, Came, Sleep};
#[cfg(fuzzing)]
use crate::fuzzing::read_back_thread;
use policy::ThreadEvidence;
#[cfg(not(fuzzing))]
use policy::read_back_thread;
use protocol::launch::ExitCode;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;
use thiserror::Error;

/// How long a thread may take to say what confines it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a thread is not ready.
#[derive(Debug, Error)]
pub(crate) enum StaffError {
    #[error("cannot start the thread {name}")]
    Start {
        name: String,
        #[source]
        source: io::Error,
    },
    #[error("the thread {name} is not confined")]
    Unconfined {
        name: String,
        #[source]
        source: policy::StepError,
    },
    #[error("the thread {name} said nothing about its confinement")]
    Silent {
        name: String,
        #[source]
        source: RecvTimeoutError,
    },
}

/// What a thread does for as long as the process lives; it ends only where it cannot wait for its bell.
pub(crate) trait Task: Send + 'static {
    /// Does it.
    fn run(self, bell: &Bell) -> nix::Result<Infallible>;
}

/// A started thread, as the control thread knows it.
#[derive(Debug)]
pub(crate) struct Member {
    name: String,
    bell: Arc<Bell>,
    evidence: Receiver<Result<ThreadEvidence, policy::StepError>>,
}

impl Member {
    /// Starts the thread `name`, which `bell` wakes.
    ///
    /// # Errors
    /// [`StaffError`].
    pub(crate) fn start(name: String, bell: Arc<Bell>, task: impl Task) -> Result<Self, StaffError> {
        let (tell, evidence) = channel();
        let body = {
            let (name, bell) = (name.clone(), Arc::clone(&bell));
            move || live(&name, &tell, &bell, task)
        };
        thread::Builder::new()
            .name(name.clone())
            .spawn(body)
            .map_err(|source| StaffError::Start {
                name: name.clone(),
                source,
            })?;
        let member = Self { name, bell, evidence };
        member.evidence()?;
        Ok(member)
    }

    /// The thread's alarm.
    pub(crate) fn bell(&self) -> &Bell {
        &self.bell
    }

    /// Asks the thread what confines it now that the filter is loaded.
    ///
    /// # Errors
    /// [`StaffError`].
    pub(crate) fn prove(&self) -> Result<ThreadEvidence, StaffError> {
        self.bell.ring();
        self.evidence()
    }

    fn evidence(&self) -> Result<ThreadEvidence, StaffError> {
        match self.evidence.recv_timeout(PATIENCE) {
            Ok(Ok(evidence)) => Ok(evidence),
            Ok(Err(source)) => Err(StaffError::Unconfined {
                name: self.name.clone(),
                source,
            }),
            Err(source) => Err(StaffError::Silent {
                name: self.name.clone(),
                source,
            }),
        }
    }
}

/// The thread's life: evidence before the filter, evidence under the filter, then its task.
fn live(name: &str, tell: &Sender<Result<ThreadEvidence, policy::StepError>>, bell: &Bell, task: impl Task) {
    let mut evidence = match read_back_thread(name) {
        Ok(evidence) => evidence,
        Err(error) => {
            // Whoever receives this ends the process.
            let _ = tell.send(Err(error));
            return;
        }
    };
    let _ = tell.send(Ok(evidence.clone()));
    // The bell rings once the filter is loaded; nothing else can ring it before.
    let waited = await_bell(bell);
    evidence.seccomp_mode = policy::seccomp_mode().unwrap_or(0);
    let _ = tell.send(Ok(evidence));
    let Err(failed) = waited.and_then(|()| task.run(bell));
    log::error!("{name}: cannot wait for its bell: {failed}");
    policy::signals::exit_now(ExitCode::ServeFailed.number());
}

/// Waits until the bell is rung, whatever else wakes the thread.
fn await_bell(bell: &Bell) -> nix::Result<()> {
    while bell.wait(Sleep::Endless, |_| {})? != Came::Bell {}
    Ok(())
}
