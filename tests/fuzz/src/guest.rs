//! A guest: its memory, and a driver that puts chains into a ring, as sound or unsound as a fuzzer wants them.

use arbitrary::Arbitrary;
use blk_helper::fuzzing::{DiskSpec, Guest, Layout};
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Bytes of memory: two stretches that adjoin in the guest, and lie in the file the other way round.
pub const MEMORY: usize = 0x1_0000;
const HALF: usize = MEMORY / 2;
const STRETCHES: [[u64; 3]; 2] = [[0, 0x8000, 0x8000], [0x8000, 0x8000, 0]];

/// Entries of the ring.
pub const SIZE: u16 = 16;
const AVAILABLE: usize = 0x400;
const USED: usize = 0x800;
/// The used ring, with the device's event index.
pub const USED_RING: std::ops::Range<usize> = USED..USED + 6 + 8 * SIZE as usize;
/// Where the ring's three parts, and what is behind each, end.
pub const RING_END: usize = 0x1000;

/// The base: 100 sectors, and a part of one more.
pub const BASE: usize = 100 * 512 + 300;
/// The disk, in sectors.
pub const SECTORS: u64 = 101;

pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

/// The base's bytes: none is zero.
pub fn base() -> Vec<u8> {
    (0..BASE).map(|at| (at / 7 % 255) as u8 + 1).collect()
}

/// Which disk.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Kind {
    read_only: bool,
    encrypted: bool,
    event_idx: bool,
    /// Clusters, if there is a limit.
    limit: Option<u8>,
}

impl Kind {
    pub fn is_read_only(self) -> bool {
        self.read_only
    }

    pub fn is_limited(self) -> bool {
        self.limit.is_some()
    }
}

