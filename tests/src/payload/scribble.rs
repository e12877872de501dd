//! Lists of accesses that are nonsense of the kind that gets far: most of it is a driver's conversation with a virtio device, with
//! mistakes (`queues`), and the rest is what no driver would do.
//!
//! It knows the registers (virtio 1.2, "Virtio Over MMIO") and nothing of how they are implemented.

mod queues;

use std::ops::Range;

use super::SERIAL;
use super::disk::{REGISTERS, STRIDE};
use super::script::{Access, Width};
use crate::rng::Rng;

use queues::{MEMORY_END, QUEUES};

/// Ports at which a guest ends its machine, as far as a byte there can: ACPI's registers and the keyboard controller.
const ENDS: [Range<u16>; 2] = [0x5fd..0x603, 0x61..0x65];

/// The controllers of interrupts, which are KVM's own: a guest that writes there may send itself what ends it.
const INTERRUPTS: Range<u64> = 0xfec0_0000..0xff00_0000;

const WIDTHS: [Width; 4] = [Width::Byte, Width::Word, Width::Double, Width::Quad];

/// Registers by their offset, those more often that lead further.
const OFFSETS: [u32; 32] = [
    0x00, 0x04, 0x08, 0x0c, 0x10, 0x14, 0x20, 0x20, 0x24, 0x30, 0x30, 0x34, 0x38, 0x38, 0x44, 0x44, 0x50, 0x50, 0x60,
    0x64, 0x70, 0x70, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4, 0xb0, 0xfc, 0x100, 0x130,
];

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

    /// A list of so many accesses to ports, those by which a guest ends its machine among them.
    #[must_use]
    pub fn ports(mut self, length: usize) -> Vec<Access> {
        while self.list.len() < length {
            let port = if self.rng.chance(3) {
                let ports = &ENDS[self.rng.index(ENDS.len())];
                ports.start + u16::try_from(self.rng.below(8)).expect("few")
            } else {
                self.any_port()
            };
            self.access_port(port);
            if self.rng.chance(1) {
                // Off, reset, and a PC's reset: where they belong, or beside it.
                let (port, value) = self.pick(&[(0x600, 0x34), (0x602, 1), (0x64, 0xfe)]);
                let port = port - u16::try_from(self.rng.below(4)).expect("few");
                self.list.push(Access::Out(Width::Byte, port, value));
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

    /// Mostly the serial port, the interval timer, or any.
    fn any_port(&mut self) -> u16 {
        let (first, count) = match self.rng.below(4) {
            0 => (0, 1 << 16),
            1 => (0x40, 4),
            _ => (SERIAL, 9),
        };
        first + u16::try_from(self.rng.below(count)).expect("16 bits")
    }

    fn port(&mut self) {
        let port = self.any_port();
        if !ENDS.iter().any(|ports| ports.contains(&port)) {
            self.access_port(port);
        }
    }

    fn access_port(&mut self, port: u16) {
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
