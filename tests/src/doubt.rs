//! What nobody can know of a disk: the sectors that a failed request was to change.
//!
//! Such a sector may be as it was, as it should have become, or something between, until it is written again. All others are what
//! the model says: a request that fails changes nothing beside its own range.

use crate::model::{SECTOR, zeroed_by_discard};
use crate::traffic::{Kind, Op};

/// The sectors of a disk that are in doubt.
#[derive(Clone, Debug)]
pub struct Doubt {
    sectors: Vec<bool>,
}

impl Doubt {
    /// None, of a disk of `bytes` bytes.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self {
            sectors: vec![false; bytes.div_ceil(SECTOR)],
        }
    }

    /// An operation is answered: it failed, or what it has written is beyond doubt.
    ///
    /// # Panics
    ///
    /// If it is not within the disk.
    pub fn answered(&mut self, op: Op, failed: bool) {
        let place = |bytes: u64| usize::try_from(bytes).expect("offsets are below a model's length");
        let (offset, len) = (place(op.offset), place(op.len));
        let range = match op.kind {
            Kind::Read | Kind::Flush => return,
            Kind::Write | Kind::WriteZeroes { .. } => offset..offset + len,
            Kind::Discard => zeroed_by_discard(self.sectors.len() * SECTOR, offset, len),
        };
        if !range.is_empty() {
            self.sectors[range.start / SECTOR..range.end / SECTOR].fill(failed);
        }
    }

    /// Replaces what was found, at `offset`, by what was expected where nobody can know.
    pub fn benefit(&self, offset: usize, found: &mut [u8], expected: &[u8]) {
        let pieces = found.chunks_mut(SECTOR).zip(expected.chunks(SECTOR));
        for ((found, expected), doubtful) in pieces.zip(&self.sectors[offset / SECTOR..]) {
            if *doubtful {
                found.copy_from_slice(expected);
            }
        }
    }
}
