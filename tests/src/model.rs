//! The reference disk: an array of bytes and the obvious methods.
//!
//! It is what a guest should find, written so plainly that it can be checked by looking at it. It knows the two
//! things a guest can tell apart about Mayfly's disks: a discard zeroes the whole clusters inside its range and
//! leaves the partial ones as they were, and the base's last sector is filled up with zeros.

use std::ops::Range;

/// What a discard works on, and the alignment the device advertises as its physical block.
pub const CLUSTER: usize = 4096;

/// The unit of virtio-blk, whatever the block size.
pub const SECTOR: usize = 512;

/// A disk that cannot be wrong.
#[derive(Clone, Debug)]
pub struct Model {
    bytes: Vec<u8>,
}

impl Model {
    /// A disk over `base`, rounded up to whole sectors.
    #[must_use]
    pub fn new(base: &[u8]) -> Self {
        let mut bytes = base.to_vec();
        bytes.resize(base.len().next_multiple_of(SECTOR), 0);
        Self { bytes }
    }

    /// The capacity in bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether the disk has no sector.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// What a read returns.
    #[must_use]
    pub fn read(&self, offset: usize, len: usize) -> &[u8] {
        &self.bytes[offset..offset + len]
    }

    /// What a write does.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        self.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// What a write-zeroes does: exactly its range, with or without UNMAP.
    pub fn write_zeroes(&mut self, offset: usize, len: usize) {
        self.bytes[offset..offset + len].fill(0);
    }

    /// What a discard does: the whole clusters inside its range.
    ///
    /// The disk's last cluster may be short; it counts as whole when the range covers what there is of it.
    pub fn discard(&mut self, offset: usize, len: usize) {
        let zeroed = zeroed_by_discard(self.bytes.len(), offset, len);
        self.bytes[zeroed].fill(0);
    }
}

/// What a discard of that range zeroes of a disk of `disk` bytes.
#[must_use]
pub fn zeroed_by_discard(disk: usize, offset: usize, len: usize) -> Range<usize> {
    let end = offset + len;
    let last = if end == disk { end } else { end - end % CLUSTER };
    let first = offset.next_multiple_of(CLUSTER).min(last);
    first..last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_discard_leaves_partial_clusters_alone() {
        let mut model = Model::new(&vec![7; 4 * CLUSTER]);

        model.discard(SECTOR, 2 * CLUSTER);

        assert_eq!(model.read(0, CLUSTER), vec![7; CLUSTER]);
        assert_eq!(model.read(CLUSTER, CLUSTER), vec![0; CLUSTER]);
        assert_eq!(model.read(2 * CLUSTER, 2 * CLUSTER), vec![7; 2 * CLUSTER]);
    }

    #[test]
    fn a_discard_to_the_end_takes_the_short_last_cluster() {
        let mut model = Model::new(&vec![7; CLUSTER + 3 * SECTOR]);

        model.discard(SECTOR, CLUSTER + 2 * SECTOR);

        assert_eq!(model.read(0, CLUSTER), vec![7; CLUSTER]);
        assert_eq!(model.read(CLUSTER, 3 * SECTOR), vec![0; 3 * SECTOR]);
    }

    #[test]
    fn a_base_of_odd_length_is_filled_up_with_zeros() {
        let model = Model::new(&[7; SECTOR + 1]);

        assert_eq!(model.len(), 2 * SECTOR);
        assert_eq!(model.read(SECTOR, 2), [7, 0]);
    }
}
