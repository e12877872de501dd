//! The control thread's loop: what is typed, what a guest's driver asks of a device, entropy, and disks that hang up.
//!
//! One turn does a bounded piece of each thing that is ready. It waits for nobody but in `epoll`, and, while a device comes to
//! life or stops, for the process that serves it. It knows no protocol: `Keys` knows the console, each device itself.

use super::console::{Console, Keys};
use super::virtio::mmio::Transport;
use super::virtio::{Device, DeviceError};
use crate::contract::MachineExit;
use crate::sys::eventfd;
use log::error;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use policy::logging::chain;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use thiserror::Error;
use vmm_sys_util::eventfd::EventFd;

/// Most events taken at a time; more wait for the next turn.
const EVENTS: usize = 32;

/// What an event is about. Numbers of devices are added to the last two.
const TYPED: u64 = 0;
const ROOM: u64 = 1;
const BELL: u64 = 2;
const KICKED: u64 = 1 << 16;
const HUNG_UP: u64 = 1 << 17;

/// Written whenever something happens, edge-triggered and never read.
const EDGE: EpollFlags = EpollFlags::EPOLLIN.union(EpollFlags::EPOLLET);

/// Why the run ends.
#[derive(Debug, Error)]
enum End {
    #[error("{0} is gone: the process that serves it closed the connection; the guest is stopped")]
    HungUp(String),
    #[error("the guest is stopped")]
    Gone(#[source] DeviceError),
    #[error("cannot wait for what happens; the guest is stopped")]
    Loop(#[source] Errno),
}

/// A device with its registers.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) transport: Arc<Transport>,
    pub(crate) device: Box<dyn Device>,
}

/// What the control thread works with.
#[derive(Debug)]
pub(crate) struct Control {
    epoll: Epoll,
    keys: Keys,
    places: Vec<Place>,
    /// Which devices have more to do than one turn allows.
    busy: Vec<bool>,
}

impl Control {
    /// A loop that brings what is typed to `console`, and does what the drivers of `places` ask for; they ask by writing `bell`.
    ///
    /// # Errors
    /// When `epoll` cannot wait for one of them.
    pub(crate) fn new(console: Console, bell: &EventFd, places: Vec<Place>) -> nix::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(eventfd(&console.room), EpollEvent::new(EDGE, ROOM))?;
        epoll.add(eventfd(bell), EpollEvent::new(EDGE, BELL))?;
        let keys = Keys::new(console.typed, TYPED, console.com1, &epoll)?;
        for (index, place) in (0..).zip(&places) {
            for kick in place.device.kicks() {
                epoll.add(eventfd(kick), EpollEvent::new(EDGE, KICKED + index))?;
            }
            if let Some(connection) = place.device.connection() {
                // Not for messages: those are answers, and whoever asked reads them.
                let hang_up = EpollEvent::new(EpollFlags::EPOLLRDHUP, HUNG_UP + index);
                epoll.add(connection, hang_up)?;
            }
        }
        Ok(Self {
            epoll,
            keys,
            busy: vec![false; places.len()],
            places,
        })
    }

    /// The number of the loop's own descriptor.
    pub(crate) fn number(&self) -> RawFd {
        self.epoll.0.as_raw_fd()
    }

    /// Turns until the run ends, and says why in the log.
    pub(crate) fn run(&mut self) -> MachineExit {
        loop {
            let Err(end) = self.turn() else {
                continue;
            };
            error!("{}", chain(&end));
            return match end {
                End::HungUp(_) | End::Gone(_) => MachineExit::DiskGone,
                End::Loop(_) => MachineExit::RunFailed,
            };
        }
    }

    fn turn(&mut self) -> Result<(), End> {
        let patience = if self.busy.contains(&true) {
            EpollTimeout::ZERO
        } else {
            EpollTimeout::NONE
        };
        let mut events = [EpollEvent::empty(); EVENTS];
        let count = match self.epoll.wait(&mut events, patience) {
            Err(Errno::EINTR) => 0,
            other => other.map_err(End::Loop)?,
        };
        for event in events.iter().take(count) {
            match event.data() {
                TYPED => self.keys.typed(&self.epoll).map_err(End::Loop)?,
                ROOM => self.keys.room(&self.epoll).map_err(End::Loop)?,
                BELL => self.perform()?,
                hung_up @ HUNG_UP.. => return Err(self.hung_up(hung_up - HUNG_UP)),
                kicked => self.kicked(kicked - KICKED),
            }
        }
        for (busy, place) in self.busy.iter_mut().zip(&mut self.places) {
            *busy = *busy && place.device.serve();
        }
        Ok(())
    }

    /// Does what drivers ask of their devices.
    fn perform(&mut self) -> Result<(), End> {
        for place in &mut self.places {
            place.transport.perform(place.device.as_mut()).map_err(End::Gone)?;
        }
        Ok(())
    }

    fn kicked(&mut self, index: u64) {
        if let Some(busy) = usize::try_from(index).ok().and_then(|index| self.busy.get_mut(index)) {
            *busy = true;
        }
    }

    fn hung_up(&self, index: u64) -> End {
        let place = usize::try_from(index).ok().and_then(|index| self.places.get(index));
        End::HungUp(place.map_or("a disk", |place| place.device.name()).to_owned())
    }
}

#[cfg(test)]
mod tests;
