//! What a scribbler says to a device about its queues, and what it writes into them. The guest needs 64 MiB of memory.

use super::super::script::{Access, Width};
use super::{OFFSETS, Scribbler, WIDTHS};

/// Where lists scribble: queues here, and buffers of requests there.
pub(super) const QUEUES: u64 = 24 << 20;
/// See above.
const QUEUES_BYTES: u64 = 256 << 10;
/// See above.
const BUFFERS: u64 = 32 << 20;
/// See above.
const BUFFERS_BYTES: u64 = 24 << 20;
/// Where memory ends.
pub(super) const MEMORY_END: u64 = 64 << 20;

/// A queue, as a device was told of it.
#[derive(Clone, Copy, Debug)]
struct Queue {
    device: u32,
    index: u64,
    size: u64,
    descriptors: u64,
    available: u64,
}

impl Scribbler {
    /// An address for a part of a queue: mostly a sound one.
    fn place(&mut self) -> u64 {
        let page = QUEUES + self.rng.below(QUEUES_BYTES / 4096) * 4096;
        match self.rng.below(20) {
            0 => page + self.rng.below(4096),
            1 => MEMORY_END - self.rng.below(4096) / 16 * 16,
            2 => MEMORY_END + self.rng.below(1 << 40) / 16 * 16,
            3 => self.rng.next() | 1 << 40,
            _ => page,
        }
    }

    fn address(&mut self, device: u32, offset: u32) -> u64 {
        let place = self.place();
        self.set(device, offset, place & 0xffff_ffff);
        self.set(device, offset + 4, place >> 32);
        place
    }

    /// Sets up one queue.
    pub(super) fn queue(&mut self) {
        let device = self.device();
        let index = self.narrow(3);
        self.lay_out(device, index.into());
    }

    /// Says where a queue is, and empties it.
    fn lay_out(&mut self, device: u32, index: u64) -> Queue {
        self.set(device, 0x30, index);
        let size = 1 << self.rng.below(9);
        let said = if self.rng.chance(95) { size } else { self.value() };
        self.set(device, 0x38, said);
        let [descriptors, available, used] = [0x80, 0x90, 0xa0].map(|offset| self.address(device, offset));
        for ring in [available, used] {
            if self.rng.chance(90) {
                self.put(Width::Double, ring, 0);
            }
        }
        self.set(device, 0x44, 1);
        Queue {
            device,
            index,
            size,
            descriptors,
            available,
        }
    }

    /// What a driver says to bring a device to life, with a mistake here and there; and then work for it.
    pub(super) fn conversation(&mut self) {
        let device = self.device();
        let begun = self.list.len();
        for status in [0, 1, 3] {
            self.set(device, 0x70, status);
        }
        // Event indices and indirect descriptors, or not; nothing else that a disk offers changes how queues are used.
        let low = self.pick(&[0, 1 << 29, 1 << 28, 1 << 28 | 1 << 29, 1 << 9 | 1 << 13 | 1 << 14]);
        for (word, bits) in [(1, 1), (0, low)] {
            self.set(device, 0x24, word);
            self.set(device, 0x20, bits);
        }
        self.set(device, 0x70, 11);
        let first = self.lay_out(device, 0);
        let second = self.rng.chance(50).then(|| self.lay_out(device, 1));
        self.set(device, 0x70, 15);
        if self.rng.chance(20) {
            let at = begun + self.rng.index(self.list.len() - begun);
            self.list[at] = Access::Store(self.pick(&WIDTHS), device + self.pick(&OFFSETS), self.value());
        }
        for number in 1..=self.rng.below(40) {
            self.request(&first, number);
            if let Some(second) = &second {
                self.request(second, number);
            }
        }
    }

    /// A request for a disk (entropy takes it for one of its own), mostly as it should be, and its doorbell.
    fn request(&mut self, queue: &Queue, number: u64) {
        let header = self.buffer();
        let kind = self.pick(&[0, 0, 1, 1, 1, 4, 8, 11, 13, 0xffff_ffff]);
        let sector = if self.rng.chance(90) {
            self.rng.below(1 << 15)
        } else {
            self.value()
        };
        self.put(Width::Quad, header, kind);
        self.put(Width::Quad, header + 8, sector);
        let data = u64::from(kind != 1) << 1;
        let length = self.pick(&[512, 4096, 4096, 65536, 1 << 20, 16, 0]);
        let head = self.rng.below(queue.size);
        let chain = [(header, 16, 1), (self.buffer(), length, 1 | data), (header + 16, 1, 2)];
        for (at, (place, length, flags)) in (head..).zip(chain) {
            let at = at % queue.size;
            let flags = if self.rng.chance(3) { self.rng.below(8) } else { flags };
            self.put(Width::Quad, queue.descriptors + at * 16, place);
            let next = (at + 1) % queue.size;
            self.put(
                Width::Quad,
                queue.descriptors + at * 16 + 8,
                length | flags << 32 | next << 48,
            );
        }
        let entry = (number - 1) % queue.size;
        self.put(Width::Word, queue.available + 4 + entry * 2, head);
        self.put(Width::Word, queue.available + 2, number);
        if self.rng.chance(10) {
            self.ring();
        }
        self.set(queue.device, 0x50, queue.index);
    }

    fn buffer(&mut self) -> u64 {
        BUFFERS + self.rng.below(BUFFERS_BYTES / 4096) * 4096
    }

    /// Writes in memory, if the address is one.
    pub(super) fn put(&mut self, width: Width, at: u64, value: u64) {
        if (QUEUES..MEMORY_END).contains(&at)
            && let Ok(at) = u32::try_from(at)
        {
            self.list.push(Access::Store(width, at, value));
        }
    }

    pub(super) fn doorbell(&mut self) {
        let device = self.device();
        let (width, queue) = if self.rng.chance(80) {
            (Width::Double, self.rng.below(2))
        } else {
            (self.pick(&WIDTHS), self.value())
        };
        self.list.push(Access::Store(width, device + 0x50, queue));
    }

    /// Writes in the memory of queues: an entry that makes some sense, or anything anywhere.
    pub(super) fn ring(&mut self) {
        let page = QUEUES + self.rng.below(QUEUES_BYTES / 4096) * 4096;
        match self.rng.below(3) {
            0 => {
                let at = page + self.rng.below(16) * 16;
                let address = match self.rng.below(10) {
                    0 => self.rng.next(),
                    1 => MEMORY_END - self.rng.below(8192),
                    2 => QUEUES + self.rng.below(QUEUES_BYTES),
                    _ => self.buffer(),
                };
                let length = self.pick(&[0, 1, 16, 16, 511, 512, 4096, 65536, 1 << 20, 0xffff_ffff]);
                let (flags, next) = (self.rng.below(8), self.rng.below(16));
                self.put(Width::Quad, at, address);
                self.put(Width::Quad, at + 8, length | flags << 32 | next << 48);
            }
            // The index of a ring, whichever it is, and an entry.
            1 => {
                let (index, at, entry) = (self.rng.below(20), self.rng.below(16), self.rng.below(16));
                self.put(Width::Word, page + 2, index);
                self.put(Width::Word, page + 4 + at * 2, entry);
            }
            _ => {
                let (width, at, value) = (self.pick(&WIDTHS), page + self.rng.below(4096 - 8), self.value());
                self.put(width, at, value);
            }
        }
    }
}
