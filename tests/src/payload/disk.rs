//! A driver for a virtio disk over MMIO, as instructions: one queue, one request at a time, no interrupts.
//!
//! Where the registers are is the machine's layout; the rest is virtio 1.2 ("Virtio Over MMIO", "Block Device"). Programs that
//! use it must end before its memory (`MEMORY`).

use super::Payload;

/// The first device's registers, and how far it is to the next device's.
pub const REGISTERS: u32 = 0xd000_0000;
/// See above.
pub const STRIDE: u32 = 0x1000;

/// Where queue, header and data of the first disk are, how far it is to its next queue's, and to the next disk's. The guest needs
/// 32 MiB of memory.
const MEMORY: u32 = 16 << 20;
/// See above.
const QUEUE_SPREAD: u32 = 32 << 10;
/// See above.
const SPREAD: u32 = 16 * QUEUE_SPREAD;

/// Parts of a disk's memory.
const AVAILABLE: u32 = 0x1000;
/// See above.
const USED: u32 = 0x2000;
/// See above.
const HEADER: u32 = 0x3000;
/// See above.
const STATUS: u32 = 0x3100;
/// See above.
const DATA: u32 = 0x4000;

/// Bytes of a request's data: a cluster.
const DATA_BYTES: u32 = 4096;

/// Entries of the queue.
const SIZE: u32 = 8;

/// What is done with the data.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Read,
    Write,
}

/// One disk with one queue, as a program sees it. The number of a request is how many there were before it, and itself.
#[derive(Clone, Copy, Debug)]
pub struct Disk {
    registers: u32,
    memory: u32,
    queue: u32,
}

impl Disk {
    /// The disk `index`.
    #[must_use]
    pub const fn new(index: u32) -> Self {
        Self {
            registers: REGISTERS + index * STRIDE,
            memory: MEMORY + index * SPREAD,
            queue: 0,
        }
    }

    /// The same disk by its queue `queue`.
    #[must_use]
    pub const fn by_queue(self, queue: u32) -> Self {
        Self {
            memory: self.memory + queue * QUEUE_SPREAD,
            queue,
            ..self
        }
    }

    /// Brings it to life. Uses EAX, EBX.
    #[must_use]
    pub fn start(&self, program: Payload) -> Payload {
        let register = |program: Payload, offset, value| program.store(self.registers + offset, value);
        // Reset; acknowledged, and driven; VERSION_1 and nothing else; agreed; the queue; ready.
        [
            (0x70, 0),
            (0x70, 1),
            (0x70, 3),
            (0x24, 1),
            (0x20, 1),
            (0x24, 0),
            (0x20, 0),
            (0x70, 11),
            (0x30, self.queue),
            (0x38, SIZE),
            (0x80, self.memory),
            (0x84, 0),
            (0x90, self.memory + AVAILABLE),
            (0x94, 0),
            (0xa0, self.memory + USED),
            (0xa4, 0),
            (0x44, 1),
            (0x70, 15),
        ]
        .into_iter()
        .fold(program, |program, (offset, value)| register(program, offset, value))
    }

    /// Reads the cluster at `sector`, as request `number`. Uses EAX, EBX.
    #[must_use]
    pub fn read(&self, program: Payload, sector: u32, number: u16) -> Payload {
        self.request(program, Kind::Read, sector, number)
    }

    /// Writes the cluster at `sector`, as request `number`. Uses EAX, EBX.
    #[must_use]
    pub fn write(&self, program: Payload, sector: u32, number: u16) -> Payload {
        self.request(program, Kind::Write, sector, number)
    }

    /// The address of the data that is read and written.
    #[must_use]
    pub const fn data(&self) -> u32 {
        self.memory + DATA
    }

    fn request(&self, program: Payload, kind: Kind, sector: u32, number: u16) -> Payload {
        let available = 1 | u32::from(number) << 16;
        self.describe(program, kind)
            .store(self.memory + HEADER + 8, sector)
            .store(self.memory + AVAILABLE, available)
            .store(self.registers + 0x50, self.queue)
            .wait_until(self.memory + USED + 2, number)
    }

