//! A thread that exists before the filter does, proves what confines it, and then waits to be let go.
//!
//! ```text
//! start: reads back what it inherited -> narrow: its own filter on top, read back -> go: its work, which never ends
//! ```
//!
//! It does not know what the work is.

use policy::seccomp::Filter;
use policy::{StepError, ThreadEvidence};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;
use thiserror::Error;

/// How long a thread may take to say what confines it. It has nothing else to do; a guess for a host that is busy.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a thread is not ready.
#[derive(Debug, Error)]
pub(crate) enum ThreadError {
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
        source: StepError,
    },
    #[error("the thread {name} said nothing about its confinement")]
    Silent { name: String },
}

/// What a parked thread is told to do.
#[derive(Debug)]
enum Order {
    Narrow(Filter),
    Go,
}

/// Where thread and owner leave each other messages, one at a time.
#[derive(Debug, Default)]
struct Desk {
    papers: Mutex<Papers>,
    news: Condvar,
}

/// See [`Desk`].
#[derive(Debug, Default)]
struct Papers {
    order: Option<Order>,
    answer: Option<Result<ThreadEvidence, StepError>>,
}

impl Desk {
    fn papers(&self) -> MutexGuard<'_, Papers> {
        self.papers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give(&self, order: Order) {
        self.papers().order = Some(order);
        self.news.notify_all();
    }

    fn answer(&self, answer: Result<ThreadEvidence, StepError>) {
        self.papers().answer = Some(answer);
        self.news.notify_all();
    }

    fn take_order(&self) -> Order {
        let mut papers = self.papers();
        loop {
            if let Some(order) = papers.order.take() {
                return order;
            }
            papers = self.news.wait(papers).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn take_answer(&self) -> Option<Result<ThreadEvidence, StepError>> {
        let papers = self.papers();
        let (mut papers, _) = self
            .news
            .wait_timeout_while(papers, PATIENCE, |papers| papers.answer.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        papers.answer.take()
    }
}

/// A thread that waits, as its owner knows it.
#[derive(Debug)]
pub(crate) struct Parked {
    name: String,
    desk: Arc<Desk>,
}

impl Parked {
    /// Starts a thread that will do `work` when it is let go.
    ///
    /// # Errors
    /// There is no thread, or it does not find itself confined.
    pub(crate) fn start(name: String, work: impl FnOnce() + Send + 'static) -> Result<Self, ThreadError> {
        let desk = Arc::new(Desk::default());
        let body = {
            let (name, desk) = (name.clone(), Arc::clone(&desk));
            move || {
                if live(&name, &desk).is_some() {
                    work();
                }
            }
        };
        let started = thread::Builder::new().name(name.clone()).spawn(body);
        if let Err(source) = started {
            return Err(ThreadError::Start { name, source });
        }
        let parked = Self { name, desk };
        parked.evidence()?;
        Ok(parked)
    }

    /// Has the thread put `filter` over the process's, and prove it.
    ///
    /// # Errors
    /// It could not, or said nothing.
    pub(crate) fn narrow(&self, filter: Filter) -> Result<ThreadEvidence, ThreadError> {
        self.desk.give(Order::Narrow(filter));
        self.evidence()
    }

    /// Lets the thread go.
    pub(crate) fn go(self) {
        self.desk.give(Order::Go);
    }

    fn evidence(&self) -> Result<ThreadEvidence, ThreadError> {
        let name = || self.name.clone();
        match self.desk.take_answer() {
            Some(Ok(evidence)) => Ok(evidence),
            Some(Err(source)) => Err(ThreadError::Unconfined { name: name(), source }),
            None => Err(ThreadError::Silent { name: name() }),
        }
    }
}

/// The thread until it is let go; `None` if it cannot be: whoever gets the answer then ends the process.
fn live(name: &str, desk: &Desk) -> Option<()> {
    let mut evidence = match policy::read_back_thread(name) {
        Ok(evidence) => evidence,
        Err(error) => {
            desk.answer(Err(error));
            return None;
        }
    };
    desk.answer(Ok(evidence.clone()));
    loop {
        match desk.take_order() {
            Order::Narrow(filter) => {
                let narrowed = evidence.narrow(&filter);
                desk.answer(narrowed.map(|()| evidence.clone()));
            }
            Order::Go => return Some(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_is_not_confined_is_not_let_go() {
        let (sender, receiver) = std::sync::mpsc::channel();

        let refused = Parked::start("loose".into(), move || sender.send(()).unwrap()).unwrap_err();

        assert!(matches!(refused, ThreadError::Unconfined { .. }), "{refused}");
        receiver.recv().unwrap_err();
    }
}
