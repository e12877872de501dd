//! The configuration space of the virtio block device (virtio 1.2, 5.2.4), as a value that is only read.
//!
//! Built once from a [`Geometry`]; there is no write, because no offered feature has a writable field. What a frontend
//! asks for is answered exactly, at its offset and in its length, anywhere in the 256 bytes that vhost-user allows: a
//! frontend may ask for a prefix, for more than there is, or for single fields.

use crate::units::{Capacity, SECTOR_BYTES};

/// The largest configuration space that vhost-user can carry.
pub const MAX_BYTES: usize = 256;

/// Base-two logarithm of the physical block, in sectors: 4 KiB, the cluster, so that guests write whole clusters.
const PHYSICAL_BLOCK_EXP: u8 = 3;

/// What the device tells a driver about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Size of the disk.
    pub capacity: Capacity,
    /// Most data segments in a request.
    pub seg_max: u32,
    /// Request queues.
    pub num_queues: u16,
    /// Limits of discard and write-zeroes; `None` where the disk is read-only.
    pub zeroing: Option<ZeroLimits>,
}

/// Limits of discard and write-zeroes requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZeroLimits {
    /// Most sectors in a segment.
    pub max_sectors: u32,
    /// Most segments in a request.
    pub max_segments: u32,
}

/// The configuration space, as bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigSpace([u8; MAX_BYTES]);

impl ConfigSpace {
    /// Lays `geometry` out; fields of features that are not offered stay zero.
    #[must_use]
    pub fn new(geometry: &Geometry) -> Self {
        let mut space = Self([0; MAX_BYTES]);
        let sector_bytes = u32::try_from(SECTOR_BYTES).unwrap_or(u32::MAX);
        let physical_block = 1u16 << PHYSICAL_BLOCK_EXP;

        space.put(0, &geometry.capacity.sectors().0.to_le_bytes());
        space.put(12, &geometry.seg_max.to_le_bytes());
        space.put(20, &sector_bytes.to_le_bytes());
        space.put(24, &[PHYSICAL_BLOCK_EXP]);
        space.put(26, &physical_block.to_le_bytes()); // min_io_size, in blocks
        space.put(34, &geometry.num_queues.to_le_bytes());
        if let Some(limits) = geometry.zeroing {
            space.put(36, &limits.max_sectors.to_le_bytes());
            space.put(40, &limits.max_segments.to_le_bytes());
            space.put(44, &u32::from(physical_block).to_le_bytes()); // discard_sector_alignment
            space.put(48, &limits.max_sectors.to_le_bytes());
            space.put(52, &limits.max_segments.to_le_bytes());
            space.put(56, &[1]); // write_zeroes_may_unmap
        }
        space
    }

    /// The `size` bytes at `offset`, or `None` when they do not lie within [`MAX_BYTES`].
    #[must_use]
    pub fn read(&self, offset: u32, size: u32) -> Option<&[u8]> {
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(usize::try_from(size).ok()?)?;
        self.0.get(start..end)
    }

    /// Puts a field at its offset.
    fn put(&mut self, offset: usize, field: &[u8]) {
        for (to, from) in self.0.iter_mut().skip(offset).zip(field) {
            *to = *from;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> ConfigSpace {
        ConfigSpace::new(&Geometry {
            capacity: Capacity::of_image(1 << 20).unwrap(),
            seg_max: 254,
            num_queues: 4,
            zeroing: Some(ZeroLimits {
                max_sectors: 0x1000,
                max_segments: 8,
            }),
        })
    }

    #[test]
    fn each_field_is_at_its_offset() {
        let space = space();
        assert_eq!(space.read(0, 8).unwrap(), 2048u64.to_le_bytes());
        assert_eq!(space.read(8, 4).unwrap(), [0; 4]); // size_max is not offered
        assert_eq!(space.read(12, 4).unwrap(), 254u32.to_le_bytes());
        assert_eq!(space.read(20, 4).unwrap(), 512u32.to_le_bytes());
        assert_eq!(space.read(24, 2).unwrap(), [3, 0]);
        assert_eq!(space.read(26, 2).unwrap(), 8u16.to_le_bytes());
        assert_eq!(space.read(34, 2).unwrap(), 4u16.to_le_bytes());
        assert_eq!(space.read(36, 4).unwrap(), 0x1000u32.to_le_bytes());
        assert_eq!(space.read(44, 4).unwrap(), 8u32.to_le_bytes());
        assert_eq!(space.read(52, 4).unwrap(), 8u32.to_le_bytes());
        assert_eq!(space.read(56, 1).unwrap(), [1]);
    }

    #[test]
    fn a_read_has_exactly_the_length_asked_for() {
        for (offset, size) in [(0, 57), (0, 60), (0, 256), (36, 4), (255, 1), (256, 0)] {
            assert_eq!(
                space().read(offset, size).unwrap().len(),
                usize::try_from(size).unwrap()
            );
        }
    }

    #[test]
    fn a_read_past_the_end_is_refused() {
        assert_eq!(space().read(0, 257), None);
        assert_eq!(space().read(256, 1), None);
        assert_eq!(space().read(u32::MAX, u32::MAX), None);
    }
}