/// A chain, as a driver would make it, and what a bad one would do to it then.
#[derive(Arbitrary, Clone, Debug)]
pub struct Chain {
    request: Kindly,
    sector: Number,
    /// Where its header and then its data and its status are, in steps of 64 bytes.
    place: u16,
    data: Vec<Piece>,
    /// The segments of a discard, or what a write writes.
    segments: Vec<(Number, Number, u8)>,
    fill: u8,
    indirect: bool,
    /// The header is in two buffers, cut here.
    cut: Option<u8>,
    damage: Vec<(u8, Damage)>,
    head: Option<u16>,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Kindly {
    Read,
    Write,
    Flush,
    Id,
    Discard,
    Zero,
    Other(u32),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Number {
    Small(u8),
    End(u8),
    Any(u64),
}

impl Number {
    fn value(self) -> u64 {
        match self {
            Self::Small(value) => u64::from(value % 128),
            Self::End(back) => SECTORS.wrapping_sub(u64::from(back % 16)),
            Self::Any(value) => value,
        }
    }
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Piece {
    Sectors(u8),
    Bytes(u16),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Damage {
    Address(u64),
    Length(u32),
    Flags(u8),
    Next(u16),
}

/// A descriptor.
#[derive(Clone, Copy, Debug)]
pub struct Descriptor {
    pub address: u64,
    pub bytes: u32,
    pub flags: u16,
    pub next: u16,
}

impl Descriptor {
    fn encode(self) -> [u8; 16] {
        let mut raw = [0; 16];
        raw[..8].copy_from_slice(&self.address.to_le_bytes());
        raw[8..12].copy_from_slice(&self.bytes.to_le_bytes());
        raw[12..14].copy_from_slice(&self.flags.to_le_bytes());
        raw[14..].copy_from_slice(&self.next.to_le_bytes());
        raw
    }

    pub fn decode(raw: &[u8]) -> Self {
        let number = |from: usize, bytes: usize| {
            let mut wide = [0; 8];
            wide[..bytes].copy_from_slice(&raw[from..from + bytes]);
            u64::from_le_bytes(wide)
        };
        Self {
            address: number(0, 8),
            bytes: number(8, 4) as u32,
            flags: number(12, 2) as u16,
            next: number(14, 2) as u16,
        }
    }
}

/// Memory and driver.
pub struct Bench {
    pub guest: Guest,
    pub memory: File,
    available: u16,
}

impl Bench {
    pub fn new(kind: Kind) -> Self {
        let memory = crate::memfd(MEMORY as u64);
        let spec = DiskSpec {
            base: &base(),
            read_only: kind.read_only,
            encrypted: kind.encrypted,
            overlay_bytes: kind.limit.map_or(u64::MAX, |clusters| u64::from(clusters % 16) * 4096),
        };
        let layout = Layout {
            size: SIZE,
            descriptors: 0,
            available: AVAILABLE as u64,
            used: USED as u64,
            event_idx: kind.event_idx,
        };
        Self {
            guest: Guest::new(&spec, &memory, &STRETCHES, layout),
            memory,
            available: 0,
        }
    }

    /// Writes memory, as far as there is any.
    pub fn put(&self, at: usize, bytes: &[u8]) {
        let bytes = &bytes[..bytes.len().min(MEMORY.saturating_sub(at))];
        let (low, high) = bytes.split_at(HALF.saturating_sub(at).min(bytes.len()));
        if !low.is_empty() {
            self.memory
                .write_all_at(low, (HALF + at) as u64)
                .expect("there is memory");
        }
        if !high.is_empty() {
            self.memory
                .write_all_at(high, (at.max(HALF) - HALF) as u64)
                .expect("there is memory");
        }
    }

    /// All of memory.
    pub fn snapshot(&self) -> Vec<u8> {
        let mut memory = vec![0; MEMORY];
        let (low, high) = memory.split_at_mut(HALF);
        self.memory.read_exact_at(low, HALF as u64).expect("it is so long");
        self.memory.read_exact_at(high, 0).expect("it is so long");
        memory
    }

    /// Makes the chain available. Its head.
    pub fn offer(&mut self, chain: &Chain) -> u16 {
        let mut list = self.lay_out(chain);
        for (index, damage) in chain.damage.iter().take(4) {
            let length = list.len();
            let descriptor = &mut list[usize::from(*index) % length];
            match *damage {
                Damage::Address(address) => descriptor.address = address,
                Damage::Length(bytes) => descriptor.bytes = bytes,
                Damage::Flags(flags) => descriptor.flags = u16::from(flags % 16),
                Damage::Next(next) => descriptor.next = next,
            }
        }
        let raw: Vec<u8> = list.iter().flat_map(|descriptor| descriptor.encode()).collect();
        if chain.indirect {
            self.put(0x1000, &raw);
            let table = Descriptor {
                address: 0x1000,
                bytes: raw.len() as u32,
                flags: INDIRECT,
                next: 0,
            };
            self.put(0, &table.encode());
        } else {
            self.put(0, &raw[..raw.len().min(usize::from(SIZE) * 16)]);
        }
        let head = chain.head.unwrap_or(0);
        self.put(
            AVAILABLE + 4 + usize::from(self.available % SIZE) * 2,
            &head.to_le_bytes(),
        );
        self.available = self.available.wrapping_add(1);
        self.put(AVAILABLE + 2, &self.available.to_le_bytes());
        head
    }

    /// The used ring's index, and the entry before it: head and length.
    pub fn used(memory: &[u8]) -> (u16, u32, u32) {
        let word = |at: usize| u32::from_le_bytes(memory[at..at + 4].try_into().expect("four bytes"));
        let index = u16::from_le_bytes([memory[USED + 2], memory[USED + 3]]);
        let entry = USED + 4 + usize::from(index.wrapping_sub(1) % SIZE) * 8;
        (index, word(entry), word(entry + 4))
    }

    fn lay_out(&self, chain: &Chain) -> Vec<Descriptor> {
        let kind = match chain.request {
            Kindly::Read => 0_u32,
            Kindly::Write => 1,
            Kindly::Flush => 4,
            Kindly::Id => 8,
            Kindly::Discard => 11,
            Kindly::Zero => 13,
            Kindly::Other(other) => other,
        };
        let mut at = 0x2000 + usize::from(chain.place % 0x300) * 64;
        let mut list = Vec::new();
        let mut add = |at: usize, bytes: usize, flags: u16| {
            let next = list.len() as u16 + 1;
            list.push(Descriptor {
                address: at as u64,
                bytes: bytes as u32,
                flags: flags | NEXT,
                next,
            });
        };
        let mut header = [0; 16];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&chain.sector.value().to_le_bytes());
        self.put(at, &header);
        let cut = chain.cut.map_or(16, |cut| usize::from(cut % 17));
        add(at, cut, 0);
        if cut < 16 {
            add(at + cut, 16 - cut, 0);
        }
        at += 64;
        if matches!(chain.request, Kindly::Discard | Kindly::Zero) {
            let mut raw = Vec::new();
            for (sector, count, flags) in chain.segments.iter().take(18) {
                raw.extend(sector.value().to_le_bytes());
                raw.extend((count.value() as u32).to_le_bytes());
                raw.extend(u32::from(*flags % 4).to_le_bytes());
            }
            self.put(at, &raw);
            add(at, raw.len(), 0);
            at += raw.len();
        } else {
            let flags = if matches!(chain.request, Kindly::Write) {
                0
            } else {
                WRITE
            };
            for piece in chain.data.iter().take(10) {
                let bytes = match *piece {
                    Piece::Sectors(count) => usize::from(count % 24) * 512,
                    Piece::Bytes(count) => usize::from(count % 0x1000),
                };
                let bytes = bytes.min(MEMORY - 0x100 - at.min(MEMORY - 0x100));
                if flags == 0 {
                    let content: Vec<u8> = (0..bytes).map(|at| chain.fill ^ (at / 5) as u8).collect();
                    self.put(at, &content);
                }
                add(at, bytes, flags);
                at += bytes;
            }
        }
        add(at, 1, WRITE);
        if let Some(last) = list.last_mut() {
            last.flags = WRITE;
            last.next = 0;
        }
        list
    }
}
