//! The one thread that waits for storage, so that workers need not.
//!
//! It reads what is asked of it into memory of no meaning: what counts is that it is in the page cache afterwards, where the
//! worker finds it at its next attempt. It holds no lock meanwhile, and touches neither guest memory nor ring. The kernel
//! fetches what workers missed all at once (their attempts began that); here it is only waited for, in order.

use crate::bell::{Bell, Nudge, Sleep};
use crate::cold::Place;
use crate::disk::Disk;
use crate::staff::Task;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes read at a time: what it copies should stay in a cache.
const PIECE: usize = 64 << 10;

/// Whether storage has delivered what a request asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Delivered(Arc<AtomicBool>);

impl Delivered {
    /// Whether it has.
    pub(crate) fn is_true(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// What one request waits for, and whom to tell.
#[derive(Debug)]
struct Job {
    places: Vec<Place>,
    delivered: Delivered,
    nudge: Arc<Nudge>,
}

/// What is asked of the thread.
#[derive(Debug)]
pub(crate) struct Warmer {
    bell: Arc<Bell>,
    jobs: Mutex<VecDeque<Job>>,
}

impl Warmer {
    /// Nothing yet; `bell` wakes the thread.
    pub(crate) fn new(bell: Arc<Bell>) -> Self {
        Self {
            bell,
            jobs: Mutex::default(),
        }
    }

    /// Asks for `places`, for the ring behind `nudge`. How much can be asked for is bounded by what rings may park.
    pub(crate) fn ask(&self, places: Vec<Place>, nudge: &Arc<Nudge>) -> Delivered {
        let delivered = Delivered::default();
        let job = Job {
            places,
            delivered: delivered.clone(),
            nudge: Arc::clone(nudge),
        };
        self.jobs().push_back(job);
        self.bell.ring();
        delivered
    }

    /// Forgets what the ring behind `nudge` asked for: nobody waits for it any more.
    pub(crate) fn forget(&self, nudge: &Arc<Nudge>) {
        self.jobs().retain(|job| !Arc::ptr_eq(&job.nudge, nudge));
    }

    /// How much is asked for.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.jobs().len()
    }

    fn jobs(&self) -> MutexGuard<'_, VecDeque<Job>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread's task.
#[derive(Debug)]
pub(crate) struct Warming {
    pub(crate) warmer: Arc<Warmer>,
    pub(crate) disk: Arc<Disk>,
}

impl Task for Warming {
    fn run(self, bell: &Bell) -> nix::Result<Infallible> {
        let mut piece = vec![0; PIECE];
        loop {
            bell.wait(Sleep::Endless, |_| {})?;
            loop {
                let Some(job) = self.warmer.jobs().pop_front() else {
                    break;
                };
                for place in &job.places {
                    self.disk.warm(*place, &mut piece);
                }
                job.delivered.0.store(true, Ordering::Release);
                job.nudge.nudge();
            }
        }
    }
}
