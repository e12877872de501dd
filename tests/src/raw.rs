//! A driver that can say what no driver would, behind a frontend that is honest as long as nobody interferes.
//!
//! [`RawDisk`] negotiates, gives memory, starts rings, and runs proper requests. But every table, index and address
//! of its rings ([`crate::ring`] has the plan of memory) can be written over before the kick.
//!
//! The helper sees the memory at two addresses: rings are named by the frontend's address (as vhost-user has it),
//! everything in descriptors by the guest's. They differ here, so that mixing them up shows.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::eventfd::EventFd;

use crate::memory::{GUEST_BASE, GuestMemory};
use crate::wire::{Wire, code, longs, words};

pub use crate::ring::{DATA, MEMORY, RawRing, SMALL, Used, signalled};
pub use crate::spec::{
    DISCARD, Desc, FLUSH, GET_ID, IN, INDIRECT, IOERR, NEXT, OK, OUT, PROTOCOL, PROTOCOL_FEATURES, UNSUPP, UNTOUCHED,
    WRITE, WRITE_ZEROES, linked, request_header, zero_segment,
};

/// Where the frontend claims to have mapped the memory.
pub const FRONTEND_BASE: u64 = 0x6000_0000_0000;

/// Where a request's status byte is.
pub const STATUS: u64 = SMALL + 0x100;

/// A frontend with its guest, connected and serving.
#[derive(Debug)]
pub struct RawDisk {
    /// The connection.
    pub wire: Wire,
    /// The guest's memory.
    pub memory: GuestMemory,
    /// Its running rings.
    pub rings: Vec<RawRing>,
}

impl RawDisk {
    /// Connects, acks all features, gives sealed memory, and starts `rings` rings of `size`.
    ///
    /// # Panics
    ///
    /// If the helper refuses any of it.
    #[must_use]
    pub fn start(socket: &Path, rings: u32, size: u16) -> Self {
        Self::start_with(patient(socket), GuestMemory::sealed(MEMORY), rings, size)
    }

    /// As [`Self::start`], over a connection that said nothing yet and with memory of at least [`MEMORY`] bytes.
    ///
    /// # Panics
    ///
    /// If the helper refuses any of it.
    #[must_use]
    pub fn start_with(wire: Wire, memory: GuestMemory, rings: u32, size: u16) -> Self {
        let disk = Self::prepare_with(wire, memory, rings, size);
        for index in 0..disk.rings.len() {
            disk.start_ring(index, 0);
        }
        disk
    }

    /// Connects and gives memory, but starts no ring: `size` is only what [`Self::start_ring`] will say.
    ///
    /// # Panics
    ///
    /// If the helper refuses any of it.
    #[must_use]
    pub fn prepare(socket: &Path, rings: u32, size: u16) -> Self {
        Self::prepare_with(patient(socket), GuestMemory::sealed(MEMORY), rings, size)
    }

    /// As [`Self::prepare`], over a connection that said nothing yet and with memory of at least [`MEMORY`] bytes.
    ///
    /// # Panics
    ///
    /// If the helper refuses any of it.
    #[must_use]
    pub fn prepare_with(wire: Wire, memory: GuestMemory, rings: u32, size: u16) -> Self {
        negotiate(&wire);
        tell_memory(&wire, &memory);
        let rings = (0..rings).map(|index| RawRing::new(index, size)).collect();
        Self { wire, memory, rings }
    }

    /// Tells all about ring `index`, and enables it.
    ///
    /// # Panics
    ///
    /// If the helper refuses.
    pub fn start_ring(&self, index: usize, base: u32) {
        assert_eq!(self.try_start_ring(index, base), None, "ring {index} from base {base}");
    }

    /// As [`Self::start_ring`]; the message that the helper refused, or at which it left, if there was one.
    #[must_use]
    pub fn try_start_ring(&self, index: usize, base: u32) -> Option<u32> {
        let ring = &self.rings[index];
        let number = longs(&[u64::from(ring.index())]);
        let messages: [(u32, Vec<u8>, Option<&EventFd>); 7] = [
            (
                code::SET_VRING_NUM,
                words(&[ring.index(), u32::from(ring.size())]),
                None,
            ),
            (code::SET_VRING_BASE, words(&[ring.index(), base]), None),
            (
                code::SET_VRING_ADDR,
                addresses(ring.index(), ring.table(), ring.used_ring(), ring.avail_ring()),
                None,
            ),
            (code::SET_VRING_CALL, number.clone(), Some(&ring.call)),
            (code::SET_VRING_ERR, number.clone(), Some(&ring.err)),
            (code::SET_VRING_KICK, number, Some(&ring.kick)),
            (code::SET_VRING_ENABLE, words(&[ring.index(), 1]), None),
        ];
        messages.iter().find_map(|(code, body, fd)| {
            let fds: Vec<_> = fd.iter().map(AsFd::as_fd).collect();
            (self.wire.tell(*code, body, &fds).ok() != Some(0)).then_some(*code)
        })
    }

    /// Gives the guest, with its rings as they are, to a new connection; the old one is closed.
    ///
    /// # Panics
    ///
    /// If the helper refuses.
    #[must_use]
    pub fn reconnect(self, socket: &Path) -> Self {
        let Self { wire, memory, rings } = self;
        drop(wire);
        let wire = patient(socket);
        negotiate(&wire);
        tell_memory(&wire, &memory);
        Self { wire, memory, rings }
    }

