//! The disk as the specification has it (virtio 1.2, 5.2), on an array of bytes.

use crate::guest::{Descriptor, INDIRECT, MEMORY, NEXT, RING_END, SECTORS, SIZE, WRITE, base};
use blk_helper::fuzzing::SERIAL;

const SECTOR: usize = 512;
const CLUSTER: usize = 4096;

/// What a chain is.
#[derive(Clone, Debug)]
pub enum Shape {
    /// Sound: what the driver sends, and where it wants answers.
    Sound { sent: Vec<u8>, room: Vec<usize> },
    /// Unsound: it does nothing to the disk, and no more than its status is written.
    Bad,
    /// The device may accept it or not.
    Doubtful,
}

/// What a request does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It succeeds, and this is written before the status.
    Ok(Vec<u8>),
    /// It fails.
    Failed,
}

/// Bytes of a buffer, if it lies in memory.
fn places(descriptor: Descriptor) -> Option<Vec<usize>> {
    let start = usize::try_from(descriptor.address).ok()?;
    let end = start.checked_add(descriptor.bytes as usize)?;
    (end <= MEMORY).then(|| (start..end).collect())
}

/// Walks the chain of `head` in `memory`.
pub fn walk(memory: &[u8], head: u16) -> Shape {
    let mut table = 0;
    let mut entries = SIZE;
    let mut inside = false;
    let mut index = head;
    let mut seen = 0_u32;
    let (mut sent, mut room) = (Vec::new(), Vec::new());
    let mut writable = false;
    let mut bytes = 0_u64;
    loop {
        if index >= entries || seen >= u32::from(entries) {
            return Shape::Bad;
        }
        let Some(raw) = memory.get(table + usize::from(index) * 16..table + usize::from(index) * 16 + 16) else {
            return Shape::Bad;
        };
        let descriptor = Descriptor::decode(raw);
        if descriptor.flags & INDIRECT != 0 {
            // What QEMU's drivers never do, and devices differ about.
            let odd = inside || seen != 0 || descriptor.flags != INDIRECT;
            let count = descriptor.bytes / 16;
            let Ok(at) = usize::try_from(descriptor.address) else {
                return Shape::Bad;
            };
            if odd || !descriptor.bytes.is_multiple_of(16) || count == 0 || count > 256 || at >= MEMORY {
                return Shape::Doubtful;
            }
            (table, entries, inside, index, seen) = (at, count as u16, true, 0, 0);
            continue;
        }
        seen += 1;
        bytes += u64::from(descriptor.bytes);
        if descriptor.bytes == 0 || bytes > u64::from(u32::MAX) || descriptor.flags & !(NEXT | WRITE) != 0 {
            return Shape::Doubtful;
        }
        let Some(places) = places(descriptor) else {
            return Shape::Bad;
        };
        if descriptor.flags & WRITE != 0 {
            writable = true;
            room.extend(places);
        } else if writable {
            return Shape::Bad;
        } else if places[0] < RING_END {
            // The device writes there itself, before it reads the request.
            return Shape::Doubtful;
        } else {
            sent.extend(places.into_iter().map(|at| memory[at]));
        }
        if descriptor.flags & NEXT == 0 {
            break;
        }
        index = descriptor.next;
    }
    if room.is_empty() || sent.len() < 16 {
        Shape::Bad
    } else {
        Shape::Sound { sent, room }
    }
}

/// The disk.
pub struct Model {
    pub disk: Vec<u8>,
    read_only: bool,
}

fn number(bytes: &[u8]) -> u64 {
    let mut wide = [0; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(wide)
}

impl Model {
    pub fn new(read_only: bool) -> Self {
        let mut disk = base();
        disk.resize(SECTORS as usize * SECTOR, 0);
        Self { disk, read_only }
    }

    /// Whether an answer would hit the ring itself, after which nothing can be said.
    pub fn is_suicide(room: &[usize]) -> bool {
        room.iter().any(|at| *at < RING_END)
    }

    fn range(&self, sector: u64, sectors: u64) -> Option<std::ops::Range<usize>> {
        let end = sector.checked_add(sectors)?;
        (end <= SECTORS).then(|| sector as usize * SECTOR..end as usize * SECTOR)
    }

    /// Executes a sound request.
    pub fn execute(&mut self, sent: &[u8], room: usize) -> Answer {
        let (header, data) = sent.split_at(16);
        let (kind, sector) = (number(&header[..4]), number(&header[8..]));
        let room = room - 1;
        let ok = |done: Option<()>| done.map_or(Answer::Failed, |()| Answer::Ok(Vec::new()));
        match kind {
            0 if data.is_empty() && room % SECTOR == 0 => match self.range(sector, (room / SECTOR) as u64) {
                Some(range) => Answer::Ok(self.disk[range].to_vec()),
                None => Answer::Failed,
            },
            1 if room == 0 && data.len() % SECTOR == 0 && !self.read_only => {
                let range = self.range(sector, (data.len() / SECTOR) as u64);
                ok(range.map(|range| self.disk[range].copy_from_slice(data)))
            }
            4 => Answer::Ok(Vec::new()),
            8 => Answer::Ok(SERIAL[..room.min(20)].to_vec()),
            11 | 13 if room == 0 && !self.read_only => ok(self.forget(data, kind == 13)),
            _ => Answer::Failed,
        }
    }

    fn forget(&mut self, data: &[u8], zeroes: bool) -> Option<()> {
        if data.is_empty() || data.len() % 16 != 0 || data.len() > 16 * 16 {
            return None;
        }
        let mut ranges = Vec::new();
        for segment in data.chunks(16) {
            let known = u64::from(zeroes);
            if number(&segment[12..]) & !known != 0 || number(&segment[8..12]) > 1 << 19 {
                return None;
            }
            ranges.push(self.range(number(&segment[..8]), number(&segment[8..12]))?);
        }
        for range in ranges {
            if zeroes {
                self.disk[range].fill(0);
            } else {
                self.discard(range);
            }
        }
        Some(())
    }

    /// Whole clusters become zeros; that others stay is this device's choice.
    fn discard(&mut self, range: std::ops::Range<usize>) {
        for (index, cluster) in self.disk.chunks_mut(CLUSTER).enumerate() {
            let start = index * CLUSTER;
            if range.start <= start && start + cluster.len() <= range.end {
                cluster.fill(0);
            }
        }
    }
}
