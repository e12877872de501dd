//! What wakes a worker: the kicks of its rings, and a bell of its own.
//!
//! All edge-triggered and never read: each write to an eventfd wakes once more. A kick descriptor belongs to the peer as
//! much as to us, so reading it could block, whatever flags it had when it came.

use crate::watch::LOOK;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Most events taken at a time; more wait for the next round.
const EVENTS: usize = 64;

/// The event that is the bell itself: no ring has this number.
const BELL: u64 = u64::MAX;

/// A worker's alarm.
#[derive(Debug)]
pub(crate) struct Bell {
    epoll: Epoll,
    own: EventFd,
}

impl Bell {
    /// A bell that nothing rings yet.
    ///
    /// # Errors
    /// When the kernel has no more descriptors.
    pub(crate) fn new() -> nix::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let own = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        epoll.add(&own, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, BELL))?;
        Ok(Self { epoll, own })
    }

    /// Its descriptors' numbers.
    pub(crate) fn numbers(&self) -> [RawFd; 2] {
        [self.epoll.0.as_raw_fd(), self.own.as_fd().as_raw_fd()]
    }

    /// Wakes the worker.
    pub(crate) fn ring(&self) {
        // Full only after 2^64 - 2 rings; a full eventfd has woken the worker already.
        let _ = self.own.write(1);
    }

    /// Wakes the worker whenever `kick` is written, for the ring `index`.
    ///
    /// # Errors
    /// When the kernel cannot wait for such a descriptor.
    pub(crate) fn listen(&self, kick: &impl AsFd, index: usize) -> nix::Result<()> {
        let event = EpollEvent::new(
            EpollFlags::EPOLLIN | EpollFlags::EPOLLET,
            u64::try_from(index).unwrap_or(BELL),
        );
        self.epoll.add(kick, event)
    }

    /// Undoes [`Bell::listen`].
    pub(crate) fn ignore(&self, kick: &impl AsFd) {
        // It was added, and this is the only place that removes it.
        let _ = self.epoll.delete(kick);
    }

    /// Waits for the next kicks, at most as long as `sleep` says, and tells `kicked` the ring of each. Says what came.
    ///
    /// # Errors
    /// When waiting fails, which it cannot while the descriptors are ours.
    pub(crate) fn wait(&self, sleep: Sleep, mut kicked: impl FnMut(usize)) -> nix::Result<Came> {
        let mut events = [EpollEvent::empty(); EVENTS];
        let timeout = match sleep {
            Sleep::None => EpollTimeout::ZERO,
            Sleep::Short => EpollTimeout::try_from(LOOK).unwrap_or(EpollTimeout::ZERO),
            // Rounded up, so that the time has come when it is looked at.
            Sleep::AtMost(time) => {
                let millis = time.saturating_add(Duration::from_nanos(999_999)).as_millis();
                EpollTimeout::try_from(millis.min(60_000)).unwrap_or(EpollTimeout::ZERO)
            }
            Sleep::Endless => EpollTimeout::NONE,
        };
        let count = match self.epoll.wait(&mut events, timeout) {
            Err(nix::Error::EINTR) => return Ok(Came::Kicks),
            other => other?,
        };
        if count == 0 {
            return Ok(Came::Nothing);
        }
        let mut rung = false;
        for event in events.iter().take(count) {
            match usize::try_from(event.data()) {
                Ok(index) if event.data() != BELL => kicked(index),
                Ok(_) | Err(_) => rung = true,
            }
        }
        Ok(if rung { Came::Bell } else { Came::Kicks })
    }
}

/// Tells a worker that something happened to one of its rings which no kick announces.
#[derive(Debug)]
pub(crate) struct Nudge {
    bell: Arc<Bell>,
    happened: AtomicBool,
}

impl Nudge {
    /// For a ring of the worker that `bell` wakes.
    pub(crate) fn new(bell: Arc<Bell>) -> Self {
        Self {
            bell,
            happened: AtomicBool::new(false),
        }
    }

    /// Something happened.
    pub(crate) fn nudge(&self) {
        self.happened.store(true, Ordering::Release);
        self.bell.ring();
    }

    /// Whether something happened since the last time this was asked.
    pub(crate) fn take(&self) -> bool {
        self.happened.load(Ordering::Relaxed) && self.happened.swap(false, Ordering::AcqRel)
    }

    /// The worker's alarm.
    pub(crate) fn bell(&self) -> &Bell {
        &self.bell
    }
}

/// How long to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sleep {
    /// Not at all.
    None,
    /// Until the next look at the control thread.
    Short,
    /// Until a ring is to be looked at again.
    AtMost(Duration),
    /// For ever.
    Endless,
}

/// What ended a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Came {
    /// Its time.
    Nothing,
    /// Kicks only.
    Kicks,
    /// The bell itself, perhaps with kicks.
    Bell,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kicked(bell: &Bell) -> Vec<usize> {
        let mut rings = Vec::new();
        bell.wait(Sleep::None, |ring| rings.push(ring)).unwrap();
        rings
    }

    #[test]
    fn every_write_wakes_although_nothing_is_read() {
        let bell = Bell::new().unwrap();
        let kick = EventFd::new().unwrap();
        bell.listen(&kick, 3).unwrap();

        for _ in 0..3 {
            kick.write(1).unwrap();
            assert_eq!(kicked(&bell), [3]);
            assert!(kicked(&bell).is_empty());
        }
    }

    #[test]
    fn an_eventfd_that_was_written_before_wakes_once() {
        let bell = Bell::new().unwrap();
        let kick = EventFd::from_value(1).unwrap();
        bell.listen(&kick, 0).unwrap();
        assert_eq!(kicked(&bell), [0]);
        assert!(kicked(&bell).is_empty());
    }

    #[test]
    fn an_ignored_kick_stays_silent_while_its_peer_keeps_it_open() {
        let bell = Bell::new().unwrap();
        let kick = EventFd::new().unwrap();
        let ours = kick.as_fd().try_clone_to_owned().unwrap();
        bell.listen(&ours, 0).unwrap();

        bell.ignore(&ours);
        drop(ours);
        kick.write(1).unwrap();

        assert!(kicked(&bell).is_empty());
    }

    #[test]
    fn a_regular_file_cannot_be_a_kick() {
        let bell = Bell::new().unwrap();
        bell.listen(&tempfile::tempfile().unwrap(), 0).unwrap_err();
    }
}
