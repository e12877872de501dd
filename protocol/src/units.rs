//! Sectors, counts and byte ranges, as types: the only place where 512 is written.
//!
//! A guest names sectors. Whether they lie on the disk is decided *in sectors*, by [`Capacity::range`], before anything
//! is multiplied; only a range that passed becomes bytes, and from then on its arithmetic cannot overflow, because a
//! [`Capacity`] never exceeds the largest file offset.
//!
//! Knows nothing of clusters, files or requests.

/// Bytes in a sector: virtio counts in these whatever the block size (virtio 1.2, 5.2.4).
pub const SECTOR_BYTES: u64 = 512;

/// The index of a sector, as a guest gave it: any number at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sector(pub u64);

/// A number of sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SectorCount(pub u64);

impl SectorCount {
    /// How many sectors `bytes` are, or `None` when they are not whole sectors.
    #[must_use]
    pub fn from_bytes(bytes: u64) -> Option<Self> {
        bytes.is_multiple_of(SECTOR_BYTES).then_some(Self(bytes / SECTOR_BYTES))
    }
}

/// The size of a disk: whole sectors, and no more bytes than a file offset can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity(SectorCount);

impl Capacity {
    /// The disk that holds an image of `bytes`: a last partial sector is completed (with zeros, by who reads it), so
    /// that nothing of the image is lost.
    ///
    /// `None` for an image that no file offset reaches the end of.
    #[must_use]
    pub fn of_image(bytes: u64) -> Option<Self> {
        let sectors = bytes.div_ceil(SECTOR_BYTES);
        let end = sectors.checked_mul(SECTOR_BYTES)?;
        i64::try_from(end).ok().map(|_| Self(SectorCount(sectors)))
    }

    /// The size in sectors.
    #[must_use]
    pub fn sectors(self) -> SectorCount {
        self.0
    }

    /// The size in bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        // Cannot saturate: `of_image` refused every size whose bytes do not fit.
        self.0.0.saturating_mul(SECTOR_BYTES)
    }

    /// The bytes of `count` sectors from `start`, or `None` unless all of them lie on the disk.
    #[must_use]
    pub fn range(self, start: Sector, count: SectorCount) -> Option<ByteRange> {
        let end = start.0.checked_add(count.0)?;
        (end <= self.0.0).then(|| ByteRange {
            // Cannot saturate: both lie within a capacity whose bytes fit.
            start: start.0.saturating_mul(SECTOR_BYTES),
            end: end.saturating_mul(SECTOR_BYTES),
        })
    }
}

/// Bytes `[start, end)` of a disk. Made only by [`Capacity::range`] and by cutting one that was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    /// First byte.
    start: u64,
    /// One past the last byte; never below `start`.
    end: u64,
}

impl ByteRange {
    /// The first byte.
    #[must_use]
    pub fn start(self) -> u64 {
        self.start
    }

    /// One past the last byte.
    #[must_use]
    pub fn end(self) -> u64 {
        self.end
    }

    /// The number of bytes.
    #[must_use]
    pub fn len(self) -> u64 {
        // Cannot saturate: `end` is never below `start`.
        self.end.saturating_sub(self.start)
    }