    /// Runs a chain whose descriptors begin at entry 0 of ring 0's table, and what came back for it.
    ///
    /// # Panics
    ///
    /// If nothing comes back, or something else.
    pub fn run(&mut self, table: &[Desc]) -> Used {
        let Self { memory, rings, .. } = self;
        rings[0].put(memory, 0, table);
        rings[0].publish(memory, &[0]);
        rings[0].kick();
        let used = rings[0].wait_used(memory, 1);
        assert_eq!(used.len(), 1, "one chain, one answer");
        assert_eq!(used[0].head, 0, "the head that was made available");
        used[0]
    }

    /// Puts a flush into every ring as chain 0. What it answers nobody looks at.
    pub fn set_up_flush(&self) {
        self.memory.write(SMALL, &request_header(FLUSH, 0));
        let chain = linked(&[Desc::readable(SMALL, 16), Desc::writable(STATUS, 1)]);
        for ring in &self.rings {
            ring.put(&self.memory, 0, &chain);
        }
    }

    /// Makes chain 0 of ring 0 available so often, and kicks once.
    pub fn publish_and_kick(&mut self, count: usize) {
        self.rings[0].publish(&self.memory, &vec![0; count]);
        self.rings[0].kick();
    }

    /// An honest request: `body` for the device to read, room for `room` bytes from it. The status byte, the used
    /// length, and what it wrote.
    ///
    /// # Panics
    ///
    /// If it is not answered.
    pub fn request(&mut self, kind: u32, sector: u64, body: &[u8], room: u32) -> (u8, u32, Vec<u8>) {
        let room_at = DATA + (8 << 20);
        self.memory.write(SMALL, &request_header(kind, sector));
        self.memory.write(STATUS, &[UNTOUCHED]);
        self.memory.write(DATA, body);
        let mut descs = vec![Desc::readable(SMALL, 16)];
        if !body.is_empty() {
            descs.push(Desc::readable(
                DATA,
                u32::try_from(body.len()).expect("bodies are small"),
            ));
        }
        if room > 0 {
            descs.push(Desc::writable(room_at, room));
        }
        descs.push(Desc::writable(STATUS, 1));
        let used = self.run(&linked(&descs));
        let written = self.memory.read(room_at, usize::try_from(room).expect("room is a u32"));
        (self.memory.byte(STATUS), used.len, written)
    }

    /// Checks that the next good request works.
    ///
    /// # Panics
    ///
    /// If it does not.
    pub fn assert_serves(&mut self) {
        let (status, len, _) = self.request(IN, 0, &[], 512);
        assert_eq!((status, len), (OK, 513), "an honest read");
    }
}

/// Connects, again and again while the helper turns the connection away because it is still busy with the last.
///
/// # Panics
///
/// If that does not end within five seconds.
#[must_use]
pub fn patient(socket: &Path) -> Wire {
    let begun = Instant::now();
    loop {
        let wire = Wire::connect(socket);
        if wire.ask(code::GET_FEATURES, &[]).is_ok() {
            return wire;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "the helper takes no connection"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// SET_OWNER, and all offered features acked.
///
/// # Panics
///
/// If the helper refuses, or does not offer what this crate builds on.
pub fn negotiate(wire: &Wire) {
    wire.send(code::SET_OWNER, 0, &[], &[])
        .expect("the helper takes SET_OWNER");
    let offered = wire
        .ask(code::GET_FEATURES, &[])
        .expect("GET_FEATURES is answered")
        .number();
    let protocol = wire
        .ask(code::GET_PROTOCOL_FEATURES, &[])
        .expect("it is answered")
        .number();
    assert_ne!(
        offered & PROTOCOL_FEATURES,
        0,
        "the vhost-user extension bit is offered"
    );
    wire.send(code::SET_PROTOCOL_FEATURES, 0, &longs(&[protocol]), &[])
        .expect("the helper takes its own offer");
    wire.send(code::SET_FEATURES, 0, &longs(&[offered]), &[])
        .expect("the helper takes its own offer");
}

/// SET_MEM_TABLE with the whole of `memory` as one region.
///
/// # Panics
///
/// If the helper refuses.
pub fn tell_memory(wire: &Wire, memory: &GuestMemory) {
    let mut body = words(&[1, 0]);
    body.extend(region(GUEST_BASE, memory.len(), FRONTEND_BASE, 0));
    let told = wire.tell(code::SET_MEM_TABLE, &body, &[memory.as_fd()]);
    assert_eq!(told.expect("it is answered"), 0, "one sound region is accepted");
}

/// A memory region as messages have it.
#[must_use]
pub fn region(guest: u64, size: u64, frontend: u64, offset: u64) -> Vec<u8> {
    longs(&[guest, size, frontend, offset])
}

/// The body of SET_VRING_ADDR, of offsets in guest memory.
#[must_use]
pub fn addresses(index: u32, table: u64, used: u64, avail: u64) -> Vec<u8> {
    let mut body = words(&[index, 0]);
    body.extend(longs(&[
        FRONTEND_BASE + table,
        FRONTEND_BASE + used,
        FRONTEND_BASE + avail,
        0,
    ]));
    body
}
