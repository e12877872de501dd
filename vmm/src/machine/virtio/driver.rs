//! A driver for tests: one queue in guest memory, filled and emptied by hand, as sound or as unsound as a test wants it.

use super::QueueSetup;
use crate::machine::memory::Ram;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// The chain goes on with the next descriptor.
pub(super) const NEXT: u16 = 1;
/// The device may write.
pub(super) const WRITE: u16 = 2;

/// Guest memory of a test, and where in it its buffers are.
pub(super) const MEMORY: u64 = 4 << 20;
/// See above.
pub(super) const BUFFERS: u64 = 1 << 20;

/// Where the driver area is after the descriptor table, and the device area after that.
const PART: u64 = 0x2000;

/// Memory for a test.
pub(super) fn memory() -> (Ram, GuestMemoryMmap) {
    let ram = Ram::new(MEMORY).unwrap();
    let guest = ram.guest().clone();
    (ram, guest)
}

/// One queue's driver.
#[derive(Debug)]
pub(super) struct Driver {
    memory: GuestMemoryMmap,
    base: u64,
    size: u16,
    available: u16,
    seen: u16,
}

impl Driver {
    /// A queue of `size` entries at `base`.
    pub(super) fn new(memory: &GuestMemoryMmap, base: u64, size: u16) -> Self {
        Self {
            memory: memory.clone(),
            base,
            size,
            available: 0,
            seen: 0,
        }
    }

    /// What the driver tells the device.
    pub(super) fn setup(&self) -> QueueSetup {
        QueueSetup {
            size: self.size,
            descriptors: GuestAddress(self.base),
            driver: GuestAddress(self.base + PART),
            device: GuestAddress(self.base + 2 * PART),
            ready: true,
        }
    }

    /// Writes the descriptor `index`.
    pub(super) fn describe(&self, index: u16, (address, bytes): (u64, u32), flags: u16, next: u16) {
        let place = GuestAddress(self.base + u64::from(index) * 16);
        let mut raw = [0; 16];
        raw[..8].copy_from_slice(&address.to_le_bytes());
        raw[8..12].copy_from_slice(&bytes.to_le_bytes());
        raw[12..14].copy_from_slice(&flags.to_le_bytes());
        raw[14..].copy_from_slice(&next.to_le_bytes());
        self.memory.write_slice(&raw, place).unwrap();
    }

    /// Makes the chain that begins with `head` available.
    pub(super) fn offer(&mut self, head: u16) {
        let slot = u64::from(self.available % self.size);
        let place = GuestAddress(self.base + PART + 4 + slot * 2);
        self.memory.write_obj(head, place).unwrap();
        self.available = self.available.wrapping_add(1);
        self.claim(self.available);
    }

    /// Says that `index` is how far the available ring goes.
    pub(super) fn claim(&self, index: u16) {
        let place = GuestAddress(self.base + PART + 2);
        self.memory.write_obj(index, place).unwrap();
    }

    /// The chains that came back since this was last asked: head and length.
    pub(super) fn used(&mut self) -> Vec<(u32, u32)> {
        let device = self.base + 2 * PART;
        let index: u16 = self.memory.read_obj(GuestAddress(device + 2)).unwrap();
        let mut back = Vec::new();
        while self.seen != index {
            let place = device + 4 + u64::from(self.seen % self.size) * 8;
            let head = self.memory.read_obj(GuestAddress(place)).unwrap();
            let written = self.memory.read_obj(GuestAddress(place + 4)).unwrap();
            back.push((head, written));
            self.seen = self.seen.wrapping_add(1);
        }
        back
    }

    /// Fills the whole queue with `bytes`, over and over.
    pub(super) fn scribble(&self, bytes: &[u8]) {
        for (place, byte) in (self.base..self.base + 3 * PART).zip(bytes.iter().cycle()) {
            self.memory.write_obj(*byte, GuestAddress(place)).unwrap();
        }
    }
}
