//! Programs that do whatever a list of accesses says, over and over: the list is made here, where there are types and a seed, and
//! carried out by a dozen instructions there.
//!
//! [`Scribbler`] makes lists that are nonsense of the kind that gets far: most of it is a driver's conversation with a virtio
//! device, with mistakes, and the rest is what no driver would do. It knows the registers (virtio 1.2, "Virtio Over MMIO") and
//! nothing of how they are implemented.

use super::disk::{REGISTERS, STRIDE};
use super::{Mode, Payload, SERIAL};
use crate::rng::Rng;

/// How wide an access is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// 8 bits.
    Byte,
    /// 16 bits.
    Word,
    /// 32 bits.
    Double,
    /// 64 bits; of ports, 32.
    Quad,
}

/// One access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To memory, or what is not.
    Store(Width, u32, u64),
    /// From there.
    Load(Width, u32),
    /// To a port.
    Out(Width, u16, u32),
    /// From one.
    In(Width, u16),
    /// So many bytes to a port, by one instruction, from this address.
    OutString(u16, u32, u32),
    /// So many bytes from a port, by one instruction, to this address.
    InString(u16, u32, u32),
}

/// What carries out one kind of access, as machine code: EDI is its place, RBX its value; RAX, RCX, RDX and R8 are its to use.
const HANDLERS: [&[u8]; 17] = [
    // mov [rdi], bl; bx; ebx; rbx
    &[0x88, 0x1f],
    &[0x66, 0x89, 0x1f],
    &[0x89, 0x1f],
    &[0x48, 0x89, 0x1f],
    // mov al, [rdi]; ax; eax; rax
    &[0x8a, 0x07],
    &[0x66, 0x8b, 0x07],
    &[0x8b, 0x07],
    &[0x48, 0x8b, 0x07],
    // mov edx, edi; mov eax, ebx; out dx, al; ax; eax
    &[0x89, 0xfa, 0x89, 0xd8, 0xee],
    &[0x89, 0xfa, 0x89, 0xd8, 0x66, 0xef],
    &[0x89, 0xfa, 0x89, 0xd8, 0xef],
    // mov edx, edi; in al, dx; ax; eax
    &[0x89, 0xfa, 0xec],
    &[0x89, 0xfa, 0x66, 0xed],
    &[0x89, 0xfa, 0xed],
    // mov edx, edi; mov ecx, ebx; mov r8, rsi; shr rbx, 32; mov rsi, rbx; rep outsb; mov rsi, r8
    &[
        0x89, 0xfa, 0x89, 0xd9, 0x49, 0x89, 0xf0, 0x48, 0xc1, 0xeb, 32, 0x48, 0x89, 0xde, 0xf3, 0x6e, 0x4c, 0x89, 0xc6,
    ],
    // mov edx, edi; mov ecx, ebx; shr rbx, 32; mov rdi, rbx; rep insb
    &[
        0x89, 0xfa, 0x89, 0xd9, 0x48, 0xc1, 0xeb, 32, 0x48, 0x89, 0xdf, 0xf3, 0x6c,
    ],
    // mov esi, ebx
    &[0x89, 0xde],
];

/// The last handler: goes to another place in the list.
const GO_TO: usize = 16;

/// Fetches an entry (16 bytes: handler, place, value) and jumps to its handler.
/// mov eax, [rsi]; mov edi, [rsi + 4]; mov rbx, [rsi + 8]; add rsi, 16; jmp rax
const NEXT: [u8; 16] = [
    0x8b, 0x06, 0x8b, 0x7e, 4, 0x48, 0x8b, 0x5e, 8, 0x48, 0x83, 0xc6, 16, 0xff, 0xe0, 0x90,
];

/// A jump with a distance of 32 bits.
const JUMP: usize = 5;

impl Access {
    /// Handler, place and value.
    fn entry(self) -> (usize, u32, u64) {
        let wide = |width| match width {
            Width::Byte => 0,
            Width::Word => 1,
            Width::Double => 2,
            Width::Quad => 3,
        };
        let string = |count, address: u32| u64::from(count) | u64::from(address) << 32;
        match self {
            Self::Store(width, address, value) => (wide(width), address, value),
            Self::Load(width, address) => (4 + wide(width), address, 0),
            Self::Out(width, port, value) => (8 + wide(width).min(2), port.into(), value.into()),
            Self::In(width, port) => (11 + wide(width).min(2), port.into(), 0),
            Self::OutString(port, count, from) => (14, port.into(), string(count, from)),
            Self::InString(port, count, to) => (15, port.into(), string(count, to)),
        }
    }
}