    /// Whether there is no byte in it.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.start >= self.end
    }

    /// The part of it that lies within `[start, end)`, possibly empty.
    #[must_use]
    pub fn within(self, start: u64, end: u64) -> Self {
        let start = self.start.max(start).min(self.end);
        Self {
            start,
            end: self.end.min(end).max(start),
        }
    }

    /// Cuts it at multiples of `grain` (which must not be zero: then nothing is yielded), in order.
    pub fn pieces(self, grain: u64) -> impl Iterator<Item = Self> {
        let mut rest = self;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let boundary = rest.start.checked_div(grain)?.checked_add(1)?.checked_mul(grain)?;
            let piece = rest.within(rest.start, boundary);
            rest.start = piece.end;
            Some(piece)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_partial_last_sector_is_completed() {
        assert_eq!(Capacity::of_image(513).unwrap().sectors(), SectorCount(2));
        assert_eq!(Capacity::of_image(512).unwrap().sectors(), SectorCount(1));
        assert_eq!(Capacity::of_image(0).unwrap().bytes(), 0);
    }

    #[test]
    fn an_image_beyond_file_offsets_is_refused() {
        assert_eq!(Capacity::of_image(u64::MAX), None);
        assert_eq!(Capacity::of_image(1 << 63), None);
        assert!(Capacity::of_image((1 << 63) - 512).is_some());
    }

    #[test]
    fn a_sector_whose_byte_offset_would_wrap_is_refused() {
        let disk = Capacity::of_image(1 << 30).unwrap();

        // 2^55 * 512 is 2^64: shifted without a check it would name byte 0.
        assert_eq!(disk.range(Sector(1 << 55), SectorCount(1)), None);
        assert_eq!(disk.range(Sector(u64::MAX), SectorCount(1)), None);
        assert_eq!(disk.range(Sector(1), SectorCount(u64::MAX)), None);
    }

    #[test]
    fn only_whole_sectors_are_counted() {
        assert_eq!(SectorCount::from_bytes(1024), Some(SectorCount(2)));
        assert_eq!(SectorCount::from_bytes(1023), None);
    }

    /// Exhaustive: every combination of size, start and count out of all numbers within three of zero (so of 2^64, from below) and
    /// of where something ends: 2^9, the bytes of a sector; 2^32, half of a number; 2^54 and 2^55, the sectors of 2^63 and of 2^64
    /// bytes; 2^62, two of which are 2^63; 2^63, where file offsets end.
    #[test]
    fn at_every_boundary_a_range_is_what_wide_arithmetic_says() {
        let near = |number: u64| (0..=3).flat_map(move |by| [number.wrapping_sub(by), number.wrapping_add(by)]);
        let powers = [9, 32, 54, 55, 62, 63].into_iter().map(|bit| 1 << bit);
        let mut numbers: Vec<u64> = powers.chain([0]).flat_map(near).collect();
        numbers.sort_unstable();
        numbers.dedup();

        for &size in &numbers {
            let sectors = u128::from(size).div_ceil(512);
            let disk = Capacity::of_image(size);
            assert_eq!(disk.is_some(), sectors * 512 < 1 << 63, "{size}");
            let Some(disk) = disk else { continue };
            assert_eq!(u128::from(disk.bytes()), sectors * 512);
            for &start in &numbers {
                for &count in &numbers {
                    let (first, many) = (u128::from(start), u128::from(count));
                    let expected = (first + many <= sectors).then_some((first * 512, (first + many) * 512));
                    let range = disk.range(Sector(start), SectorCount(count));
                    let found = range.map(|range| (u128::from(range.start()), u128::from(range.end())));
                    assert_eq!(found, expected, "{size} {start} {count}");
                }
            }
        }
    }

    /// Exhaustive: every range of a disk of eight sectors, cut at every pair of half sectors, and into pieces of every size.
    #[test]
    fn every_part_of_a_small_range_lies_in_it_and_every_cut_loses_nothing() {
        let disk = Capacity::of_image(8 * 512).unwrap();
        for start in 0..=8 {
            for count in 0..=8 - start {
                let range = disk.range(Sector(start), SectorCount(count)).unwrap();
                for cut in (0..=20).flat_map(|from| (0..=20).map(move |to| (from * 256, to * 256))) {
                    let part = range.within(cut.0, cut.1);
                    let halves = (range.start() / 256..range.end() / 256).map(|half| half * 256);
                    let expected = halves.filter(|at| (cut.0..cut.1).contains(at)).count();
                    assert_eq!(part.len(), u64::try_from(expected).unwrap() * 256, "{range:?} {cut:?}");
                    assert!(range.start() <= part.start() && part.start() <= part.end() && part.end() <= range.end());
                }
                for grain in (1..=17).map(|halves| halves * 256) {
                    let pieces: Vec<_> = range.pieces(grain).collect();
                    let ends = pieces.iter().map(|piece| piece.end());
                    let starts: Vec<_> = std::iter::once(range.start()).chain(ends).collect();
                    assert_eq!(*starts.last().unwrap(), range.end());
                    for (piece, start) in pieces.iter().zip(starts) {
                        assert_eq!(piece.start(), start);
                        assert_eq!(start / grain, (piece.end() - 1) / grain);
                    }
                }
                assert_eq!(range.pieces(0).count(), 0);
            }
        }
    }

    proptest! {
        #[test]
        fn a_range_is_on_the_disk_exactly_when_128_bit_arithmetic_says_so(
            size in 0u64..1 << 62, start: u64, count: u64
        ) {
            let disk = Capacity::of_image(size).unwrap();
            let end = u128::from(start) + u128::from(count);

            let range = disk.range(Sector(start), SectorCount(count));

            prop_assert_eq!(range.is_some(), end <= u128::from(disk.sectors().0));
            if let Some(range) = range {
                prop_assert_eq!(u128::from(range.start()), u128::from(start) * 512);
                prop_assert_eq!(u128::from(range.len()), u128::from(count) * 512);
            }
        }

        #[test]
        fn pieces_join_to_the_range_and_never_cross_a_grain(
            start in 0u64..100_000, count in 0u64..100_000, grain in 1u64..1 << 21
        ) {
            let disk = Capacity::of_image(1 << 40).unwrap();
            let range = disk.range(Sector(start), SectorCount(count)).unwrap();

            let mut at = range.start();
            for piece in range.pieces(grain) {
                prop_assert_eq!(piece.start(), at);
                prop_assert!(!piece.is_empty());
                prop_assert_eq!(piece.start() / grain, (piece.end() - 1) / grain);
                at = piece.end();
            }
            prop_assert_eq!(at, range.end());
        }
    }
}
