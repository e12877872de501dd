//! A guest without a processor: a vhost-user frontend that shakes hands with any backend and starts one [`Ring`].
//!
//! It is the same for ours and for the peers, and acks the same features everywhere.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use ::tests::memory::GuestMemory;
use ::tests::raw::{addresses, tell_memory};
use ::tests::rng::Rng;
use ::tests::spec::PROTOCOL_FEATURES;
use ::tests::wire::{Wire, code, longs, words};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::failure::Failure;
use crate::ring::{AVAIL, Mode, Op, Ring, SIZE, TABLE, USED};

/// `VIRTIO_F_VERSION_1` and `VIRTIO_RING_F_EVENT_IDX`.
const FEATURES: u64 = 1 << 32 | 1 << 29;
/// MQ, REPLY_ACK, CONFIG: what both sides of any backend have.
const PROTOCOL: u64 = 1 | 1 << 3 | 1 << 9;

/// The longest request.
pub(crate) const LONGEST: u32 = 128 << 10;

/// How often a sleeping driver is woken for nothing, to see whether it sleeps for ever.
const WATCH: Duration = Duration::from_secs(5);

/// A guest that is connected to nothing yet: memory and a queue.
#[derive(Debug)]
pub(crate) struct Guest {
    ring: Ring,
}

impl Guest {
    /// A new one. Every page of its memory is there before anything is measured, and what it writes is no run of zeros.
    pub(crate) fn new() -> Result<Self, Failure> {
        let memory = GuestMemory::sealed(Ring::memory_for(LONGEST));
        let len = usize::try_from(memory.len()).expect("usize has 64 bits on every supported target");
        memory.write(0, &vec![0; 1 << 20]);
        memory.write(1 << 20, &Rng::new(1).bytes(len - (1 << 20)));
        let eventfd = || EventFd::from_flags(EfdFlags::EFD_CLOEXEC).map_err(Failure::while_doing("make an eventfd"));
        let mut ring = Ring::new(Arc::new(memory), eventfd()?, eventfd()?);
        ring.set_len(4096);
        Ok(Self { ring })
    }

    /// Connects, gives guest memory, and starts the queue.
    pub(crate) fn connect(self, stream: UnixStream) -> Result<Disk, Failure> {
        let wire = Wire::over(stream);
        shake_hands(&wire, &self.ring).map_err(Failure::while_doing("connect the disk"))?;
        let call = self.ring.call.as_fd().try_clone_to_owned();
        let call = call.map_err(Failure::while_doing("duplicate an eventfd"))?;
        Ok(Disk {
            ring: self.ring,
            _wire: wire,
            _watch: watch(call),
        })
    }
}

/// A connected disk.
#[derive(Debug)]
pub(crate) struct Disk {
    ring: Ring,
    /// The connection lives as long as the disk.
    _wire: Wire,
    /// The watchdog ends when this goes.
    _watch: Sender<()>,
}

impl Disk {
    /// The queue, with requests of `len` bytes.
    pub(crate) fn ring(&mut self, len: u32) -> &mut Ring {
        if self.ring.len() != len {
            self.ring.set_len(len);
        }
        &mut self.ring
    }

    /// One read of the first sector, answered.
    pub(crate) fn read_first(&mut self) -> Result<(), Failure> {
        let mut once = Some(Op {
            offset: 0,
            write: false,
        });
        self.ring
            .run(1, Mode::Eventfd, Duration::from_secs(60), || once.take())?;
        Ok(())
    }
}

fn shake_hands(wire: &Wire, ring: &Ring) -> std::io::Result<()> {
    wire.send(code::SET_OWNER, 0, &[], &[])?;
    let offered = wire.ask(code::GET_FEATURES, &[])?.number();
    let wanted = FEATURES | PROTOCOL_FEATURES;
    if offered & wanted != wanted {
        return Err(std::io::Error::other(
            "the backend lacks VERSION_1, EVENT_IDX or PROTOCOL_FEATURES",
        ));
    }
    let protocol = wire.ask(code::GET_PROTOCOL_FEATURES, &[])?.number() & PROTOCOL;
    wire.send(code::SET_PROTOCOL_FEATURES, 0, &longs(&[protocol]), &[])?;
    wire.send(code::SET_FEATURES, 0, &longs(&[wanted]), &[])?;
    tell_memory(wire, &ring.memory);
    start_ring(wire, ring)?;
    // Some backends make it non-blocking, for everybody who has it. The driver sleeps in a read, whoever the backend is.
    fcntl(&ring.call, FcntlArg::F_SETFL(OFlag::empty()))?;
    Ok(())
}

fn start_ring(wire: &Wire, ring: &Ring) -> std::io::Result<()> {
    let tell = |code, body: &[u8], fd: Option<&EventFd>| {
        let fds: Vec<_> = fd.iter().map(AsFd::as_fd).collect();
        match wire.tell(code, body, &fds)? {
            0 => Ok(()),
            no => Err(std::io::Error::other(format!(
                "the backend refuses message {code}: {no}"
            ))),
        }
    };
    tell(code::SET_VRING_NUM, &words(&[0, u32::from(SIZE)]), None)?;
    tell(code::SET_VRING_BASE, &words(&[0, 0]), None)?;
    tell(code::SET_VRING_ADDR, &addresses(0, TABLE, USED, AVAIL), None)?;
    tell(code::SET_VRING_CALL, &longs(&[0]), Some(&ring.call))?;
    tell(code::SET_VRING_KICK, &longs(&[0]), Some(&ring.kick))?;
    tell(code::SET_VRING_ENABLE, &words(&[0, 1]), None)
}

fn watch(call: OwnedFd) -> Sender<()> {
    let (sender, ended) = channel::<()>();
    thread::spawn(move || {
        while ended.recv_timeout(WATCH) == Err(RecvTimeoutError::Timeout) {
            // A full eventfd is no sleeper's.
            let _ = nix::unistd::write(&call, &1_u64.to_ne_bytes());
        }
    });
    sender
}