impl Payload {
    /// Does these things over and over, without end. The program must be in [`Mode::Long`].
    ///
    /// # Panics
    ///
    /// If it is not.
    #[must_use]
    pub fn carry_out(self, list: &[Access]) -> Self {
        assert_eq!(self.mode, Mode::Long, "entries have 64 bits");
        let length = |code: &[u8]| u32::try_from(code.len()).expect("a program is short");
        // mov esi, list; cld
        let next = self.here() + 6;
        let mut handlers = NEXT.to_vec();
        let places = HANDLERS.map(|code| {
            let place = next + length(&handlers);
            handlers.extend(code);
            handlers.push(0xe9);
            handlers.extend(super::distance(handlers.len() - 1 + JUMP, 0));
            place
        });
        let table = next + length(&handlers);
        let mut program = self.raw(&[0xbe]).raw(&table.to_le_bytes()).raw(&[0xfc]).raw(&handlers);
        let again = (GO_TO, 0, u64::from(table));
        for (handler, place, value) in list.iter().map(|access| access.entry()).chain([again]) {
            program.code.extend(places[handler].to_le_bytes());
            program.code.extend(place.to_le_bytes());
            program.code.extend(value.to_le_bytes());
        }
        program
    }
}

/// Where lists scribble: queues here, and buffers of requests there. The guest needs 64 MiB of memory.
const QUEUES: u64 = 24 << 20;
/// See above.
const QUEUES_BYTES: u64 = 256 << 10;
/// See above.
const BUFFERS: u64 = 32 << 20;
/// See above.
const BUFFERS_BYTES: u64 = 24 << 20;
/// Where memory ends.
pub const MEMORY_END: u64 = 64 << 20;

/// Ports at which a guest ends its machine, as far as a byte there can: ACPI's registers and the keyboard controller.
const ENDS: [std::ops::RangeInclusive<u16>; 2] = [0x5fd..=0x602, 0x61..=0x64];

/// The controllers of interrupts, which are KVM's own: a guest that writes there may send itself what ends it.
const INTERRUPTS: std::ops::Range<u64> = 0xfec0_0000..0xff00_0000;

const WIDTHS: [Width; 4] = [Width::Byte, Width::Word, Width::Double, Width::Quad];

/// Registers by their offset, those more often that lead further.
const OFFSETS: [u32; 32] = [
    0x00, 0x04, 0x08, 0x0c, 0x10, 0x14, 0x20, 0x20, 0x24, 0x30, 0x30, 0x34, 0x38, 0x38, 0x44, 0x44, 0x50, 0x50, 0x60, 0x64,
    0x70, 0x70, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4, 0xb0, 0xfc, 0x100, 0x130,
];

/// A queue, as a device was told of it.
#[derive(Clone, Copy, Debug)]
struct Queue {
    device: u32,
    index: u64,
    size: u64,
    descriptors: u64,
    available: u64,
}

/// A source of lists.
#[derive(Debug)]
pub struct Scribbler {
    rng: Rng,
    devices: u64,
    list: Vec<Access>,
}

impl Scribbler {
    /// For a machine with so many virtio devices.
    #[must_use]
    pub const fn new(seed: u64, devices: u64) -> Self {
        Self {
            rng: Rng::new(seed),
            devices,
            list: Vec::new(),
        }
    }

    /// A list of about `length` accesses; now and then it prints a dot, wherever the serial port was left.
    #[must_use]
    pub fn list(mut self, length: usize) -> Vec<Access> {
        let mut printed = 0;
        while self.list.len() < length {
            match self.rng.below(100) {
                0..25 => self.any_register(),
                25..35 => self.status(),
                35..45 => self.queue(),
                45..60 => self.conversation(),
                60..68 => self.doorbell(),
                68..92 => self.ring(),
                92..97 => self.port(),
                _ => self.nowhere(),
            }
            if self.list.len() / 1024 > printed {
                printed += 1;
                self.dot();
            }
        }
        self.list
    }

    fn device(&mut self) -> u32 {
        REGISTERS + STRIDE * self.narrow(self.devices)
    }

