//! Random traffic that is nasty on purpose: what a guest might do to a disk, in the proportions that find mistakes.
//!
//! Ranges are multiples of 512 bytes and mostly not of a cluster; small ones are common and large ones go to a
//! mebibyte; most fall into a few small zones, so that a cluster goes through all its states again and again, and
//! some end exactly where the disk ends. It knows the shape of a disk, not its content and not the device.

use crate::rng::Rng;

const SECTOR: u64 = 512;

/// What to do, without any buffers yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Compare with the model.
    Read,
    /// New noise.
    Write,
    /// Whole clusters to zero, as advice.
    Discard,
    /// Zeros, with or without UNMAP.
    WriteZeroes {
        /// Whether UNMAP is set.
        unmap: bool,
    },
    /// Nothing that can be seen.
    Flush,
}

/// One operation on a byte range of the disk; a flush has an empty one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Op {
    /// What.
    pub kind: Kind,
    /// Where it begins.
    pub offset: u64,
    /// How long it is.
    pub len: u64,
}

impl Op {
    /// Whether it changes the disk.
    #[must_use]
    pub const fn changes(&self) -> bool {
        match self.kind {
            Kind::Write | Kind::Discard | Kind::WriteZeroes { .. } => true,
            Kind::Read | Kind::Flush => false,
        }
    }

    /// Whether both touch a byte that one of them changes. Two that only share a cluster do not conflict: keeping
    /// them apart is the device's business.
    #[must_use]
    pub const fn conflicts(&self, other: &Self) -> bool {
        let apart = self.offset + self.len <= other.offset || other.offset + other.len <= self.offset;
        !apart && (self.changes() || other.changes())
    }
}

/// An endless sequence of operations that a seed determines.
#[derive(Clone, Debug)]
pub struct Traffic {
    rng: Rng,
    capacity: u64,
}

impl Traffic {
    /// Traffic for a disk of `capacity` bytes.
    ///
    /// # Panics
    ///
    /// If the disk has no sector.
    #[must_use]
    pub fn new(capacity: u64, seed: u64) -> Self {
        assert!(capacity >= SECTOR, "a disk without sectors has no traffic");
        Self {
            rng: Rng::new(seed),
            capacity,
        }
    }

    /// The next operation.
    pub fn draw(&mut self) -> Op {
        let kind = self.kind();
        if kind == Kind::Flush {
            return Op {
                kind,
                offset: 0,
                len: 0,
            };
        }
        let (start, end) = self.zone();
        let len = self.len().min(end - start);
        let last = (end - len - start) / SECTOR;
        let offset = start + self.rng.between(0, last) * SECTOR;
        Op { kind, offset, len }
    }

    fn kind(&mut self) -> Kind {
        match self.rng.below(100) {
            0..40 => Kind::Read,
            40..75 => Kind::Write,
            75..87 => Kind::Discard,
            87..92 => Kind::WriteZeroes { unmap: false },
            92..97 => Kind::WriteZeroes { unmap: true },
            _ => Kind::Flush,
        }
    }

    /// Where it happens: a hot zone of 2 MiB, a hotter one of 64 KiB, the disk's last 96 KiB, or anywhere.
    fn zone(&mut self) -> (u64, u64) {
        let end = self.capacity;
        match self.rng.below(100) {
            0..45 => (0, end.min(2 << 20)),
            45..60 => (0, end.min(64 << 10)),
            60..68 => (end.saturating_sub(96 << 10) / SECTOR * SECTOR, end),
            _ => (0, end),
        }
    }

    fn len(&mut self) -> u64 {
        let sectors = match self.rng.below(1000) {
            0..300 => self.rng.between(1, 7),
            300..550 => 8 * self.rng.between(1, 4),
            550..900 => self.rng.between(8, 64),
            900..980 => self.rng.between(64, 256),
            980..997 => self.rng.between(256, 1024),
            _ => self.rng.between(1024, 2048),
        };
        sectors * SECTOR
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_is_inside_the_disk_and_made_of_sectors() {
        let capacity = (3 << 20) + 3 * SECTOR;
        let mut traffic = Traffic::new(capacity, 1);

        for op in std::iter::repeat_with(|| traffic.draw()).take(100_000) {
            assert!(op.offset + op.len <= capacity, "{op:?}");
            assert_eq!(op.offset % SECTOR + op.len % SECTOR, 0, "{op:?}");
            assert_eq!(op.len == 0, op.kind == Kind::Flush, "{op:?}");
        }
    }

    #[test]
    fn some_operations_end_where_the_disk_ends() {
        let capacity = (3 << 20) + 3 * SECTOR;
        let mut traffic = Traffic::new(capacity, 1);

        let at_the_end = std::iter::repeat_with(|| traffic.draw())
            .take(100_000)
            .filter(|op| op.offset + op.len == capacity)
            .count();

        assert!(at_the_end > 100, "{at_the_end}");
    }

    #[test]
    fn two_reads_never_conflict_and_a_shared_byte_does() {
        let read = Op {
            kind: Kind::Read,
            offset: 0,
            len: 1024,
        };
        let write = Op {
            kind: Kind::Write,
            offset: 512,
            len: 512,
        };
        let beside = Op {
            kind: Kind::Write,
            offset: 1024,
            len: 512,
        };

        assert!(!read.conflicts(&read));
        assert!(read.conflicts(&write));
        assert!(!write.conflicts(&beside));
    }
}
