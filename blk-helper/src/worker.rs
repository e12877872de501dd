//! A worker: a thread that drains its rings, for as long as the process lives.
//!
//! It is started before the filter is loaded, proves what confines it, and never ends: a worker that could not go on would
//! leave a queue dead in a live process, so what it cannot handle ends the process.

use crate::bell::{Bell, Came, Patience};
use crate::disk::Disk;
use crate::overlay::Scratch;
use crate::ring::Ring;
use crate::watch::Watch;
use policy::ThreadEvidence;
use protocol::launch::ExitCode;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;
use thiserror::Error;

/// How long a worker may take to say what confines it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why the workers are not ready.
#[derive(Debug, Error)]
pub(crate) enum WorkerError {
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

/// Where a worker stands: what wakes it, and what it watches over, with how many others.
#[derive(Clone, Debug)]
pub(crate) struct Post {
    pub(crate) bell: Arc<Bell>,
    pub(crate) watch: Arc<Watch>,
    pub(crate) watchers: u32,
}

/// A started worker, as the control thread knows it.
#[derive(Debug)]
pub(crate) struct Worker {
    name: String,
    bell: Arc<Bell>,
    evidence: Receiver<Result<ThreadEvidence, policy::StepError>>,
}

impl Worker {
    /// Starts the worker `index` at `post`, for the `rings` whose bell is there.
    ///
    /// # Errors
    /// [`WorkerError`].
    pub(crate) fn start(
        index: usize,
        post: Post,
        rings: Vec<Arc<Ring>>,
        disk: Arc<Disk>,
        scratch: Scratch,
    ) -> Result<Self, WorkerError> {
        let name = format!("blk-worker{index}");
        let (tell, evidence) = channel();
        let body = {
            let (name, post) = (name.clone(), post.clone());
            move || run(&name, &tell, &post, &rings, &disk, scratch)
        };
        thread::Builder::new()
            .name(name.clone())
            .spawn(body)
            .map_err(|source| WorkerError::Start {
                name: name.clone(),
                source,
            })?;
        let worker = Self {
            name,
            bell: post.bell,
            evidence,
        };
        worker.evidence()?;
        Ok(worker)
    }

    /// The worker's alarm.
    pub(crate) fn bell(&self) -> &Bell {
        &self.bell
    }

    /// Asks the worker what confines it now that the filter is loaded.
    ///
    /// # Errors
    /// [`WorkerError`].
    pub(crate) fn prove(&self) -> Result<ThreadEvidence, WorkerError> {
        self.bell.ring();
        self.evidence()
    }

    fn evidence(&self) -> Result<ThreadEvidence, WorkerError> {
        match self.evidence.recv_timeout(PATIENCE) {
            Ok(Ok(evidence)) => Ok(evidence),
            Ok(Err(source)) => Err(WorkerError::Unconfined {
                name: self.name.clone(),
                source,
            }),
            Err(source) => Err(WorkerError::Silent {
                name: self.name.clone(),
                source,
            }),
        }
    }
}

/// The thread's life: evidence before the filter, evidence under the filter, then its rings.
fn run(
    name: &str,
    tell: &Sender<Result<ThreadEvidence, policy::StepError>>,
    post: &Post,
    rings: &[Arc<Ring>],
    disk: &Disk,
    scratch: Scratch,
) {
    let mut evidence = match policy::read_back_thread(name) {
        Ok(evidence) => evidence,
        Err(error) => {
            // Whoever receives this ends the process.
            let _ = tell.send(Err(error));
            return;
        }
    };
    let _ = tell.send(Ok(evidence.clone()));
    // The bell rings once the filter is loaded; nothing else can ring it before.
    let waited = await_bell(&post.bell);
    evidence.seccomp_mode = policy::seccomp_mode().unwrap_or(0);
    let _ = tell.send(Ok(evidence));
    let failed = waited.and_then(|()| serve(post, rings, disk, scratch));
    log::error!("{name}: cannot wait for kicks: {failed:?}");
    policy::signals::exit_now(ExitCode::ServeFailed.number());
}

/// Waits until the bell is rung, whatever else wakes the thread.
fn await_bell(bell: &Bell) -> nix::Result<()> {
    while bell.wait(Patience::Endless, |_| {})? != Came::Bell {}
    Ok(())
}

/// Drains rings for ever, and watches over the control thread while there is nothing to drain.
fn serve(post: &Post, rings: &[Arc<Ring>], disk: &Disk, mut scratch: Scratch) -> nix::Result<()> {
    let mut ready = vec![false; rings.len()];
    loop {
        let patience = if ready.contains(&true) {
            Patience::None
        } else if post.watch.is_on() {
            Patience::Short
        } else {
            Patience::Endless
        };
        let came = post.bell.wait(patience, |kicked| {
            for (ring, ready) in rings.iter().zip(&mut ready) {
                *ready |= ring.index() == kicked;
            }
        })?;
        if came == Came::Nothing && patience == Patience::Short && post.watch.is_overdue(post.watchers) {
            log::error!("a frontend keeps the control thread waiting; the disk is burnt");
            policy::signals::exit_now(ExitCode::Stalled.number());
        }
        for (ring, ready) in rings.iter().zip(&mut ready) {
            if *ready | ring.take_nudge() {
                *ready = ring.turn(disk, &mut scratch);
            }
        }
    }
}
