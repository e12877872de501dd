//! One virtqueue as a guest's driver has it: as many requests in flight as wanted, and no allocation or copy for any.
//!
//! Descriptors are written once, before the device looks: request slot *n* owns entries 3*n*, 3*n* + 1 and 3*n* + 2 (header,
//! data, status) for ever. A request then costs six stores, and its completion two loads. Guest memory has this plan:
//!
//! ```text
//!   0         descriptors, 16 bytes each
//!   16 KiB    avail ring
//!   32 KiB    used ring
//!   64 KiB    a cache line for each slot: header at 0, status byte at 16
//!   1 MiB     a data buffer for each slot
//! ```
//!
//! The driver sleeps and notifies as Linux does: `EVENT_IDX` always; the device is asked for a call only before a sleep.
//! It knows no sockets and no workloads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::time::{Duration, Instant};

use ::tests::memory::GuestMemory;
use ::tests::spec::{Desc, IN, NEXT, OK, OUT, UNTOUCHED, WRITE};
use nix::sys::eventfd::EventFd;

/// How many descriptors the queue has; a power of two.
pub(crate) const SIZE: u16 = 128;
/// How many requests can be in flight.
pub(crate) const SLOTS: u16 = SIZE / 3;

pub(crate) const TABLE: u64 = 0;
pub(crate) const AVAIL: u64 = 16 << 10;
pub(crate) const USED: u64 = 32 << 10;
const SMALL: u64 = 64 << 10;
const DATA: u64 = 1 << 20;

/// Where the device says from which request on it wants to be kicked.
pub(crate) const AVAIL_EVENT: u64 = USED + 4 + 8 * (SIZE as u64);
/// Where the driver says from which answer on it wants to be called.
const USED_EVENT: u64 = AVAIL + 4 + 2 * (SIZE as u64);

/// How long a device may be silent. The watchdog wakes a sleeper more often than that.
const SILENCE: Duration = Duration::from_secs(30);

/// How often a spinning driver looks at the clock.
const SPINS: u32 = 1 << 16;

/// What went wrong with a request.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RingError {
    /// It was answered with an error.
    #[error("the device answered a request with status {0}")]
    Status(u8),
    /// It was not answered.
    #[error("the device did not answer for {} s", SILENCE.as_secs())]
    Silent,
}

/// What to ask for: where, in bytes, and whether to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Op {
    pub(crate) offset: u64,
    pub(crate) write: bool,
}

/// How the driver learns of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Sleeps on the call eventfd.
    Eventfd,
    /// Spins on the used ring.
    Polling,
}

/// The queue.
#[derive(Debug)]
pub(crate) struct Ring {
    pub(crate) memory: Arc<GuestMemory>,
    pub(crate) kick: EventFd,
    pub(crate) call: EventFd,
    avail: u16,
    announced: u16,
    used: u16,
    len: u32,
}

impl Ring {
    /// How much guest memory a ring takes whose requests are at most `len` bytes long.
    pub(crate) const fn memory_for(len: u32) -> u64 {
        DATA + (SLOTS as u64) * (len as u64)
    }

    /// A ring at the beginning of `memory`, which the device does not know yet.
    pub(crate) const fn new(memory: Arc<GuestMemory>, kick: EventFd, call: EventFd) -> Self {
        Self {
            memory,
            kick,
            call,
            avail: 0,
            announced: 0,
            used: 0,
            len: 0,
        }
    }

    /// Makes all later requests `len` bytes long. Nothing may be in flight.
    pub(crate) fn set_len(&mut self, len: u32) {
        self.len = len;
        for slot in 0..SLOTS {
            let first = 3 * slot;
            let data = Desc::readable(DATA + u64::from(slot) * u64::from(len), len);
            self.put(first, Desc::readable(line(slot), 16), Some(first + 1));
            self.put(first + 1, data, Some(first + 2));
            self.put(first + 2, Desc::writable(line(slot) + 16, 1), None);
        }
    }

    /// How long requests are.
    pub(crate) const fn len(&self) -> u32 {
        self.len
    }

    fn put(&self, index: u16, desc: Desc, next: Option<u16>) {
        let linked = Desc {
            flags: desc.flags | next.map_or(0, |_| NEXT),
            next: next.unwrap_or(0),
            ..desc
        };
        self.memory.write(entry(index), &linked.bytes());
    }

    /// Puts a request into a slot; the device does not see it before [`Self::publish`].
    fn submit(&mut self, slot: u16, op: Op) {
        let memory = &self.memory;
        let (kind, flags) = if op.write { (OUT, NEXT) } else { (IN, NEXT | WRITE) };
        memory.store(line(slot), kind.to_le(), Ordering::Relaxed);
        memory.store(line(slot) + 8, (op.offset / 512).to_le(), Ordering::Relaxed);
        memory.store(line(slot) + 16, UNTOUCHED, Ordering::Relaxed);
        memory.store(entry(3 * slot + 1) + 12, flags.to_le(), Ordering::Relaxed);
        let place = AVAIL + 4 + 2 * u64::from(self.avail % SIZE);
        memory.store(place, (3 * slot).to_le(), Ordering::Relaxed);
        self.avail = self.avail.wrapping_add(1);
    }