    fn narrow(&mut self, bound: u64) -> u32 {
        u32::try_from(self.rng.below(bound)).expect("bounds here have 32 bits")
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.rng.index(from.len())]
    }

    /// Numbers at which things go wrong, and any.
    fn value(&mut self) -> u64 {
        match self.rng.below(4) {
            0 => self.pick(&[0, 1, 2, 3, 15, 255, 256, 257, 0x7fff, 0x8000, 0xffff, 0x10000]),
            1 => 1 << self.rng.below(64),
            2 => u64::MAX >> self.rng.below(64),
            _ => self.rng.next(),
        }
    }

    fn set(&mut self, device: u32, offset: u32, value: u64) {
        self.list.push(Access::Store(Width::Double, device + offset, value));
    }

    fn any_register(&mut self) {
        let (device, width) = (self.device(), self.pick(&WIDTHS));
        let offset = if self.rng.chance(70) {
            self.pick(&OFFSETS)
        } else {
            self.narrow(u64::from(STRIDE))
        };
        let access = if self.rng.chance(70) {
            Access::Store(width, device + offset, self.value())
        } else {
            Access::Load(width, device + offset)
        };
        self.list.push(access);
    }

    fn status(&mut self) {
        let device = self.device();
        let value = self.pick(&[0, 0, 1, 3, 7, 11, 15, 15, 64, 79, 128, 139, 255]);
        self.set(device, 0x70, value);
    }

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
    fn queue(&mut self) {
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
    fn conversation(&mut self) {
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
        let queue = self.lay_out(device, 0);
        self.set(device, 0x70, 15);
        if self.rng.chance(20) {
            let at = begun + self.rng.index(self.list.len() - begun);
            self.list[at] = Access::Store(self.pick(&WIDTHS), device + self.pick(&OFFSETS), self.value());
        }
        for number in 1..=self.rng.below(40) {
            self.request(&queue, number);
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
    fn put(&mut self, width: Width, at: u64, value: u64) {
        if (QUEUES..MEMORY_END).contains(&at)
            && let Ok(at) = u32::try_from(at)
        {
            self.list.push(Access::Store(width, at, value));
        }
    }

    fn doorbell(&mut self) {
        let device = self.device();
        let (width, queue) = if self.rng.chance(80) {
            (Width::Double, self.rng.below(2))
        } else {
            (self.pick(&WIDTHS), self.value())
        };
        self.list.push(Access::Store(width, device + 0x50, queue));
    }

    /// Writes in the memory of queues: an entry that makes some sense, or anything anywhere.
    fn ring(&mut self) {
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

    fn port(&mut self) {
        let port = match self.rng.below(4) {
            0 => u16::try_from(self.rng.below(1 << 16)).expect("16 bits"),
            1 => 0x40 + u16::try_from(self.rng.below(4)).expect("few"),
            _ => SERIAL + u16::try_from(self.rng.below(9)).expect("few"),
        };
        if ENDS.iter().any(|ports| ports.contains(&port)) {
            return;
        }
        let width = self.pick(&WIDTHS);
        let value = u32::try_from(self.value() & 0xffff_ffff).expect("32 bits");
        let count = self.narrow(5000);
        let place = u32::try_from(QUEUES).expect("memory ends below");
        self.list.push(match self.rng.below(20) {
            0 => Access::OutString(port, count, place),
            1 => Access::InString(port, count, place),
            2..12 => Access::Out(width, port, value),
            _ => Access::In(width, port),
        });
    }

    /// Where neither memory nor a device of ours is.
    fn nowhere(&mut self) {
        let address = match self.rng.below(3) {
            0 => u64::from(REGISTERS) + self.rng.below(64) * u64::from(STRIDE) - 4,
            _ => self.rng.between(MEMORY_END, 0xffff_fff0),
        };
        if INTERRUPTS.contains(&address) {
            return;
        }
        let address = u32::try_from(address).expect("32 bits");
        let width = self.pick(&WIDTHS);
        let value = self.value();
        self.list.push(if self.rng.chance(50) {
            Access::Store(width, address, value)
        } else {
            Access::Load(width, address)
        });
    }

    /// Line and modem control as after a reset, and a byte.
    fn dot(&mut self) {
        for (register, value) in [(3, 3), (4, 0), (0, u32::from(b'.'))] {
            self.list.push(Access::Out(Width::Byte, SERIAL + register, value));
        }
    }
}
