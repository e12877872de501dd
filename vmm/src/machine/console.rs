//! The console: COM1 between the supervisor's two pipes.
//!
//! What the guest prints goes straight out (`serial`). What is typed comes in at the speed at which the guest reads: while it does
//! not read, the pipe is not looked at, so it fills and holds up who types. It knows nothing of keys.

use super::layout;
use super::serial::Com1;
use super::vm::{Vm, VmError};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::unistd::read;
use policy::{Descriptor, Descriptors};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use thiserror::Error;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Bytes taken from the pipe at a time: what COM1's FIFO holds.
const AT_A_TIME: usize = 64;

/// The console's line to the guest and its pipes: what the supervisor has the other ends of.
#[derive(Debug)]
pub(crate) struct Console {
    /// The guest's end.
    pub(crate) com1: Arc<Com1>,
    /// What is typed comes out of here.
    pub(crate) typed: OwnedFd,
    /// Written by COM1 when there is room for more.
    pub(crate) room: Arc<EventFd>,
    listed: Vec<Descriptor>,
}

impl Console {
    /// Connects COM1, as `vm` has it, to the two pipes.
    ///
    /// # Errors
    /// No more descriptors, or KVM refuses the interrupt line.
    pub(crate) fn new(vm: &Vm, typed: OwnedFd, printed: OwnedFd) -> Result<Self, ConsoleError> {
        let eventfd = || EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).map_err(ConsoleError::Create);
        let (interrupt, room) = (eventfd()?, eventfd()?);
        vm.connect(&interrupt, layout::COM1_GSI)
            .map_err(ConsoleError::Interrupt)?;
        Ok(Self::between(typed, printed, interrupt, room))
    }

    /// COM1 between the two pipes, which interrupts by writing `interrupt` and has `room` to say when there is some.
    pub(super) fn between(typed: OwnedFd, printed: OwnedFd, interrupt: EventFd, room: EventFd) -> Self {
        let listed = [
            (typed.as_raw_fd(), "console, what is typed"),
            (printed.as_raw_fd(), "console, what the guest prints"),
            (interrupt.as_raw_fd(), "console, interrupt"),
            (room.as_raw_fd(), "console, room for more typing"),
        ];
        let listed = listed.map(|(number, what)| Descriptor {
            number,
            what: what.into(),
        });
        let room = Arc::new(room);
        Self {
            com1: Arc::new(Com1::new(printed, interrupt, Arc::clone(&room))),
            typed,
            room,
            listed: listed.into(),
        }
    }
}

impl Descriptors for Console {
    fn descriptors(&self) -> Vec<Descriptor> {
        self.listed.clone()
    }
}

