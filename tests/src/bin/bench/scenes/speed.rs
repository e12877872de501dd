//! Rates on disks of one size: the base, first touches, rewrites, mixtures, long requests, a cold base.

use super::{BIG, BLOCK, KIB, Run, Turn, prepare, scatter};
use crate::backend::Backend;
use crate::failure::Failure;
use crate::load::Pattern;
use crate::rig::chill;
use crate::ring::Mode;

/// The base, untouched: random and sequential reads.
pub(super) fn base(turn: &mut Turn<'_>) -> Result<(), Failure> {
    let mut backend = turn.start(turn.props.base)?;
    for (mode, suffix) in turn.modes() {
        let run = |len, depth, pattern| Run {
            pattern,
            len,
            start: 0,
            span: turn.props.base_len,
            depth,
            most: u64::MAX,
        };
        let small = |depth| run(BLOCK, depth, Pattern::Random { writes: 0 });
        let (one, many) = (small(1), small(32));
        let long = run(BIG, 8, Pattern::Sequential { write: false });
        turn.steady(&mut backend, format!("read-d1-{suffix}"), mode, one)?;
        turn.steady(&mut backend, format!("read-d32-{suffix}"), mode, many)?;
        turn.steady(&mut backend, format!("seq-read-base-{suffix}"), mode, long)?;
    }
    Ok(())
}

/// First writes to clusters, each in another 64 KiB (the peers' cluster), each run on a new overlay.
pub(super) fn touch(turn: &mut Turn<'_>) -> Result<(), Failure> {
    for (mode, suffix) in turn.modes() {
        for depth in [1, 32] {
            let row = format!("touch-d{depth}-{suffix}");
            if turn.wants(&row) {
                let mut backend = turn.start(turn.props.base)?;
                let run = Run {
                    pattern: Pattern::Scattered { piece: 64 * KIB },
                    len: BLOCK,
                    start: 0,
                    span: turn.props.base_len,
                    depth,
                    most: u64::MAX,
                };
                turn.measure(&mut backend, row, mode, run)?;
            }
        }
    }
    Ok(())
}

/// A backend with a region, a sixteenth of the disk, where one of `share` clusters is dirty.
fn dirty(turn: &Turn<'_>, share: u64) -> Result<(Backend, u64), Failure> {
    let span = turn.props.base_len / 16;
    let mut backend = turn.start(turn.props.base)?;
    scatter(&mut backend, span, share)?;
    Ok((backend, span))
}

/// Writes to clusters that were all written before, in another order.
pub(super) fn rewrite(turn: &mut Turn<'_>) -> Result<(), Failure> {
    let (mut backend, span) = dirty(turn, 1)?;
    for (mode, suffix) in turn.modes() {
        for depth in [1, 32] {
            let run = Run {
                pattern: Pattern::Random { writes: 100 },
                len: BLOCK,
                start: 0,
                span,
                depth,
                most: u64::MAX,
            };
            turn.steady(&mut backend, format!("rewrite-d{depth}-{suffix}"), mode, run)?;
        }
    }
    Ok(())
}

/// Reads and writes where every other cluster was written before. The more is written, the less is left for the first
/// time, so the number of operations is bounded: at the end, two thirds are dirty.
pub(super) fn mixed(turn: &mut Turn<'_>) -> Result<(), Failure> {
    for (mode, suffix) in turn.modes() {
        let row = format!("mixed-d32-{suffix}");
        if turn.wants(&row) {
            let (mut backend, span) = dirty(turn, 2)?;
            let run = Run {
                pattern: Pattern::Random { writes: 30 },
                len: BLOCK,
                start: 0,
                span,
                depth: 32,
                most: 4 * span / 3 / u64::from(BLOCK),
            };
            turn.measure(&mut backend, row, mode, run)?;
        }
    }
    Ok(())
}

/// A quarter of the disk from its beginning to its end: written, written again, read.
pub(super) fn sequential(turn: &mut Turn<'_>) -> Result<(), Failure> {
    for (mode, suffix) in turn.modes() {
        let mut backend = turn.start(turn.props.base)?;
        let span = turn.props.base_len / 4;
        let run = |write| Run {
            pattern: Pattern::Sequential { write },
            len: BIG,
            start: 0,
            span,
            depth: 8,
            most: u64::MAX,
        };
        let fresh = Run {
            most: span / u64::from(BIG),
            ..run(true)
        };
        turn.measure(&mut backend, format!("seq-write-{suffix}"), mode, fresh)?;
        // What the time did not suffice for.
        prepare(&mut backend, fresh)?;
        turn.steady(&mut backend, format!("seq-rewrite-{suffix}"), mode, run(true))?;
        turn.steady(&mut backend, format!("seq-read-dirty-{suffix}"), mode, run(false))?;
    }
    Ok(())
}

/// Random reads of a base that is not in memory.
pub(super) fn cold(turn: &mut Turn<'_>) -> Result<(), Failure> {
    let mut backend = turn.start(turn.props.cold)?;
    chill(turn.props.cold)?;
    let run = Run {
        pattern: Pattern::Random { writes: 0 },
        len: BLOCK,
        start: 0,
        span: turn.props.cold_len,
        depth: 32,
        most: u64::MAX,
    };
    turn.measure(&mut backend, "cold-d32-eventfd".to_owned(), Mode::Eventfd, run)
}