    /// Writes clusters, each to a random place in the first `sectors` (a power of two), without end and from request `number` on.
    /// Needs [`Payload::seed`]; uses EAX, EBX, EDI, ESI.
    #[must_use]
    pub fn write_forever(&self, program: Payload, sectors: u32, number: u16) -> Payload {
        let [low, high] = (number - 1).to_le_bytes();
        let cluster = DATA_BYTES / 512;
        // mov esi, number - 1
        self.describe(program, Kind::Write)
            .raw(&[0xbe, low, high, 0, 0])
            .forever(|body| {
                // inc esi; mov eax, esi; shl eax, 16; or eax, 1; mov ebx, available; mov [ebx], eax
                body.store_random(self.memory + HEADER + 8, 0, (sectors - 1) & !(cluster - 1))
                    .store_random(self.data(), 0, u32::MAX)
                    .raw(&[0xff, 0xc6, 0x89, 0xf0, 0xc1, 0xe0, 16, 0x83, 0xc8, 1, 0xbb])
                    .raw(&(self.memory + AVAILABLE).to_le_bytes())
                    .raw(&[0x89, 0x03])
                    .store(self.registers + 0x50, self.queue)
                    .raw(&[0xbb])
                    .raw(&(self.memory + USED + 2).to_le_bytes())
                    // again: pause; cmp [rbx], si; jne again
                    .raw(&[0xf3, 0x90, 0x66, 0x39, 0x33, 0x75, 0xf9])
            })
    }

    /// Header, data and status, as the first chain; every entry of the available ring is that one. The driver wants no interrupts.
    fn describe(&self, program: Payload, kind: Kind) -> Payload {
        const NEXT: u32 = 1;
        const WRITE: u32 = 2;
        let (code, direction) = match kind {
            Kind::Read => (0, WRITE),
            Kind::Write => (1, 0),
        };
        [
            (HEADER, 16, NEXT | 1 << 16),
            (DATA, DATA_BYTES, NEXT | direction | 2 << 16),
            (STATUS, 1, WRITE),
        ]
        .into_iter()
        .zip((self.memory..).step_by(16))
        .fold(program, |program, ((part, bytes, link), at)| {
            program
                .store(at, self.memory + part)
                .store(at + 8, bytes)
                .store(at + 12, link)
        })
        .store(self.memory + HEADER, code)
    }
}

impl Payload {
    /// Waits until the 16 bits at `address` are `value`. Uses EBX.
    #[must_use]
    pub fn wait_until(self, address: u32, value: u16) -> Self {
        let [low, high] = value.to_le_bytes();
        // mov ebx, address; again: pause; cmp word [rbx], value; jne again
        self.raw(&[0xbb])
            .raw(&address.to_le_bytes())
            .raw(&[0xf3, 0x90, 0x66, 0x81, 0x3b, low, high, 0x75, 0xf7])
    }

    /// Does `body` if the 32 bits at `address` are not `value`. Uses EAX, EBX.
    #[must_use]
    pub fn unless(self, address: u32, value: u32, body: impl FnOnce(Self) -> Self) -> Self {
        let inner = body(Self::new(self.mode)).code;
        let over = u32::try_from(inner.len()).expect("a program is short");
        // cmp eax, value; je over
        self.load(address)
            .raw(&[0x3d])
            .raw(&value.to_le_bytes())
            .raw(&[0x0f, 0x84])
            .raw(&over.to_le_bytes())
            .raw(&inner)
    }

    /// Waits until a key is typed. Uses EAX, EDX.
    #[must_use]
    pub fn wait_for_key(self) -> Self {
        // again: mov dx, line status; in al, dx; test al, 1; jz again
        self.raw(&[0x66, 0xba, 0xfd, 0x03, 0xec, 0xa8, 1, 0x74, 0xf7])
            .read_port(super::SERIAL)
    }
}