    /// Shows the device what was submitted, and kicks it if it asked for that.
    fn publish(&mut self) {
        self.memory.store_index(AVAIL + 2, self.avail);
        // The index must be visible before the device's wish is read; it does the opposite (2.7.10).
        fence(Ordering::SeqCst);
        let wish = u16::from_le(self.memory.load(AVAIL_EVENT, Ordering::Relaxed));
        let new = self.avail.wrapping_sub(self.announced);
        if self.avail.wrapping_sub(wish).wrapping_sub(1) < new {
            self.kick.write(1).expect("a kick eventfd has room");
        }
        self.announced = self.avail;
    }

    fn pending(&self) -> bool {
        self.memory.load_index(USED + 2) != self.used
    }

    /// Takes one answer, if there is one: the slot that is free again.
    fn take(&mut self) -> Result<Option<u16>, RingError> {
        if !self.pending() {
            return Ok(None);
        }
        let place = USED + 4 + 8 * u64::from(self.used % SIZE);
        let head = u32::from_le(self.memory.load(place, Ordering::Relaxed));
        self.used = self.used.wrapping_add(1);
        let slot = u16::try_from(head / 3).map_or(0, |slot| slot.min(SLOTS - 1));
        match self.memory.load::<u8>(line(slot) + 16, Ordering::Relaxed) {
            OK => Ok(Some(slot)),
            status => Err(RingError::Status(status)),
        }
    }

    /// Waits until there is an answer.
    fn wait(&mut self, mode: Mode) -> Result<(), RingError> {
        match mode {
            Mode::Eventfd => self.sleep(),
            Mode::Polling => self.spin(),
        }
    }

    fn sleep(&mut self) -> Result<(), RingError> {
        self.memory.store(USED_EVENT, self.used.to_le(), Ordering::Relaxed);
        // The wish must be visible before the index is read again; the device does the opposite.
        fence(Ordering::SeqCst);
        let mut asleep: Option<Instant> = None;
        while !self.pending() {
            // A blocking read, as a halted processor: one call for one sleep. The watchdog ends it if the device does not.
            self.call.read().expect("a call eventfd of ours can be read");
            if !self.pending() {
                let since = *asleep.get_or_insert_with(Instant::now);
                if since.elapsed() > SILENCE {
                    return Err(RingError::Silent);
                }
            }
        }
        Ok(())
    }

    fn spin(&self) -> Result<(), RingError> {
        let mut begun: Option<Instant> = None;
        loop {
            for _ in 0..SPINS {
                if self.pending() {
                    return Ok(());
                }
                std::hint::spin_loop();
            }
            let since = *begun.get_or_insert_with(Instant::now);
            if since.elapsed() > SILENCE {
                return Err(RingError::Silent);
            }
        }
    }

    /// Keeps `depth` requests in flight until `next` has no more or `limit` has passed; how many were answered.
    pub(crate) fn run(
        &mut self,
        depth: u16,
        mode: Mode,
        limit: Duration,
        mut next: impl FnMut() -> Option<Op>,
    ) -> Result<u64, RingError> {
        let end = Instant::now() + limit;
        let (mut done, mut look) = (0_u64, 0_u64);
        let mut flying = 0;
        let mut over = false;
        for slot in 0..depth.min(SLOTS) {
            if let Some(op) = next() {
                self.submit(slot, op);
                flying += 1;
            }
        }
        self.publish();
        while flying > 0 {
            self.wait(mode)?;
            if done >= look {
                look = done + 64;
                over |= Instant::now() >= end;
            }
            let before = self.avail;
            while let Some(slot) = self.take()? {
                done += 1;
                let op = if over { None } else { next() };
                match op {
                    Some(op) => self.submit(slot, op),
                    None => flying -= 1,
                }
            }
            if self.avail != before {
                self.publish();
            }
        }
        Ok(done)
    }
}

/// A device that answers each request at once and does nothing, until it is `over`. It never wants to be kicked.
pub(crate) fn null_device(memory: &GuestMemory, over: &AtomicBool) {
    let mut next = 0_u16;
    while !over.load(Ordering::Relaxed) {
        let end = memory.load_index(AVAIL + 2);
        if next == end {
            std::hint::spin_loop();
            continue;
        }
        while next != end {
            let head = u16::from_le(memory.load(AVAIL + 4 + 2 * u64::from(next % SIZE), Ordering::Relaxed));
            memory.store(line(head / 3) + 16, OK, Ordering::Relaxed);
            let place = USED + 4 + 8 * u64::from(next % SIZE);
            memory.store(place, u32::from(head).to_le(), Ordering::Relaxed);
            next = next.wrapping_add(1);
        }
        memory.store_index(USED + 2, next);
    }
}

const fn entry(index: u16) -> u64 {
    TABLE + 16 * (index as u64)
}

const fn line(slot: u16) -> u64 {
    SMALL + 64 * (slot as u64)
}
