//! The desk at which the control thread leaves orders for the saver, and sees what becomes of them.
//!
//! A save is called off until its output is whole and on its medium: from then on the answer is that there is none. So a save
//! that was called off never ends as done. Knows nothing of disks and outputs.

use crate::bell::Bell;
use crate::events::Events;
use protocol::control::{SaveState, SaveStatus};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What to save, and where to.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) sent: OwnedFd,
    pub(super) format: Format,
}

#[derive(Debug)]
pub(super) enum Format {
    Raw,
    Delta { backing: String },
}

/// What the control thread and the saver share.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) bell: Arc<Bell>,
    pub(super) events: Arc<Events>,
    /// Set only while the papers are held, and not once the save is settled.
    pub(super) called_off: AtomicBool,
    /// Bytes of the disk that are dealt with.
    pub(super) done: AtomicU64,
    papers: Mutex<Papers>,
}

#[derive(Debug, Default)]
pub(super) struct Papers {
    pub(super) order: Option<Order>,
    /// How the save is, or how the last one was.
    pub(super) save: Option<SaveStatus>,
    /// And the one before.
    pub(super) previous: Option<SaveStatus>,
    /// It is too late to call the save off.
    pub(super) settled: bool,
    /// A reset left something to give back.
    pub(super) leftover: bool,
}

impl Papers {
    /// Whether there is a save.
    pub(super) fn is_running(&self) -> bool {
        self.save.as_ref().is_some_and(|save| save.state == SaveState::Running)
    }
}

impl Desk {
    /// Without an order.
    pub(super) fn new(bell: Arc<Bell>, events: Arc<Events>) -> Self {
        Self {
            bell,
            events,
            called_off: AtomicBool::new(false),
            done: AtomicU64::new(0),
            papers: Mutex::default(),
        }
    }

    /// Calls the save off, if there is one and it is not too late.
    pub(super) fn call_off(&self) -> bool {
        let papers = self.papers();
        let possible = papers.is_running() && !papers.settled;
        if possible {
            self.called_off.store(true, Ordering::Relaxed);
        }
        possible
    }

    /// From here on the save is not called off any more: whether it was.
    pub(super) fn settle(&self) -> bool {
        let mut papers = self.papers();
        papers.settled = true;
        self.called_off.load(Ordering::Relaxed)
    }

    pub(super) fn papers(&self) -> MutexGuard<'_, Papers> {
        self.papers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desk() -> Desk {
        let save = SaveStatus {
            number: 1,
            state: SaveState::Running,
            done_bytes: 0,
            total_bytes: 4096,
            pause_us: 0,
        };
        let desk = Desk::new(Arc::new(Bell::new().unwrap()), Arc::new(Events::new().unwrap()));
        desk.papers().save = Some(save);
        desk
    }

    #[test]
    fn what_was_called_off_does_not_end_as_done_and_what_is_done_is_not_called_off() {
        let desk = desk();
        assert!(desk.call_off());
        assert!(desk.settle());

        let desk = self::desk();
        assert!(!desk.settle());
        assert!(!desk.call_off());
        assert!(!desk.settle());
    }
}