/// Why there is no console.
#[derive(Debug, Error)]
pub(crate) enum ConsoleError {
    #[error("cannot create its eventfds; raise the limit on open files (ulimit -n)")]
    Create(#[source] io::Error),
    #[error("cannot connect it to the guest")]
    Interrupt(#[source] VmError),
}

/// The typing side of the console.
#[derive(Debug)]
pub(crate) struct Keys {
    pipe: OwnedFd,
    /// What the pipe is called in the control loop.
    token: u64,
    com1: Arc<Com1>,
    /// Taken from the pipe and not yet typed.
    held: Vec<u8>,
}

impl Keys {
    /// What comes out of `pipe` is typed into `com1`. The loop shall call [`Keys::typed`] when `token` comes.
    ///
    /// # Errors
    /// When `epoll` cannot wait for the pipe.
    pub(crate) fn new(pipe: OwnedFd, token: u64, com1: Arc<Com1>, epoll: &Epoll) -> nix::Result<Self> {
        let keys = Self {
            pipe,
            token,
            com1,
            held: Vec::with_capacity(AT_A_TIME),
        };
        keys.listen(epoll)?;
        Ok(keys)
    }

    /// Something was typed, or nobody will type any more.
    ///
    /// # Errors
    /// When the loop cannot be changed, which it always can.
    pub(crate) fn typed(&mut self, epoll: &Epoll) -> nix::Result<()> {
        self.held.resize(AT_A_TIME, 0);
        let taken = match read(&self.pipe, &mut self.held) {
            Ok(taken) => taken,
            Err(Errno::EINTR | Errno::EAGAIN) => {
                self.held.clear();
                return Ok(());
            }
            Err(_) => 0,
        };
        self.held.truncate(taken);
        if taken == 0 {
            // The supervisor's end is closed. A closed pipe would be news again at every turn.
            return epoll.delete(&self.pipe);
        }
        self.hand_over();
        if !self.held.is_empty() {
            // Not only masked: the pipe's end would come through a mask, again and again.
            epoll.delete(&self.pipe)?;
        }
        Ok(())
    }

    /// The guest has read what was typed before.
    ///
    /// # Errors
    /// When the loop cannot be changed, which it always can.
    pub(crate) fn room(&mut self, epoll: &Epoll) -> nix::Result<()> {
        if self.held.is_empty() {
            return Ok(());
        }
        self.hand_over();
        if self.held.is_empty() {
            self.listen(epoll)
        } else {
            Ok(())
        }
    }

    fn hand_over(&mut self) {
        let typed = self.com1.type_in(&self.held);
        self.held.drain(..typed);
    }

    fn listen(&self, epoll: &Epoll) -> nix::Result<()> {
        epoll.add(&self.pipe, EpollEvent::new(EpollFlags::EPOLLIN, self.token))
    }
}

#[cfg(test)]
mod tests {
    use super::super::bus::BusDevice;
    use super::*;
    use nix::sys::epoll::{EpollCreateFlags, EpollTimeout};
    use nix::unistd::{pipe, write};
    use std::fs::File;

    const TYPED: u64 = 7;

    struct Desk {
        keys: Keys,
        epoll: Epoll,
        com1: Arc<Com1>,
        typing: Option<OwnedFd>,
        room: Arc<EventFd>,
    }

    fn desk() -> Desk {
        let epoll = Epoll::new(EpollCreateFlags::empty()).unwrap();
        let eventfd = || EventFd::new(EFD_NONBLOCK).unwrap();
        let out = File::options().write(true).open("/dev/null").unwrap().into();
        let (typed, typing) = pipe().unwrap();
        let Console { com1, typed, room, .. } = Console::between(typed, out, eventfd(), eventfd());
        Desk {
            keys: Keys::new(typed, TYPED, Arc::clone(&com1), &epoll).unwrap(),
            epoll,
            com1,
            typing: Some(typing),
            room,
        }
    }

    impl Desk {
        /// Whether the loop has anything to say of the pipe.
        fn is_news(&self) -> bool {
            let mut events = [EpollEvent::empty(); 4];
            self.epoll.wait(&mut events, EpollTimeout::ZERO).unwrap() > 0
        }

        fn guest_reads(&self, count: usize) -> Vec<u8> {
            (0..count)
                .map(|_| {
                    let mut byte = [0];
                    self.com1.read(0, &mut byte);
                    byte[0]
                })
                .collect()
        }
    }

    #[test]
    fn nothing_typed_is_lost_while_the_guest_does_not_read() {
        let mut desk = desk();
        let text: Vec<u8> = (0..200).collect();
        write(desk.typing.as_ref().unwrap(), &text).unwrap();

        let mut seen = Vec::new();
        for _ in 0..100 {
            while desk.is_news() {
                desk.keys.typed(&desk.epoll).unwrap();
            }
            seen.extend(desk.guest_reads(text.len().min(seen.len() + 64) - seen.len()));
            if desk.room.read().is_ok() {
                desk.keys.room(&desk.epoll).unwrap();
            }
        }

        assert_eq!(seen, text);
    }

    #[test]
    fn a_guest_that_does_not_read_leaves_the_loop_silent() {
        let mut desk = desk();
        write(desk.typing.as_ref().unwrap(), &[b'x'; 1000]).unwrap();
        while desk.is_news() {
            desk.keys.typed(&desk.epoll).unwrap();
        }
        assert_eq!(desk.keys.held.len(), 64);

        desk.typing = None;
        assert!(!desk.is_news(), "not even the pipe's end makes the loop turn");
    }

    #[test]
    fn the_end_of_typing_is_news_once() {
        let mut desk = desk();
        desk.typing = None;
        assert!(desk.is_news());
        desk.keys.typed(&desk.epoll).unwrap();
        assert!(!desk.is_news());
    }
}
