//! What the guest asks for: streams of operations.
//!
//! Numbers only; nothing here knows a device.

use std::ops::Range;

use ::tests::rng::Rng;

use crate::ring::Op;

/// How the next operation follows from the ones before.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pattern {
    /// Anywhere, so many in a hundred of them writes.
    Random {
        /// How many.
        writes: u64,
    },
    /// A write somewhere in each piece of `piece` bytes, each piece once, in an order without order.
    Scattered {
        /// A multiple of the length of an operation; there is a power of two of them.
        piece: u64,
    },
    /// One after the other, and again from the beginning.
    Sequential {
        /// Or reads.
        write: bool,
    },
}

/// A stream of operations of `len` bytes within a part of the disk.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    pattern: Pattern,
    len: u64,
    start: u64,
    span: u64,
    left: u64,
    count: u64,
    rng: Rng,
}

impl Stream {
    /// One that ends after `most` operations, where the pattern does not end it before.
    pub(crate) const fn new(pattern: Pattern, len: u32, part: Range<u64>, most: u64, seed: u64) -> Self {
        let span = part.end - part.start;
        let left = match pattern {
            Pattern::Scattered { piece } => {
                let pieces = span / piece;
                if pieces < most { pieces } else { most }
            }
            Pattern::Random { .. } | Pattern::Sequential { .. } => most,
        };
        Self {
            pattern,
            len: len as u64,
            start: part.start,
            span,
            left,
            count: 0,
            rng: Rng::new(seed),
        }
    }

    /// The next.
    pub(crate) fn next(&mut self) -> Option<Op> {
        self.left = self.left.checked_sub(1)?;
        let count = self.count;
        self.count += 1;
        let slots = self.span / self.len;
        let op = match self.pattern {
            Pattern::Random { writes } => Op {
                offset: self.rng.below(slots) * self.len,
                write: writes == 100 || (writes > 0 && self.rng.chance(writes)),
            },
            Pattern::Scattered { piece } => Op {
                offset: shuffled(count, self.span / piece) * piece + self.rng.below(piece / self.len) * self.len,
                write: true,
            },
            Pattern::Sequential { write } => Op {
                offset: count % slots * self.len,
                write,
            },
        };
        Some(Op {
            offset: self.start + op.offset,
            ..op
        })
    }
}

/// Where `index` goes when the numbers below `size`, a power of two, are shuffled. Each step can be undone, so no two
/// go to the same place.
const fn shuffled(index: u64, size: u64) -> u64 {
    let mask = size - 1;
    let half = size.trailing_zeros() / 2 + 1;
    let mut place = index;
    let mut round = 0;
    while round < 3 {
        place = place.wrapping_mul(0x9e37_79b9_7f4a_7c15) & mask;
        place ^= place >> half;
        round += 1;
    }
    place
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn offsets(pattern: Pattern, span: u64, most: u64) -> Vec<u64> {
        let mut stream = Stream::new(pattern, 4096, 0..span, most, 1);
        std::iter::from_fn(|| stream.next()).map(|op| op.offset).collect()
    }

    #[test]
    fn scattered_writes_touch_each_piece_once() {
        let piece = 65536;

        let pieces: HashSet<u64> = offsets(Pattern::Scattered { piece }, 64 << 20, u64::MAX)
            .iter()
            .map(|offset| offset / piece)
            .collect();

        assert_eq!(pieces.len(), 1024);
        assert!(pieces.iter().all(|place| *place < 1024));
    }

    #[test]
    fn scattered_writes_are_not_in_order() {
        let offsets = offsets(Pattern::Scattered { piece: 4096 }, 4 << 20, 1024);

        let ascending = offsets.windows(2).filter(|pair| pair[0] < pair[1]).count();
        let neighbours = offsets.windows(2).filter(|pair| pair[0] + 4096 == pair[1]).count();

        assert!((400..624).contains(&ascending), "{ascending} of 1023 steps go up");
        assert!(neighbours < 16, "{neighbours} of 1023 steps go to the next cluster");
    }

    #[test]
    fn sequential_operations_begin_again_at_the_end() {
        let offsets = offsets(Pattern::Sequential { write: false }, 8192, 3);

        assert_eq!(offsets, [0, 4096, 0]);
    }

    #[test]
    fn a_mixture_has_its_share_of_writes() {
        let mut stream = Stream::new(Pattern::Random { writes: 30 }, 4096, 0..1 << 20, 10_000, 1);

        let writes = std::iter::from_fn(|| stream.next()).filter(|op| op.write).count();

        assert!((2800..3200).contains(&writes), "{writes} of 10000 are writes");
    }
}
