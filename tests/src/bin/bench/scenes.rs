//! The scenes: each starts a backend, brings its overlay into a state, and measures the rows that need that state.

use std::path::Path;
use std::time::Duration;

use crate::backend::{Backend, Kind};
use crate::failure::Failure;
use crate::load::{Pattern, Stream};
use crate::ring::Mode;
use crate::usage::Moment;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const BLOCK: u32 = 4 << 10;
const BIG: u32 = 128 << 10;

/// What a measurement of one row, one backend, one round found.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) row: String,
    /// In the row's unit.
    pub(crate) value: f64,
    /// Microseconds of the backend's processor time for a request.
    pub(crate) cpu: f64,
    /// The share of all processors that others used meanwhile.
    pub(crate) foreign: f64,
}

/// What a scene needs to know.
#[derive(Debug)]
pub(crate) struct Set<'rig> {
    pub(crate) base: &'rig Path,
    /// A power of two.
    pub(crate) base_len: u64,
    pub(crate) dir: &'rig Path,
    pub(crate) window: Duration,
    pub(crate) round: u64,
    pub(crate) wanted: &'rig dyn Wanted,
    pub(crate) found: Vec<Found>,
}

/// Which rows are asked for.
pub(crate) trait Wanted: std::fmt::Debug {
    /// Whether this one is.
    fn row(&self, id: &str) -> bool;
}

/// One run of the driver.
#[derive(Clone, Copy)]
struct Run {
    pattern: Pattern,
    len: u32,
    span: u64,
    depth: u16,
    most: u64,
}

const MODES: [(Mode, &str); 2] = [(Mode::Eventfd, "eventfd"), (Mode::Polling, "polling")];

/// A scene, and what the names of its rows begin with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scene {
    pub(crate) prefixes: &'static [&'static str],
    pub(crate) play: fn(&mut Set<'_>, Kind) -> Result<(), Failure>,
}

/// All scenes.
pub(crate) const ALL: &[Scene] = &[
    Scene {
        prefixes: &["read-", "seq-read-base-"],
        play: base,
    },
    Scene {
        prefixes: &["touch-"],
        play: touch,
    },
    Scene {
        prefixes: &["rewrite-"],
        play: rewrite,
    },
    Scene {
        prefixes: &["mixed-"],
        play: mixed,
    },
    Scene {
        prefixes: &["seq-"],
        play: sequential,
    },
];

impl Set<'_> {
    fn start(&self, kind: Kind) -> Result<Backend, Failure> {
        Backend::start(kind, self.base, self.dir)
    }

    /// The modes, every other round in the other order.
    fn modes(&self) -> [(Mode, &'static str); 2] {
        let mut modes = MODES;
        if self.round % 2 == 1 {
            modes.reverse();
        }
        modes
    }

    /// Measures a row, if it is wanted.
    fn measure(&mut self, backend: &mut Backend, id: String, mode: Mode, run: Run) -> Result<(), Failure> {
        if self.wanted.row(&id) {
            self.always(backend, id, mode, run)?;
        }
        Ok(())
    }

    fn always(&mut self, backend: &mut Backend, id: String, mode: Mode, run: Run) -> Result<(), Failure> {
        let before = Moment::now(backend.pid());
        let done = drive(backend, mode, run, self.window, self.round)?;
        let usage = before.until(Moment::now(backend.pid()));
        let done = done as f64;
        let bytes = f64::from(if run.len == BLOCK { 1 } else { run.len });
        self.found.push(Found {
            row: id,
            value: done * bytes / usage.elapsed,
            cpu: usage.backend * 1e6 / done,
            foreign: usage.foreign,
        });
        Ok(())
    }

    /// Measures a row after the same was done for a while.
    fn steady(&mut self, backend: &mut Backend, id: String, mode: Mode, run: Run) -> Result<(), Failure> {
        if self.wanted.row(&id) {
            drive(backend, mode, run, self.window / 5, self.round + 1000)?;
            self.always(backend, id, mode, run)?;
        }
        Ok(())
    }
}

fn drive(backend: &mut Backend, mode: Mode, run: Run, limit: Duration, seed: u64) -> Result<u64, Failure> {
    let mut stream = Stream::new(run.pattern, run.len, run.span, run.most, seed);
    Ok(backend
        .disk
        .ring(run.len)
        .run(run.depth, mode, limit, || stream.next())?)
}

/// Does all of it, as fast as the backend can.
fn prepare(backend: &mut Backend, run: Run) -> Result<(), Failure> {
    drive(backend, Mode::Polling, run, Duration::from_secs(600), 7).map(drop)
}

/// The base, untouched: random and sequential reads.
fn base(set: &mut Set<'_>, kind: Kind) -> Result<(), Failure> {
    let mut backend = set.start(kind)?;
    for (mode, suffix) in set.modes() {
        let run = |len, depth, pattern| Run {
            pattern,
            len,
            span: set.base_len,
            depth,
            most: u64::MAX,
        };
        let small = |depth| run(BLOCK, depth, Pattern::Random { writes: 0 });
        let (one, many) = (small(1), small(32));
        let big = run(BIG, 8, Pattern::Sequential { write: false });
        set.steady(&mut backend, format!("read-d1-{suffix}"), mode, one)?;
        set.steady(&mut backend, format!("read-d32-{suffix}"), mode, many)?;
        set.steady(&mut backend, format!("seq-read-base-{suffix}"), mode, big)?;
    }
    Ok(())
}

/// First writes to clusters, each in another 64 KiB (the peers' cluster), each run on a new overlay.
fn touch(set: &mut Set<'_>, kind: Kind) -> Result<(), Failure> {
    for (mode, suffix) in set.modes() {
        for depth in [1, 32] {
            let id = format!("touch-d{depth}-{suffix}");
            if set.wanted.row(&id) {
                let mut backend = set.start(kind)?;
                let run = Run {
                    pattern: Pattern::Scattered { piece: 64 * KIB },
                    len: BLOCK,
                    span: set.base_len,
                    depth,
                    most: u64::MAX,
                };
                set.measure(&mut backend, id, mode, run)?;
            }
        }
    }
    Ok(())
}

/// The region of a sixteenth of the disk in which clusters are written again.
fn filled(set: &Set<'_>, kind: Kind, share: u64) -> Result<(Backend, u64), Failure> {
    let span = set.base_len / 16;
    let mut backend = set.start(kind)?;
    let fill = Run {
        pattern: Pattern::Scattered { piece: BLOCK.into() },
        len: BLOCK,
        span,
        depth: 32,
        most: span / u64::from(BLOCK) / share,
    };
    prepare(&mut backend, fill)?;
    Ok((backend, span))
}

/// Writes to clusters that were all written before, in another order.
fn rewrite(set: &mut Set<'_>, kind: Kind) -> Result<(), Failure> {
    let (mut backend, span) = filled(set, kind, 1)?;
    for (mode, suffix) in set.modes() {
        for depth in [1, 32] {
            let run = Run {
                pattern: Pattern::Random { writes: 100 },
                len: BLOCK,
                span,
                depth,
                most: u64::MAX,
            };
            set.steady(&mut backend, format!("rewrite-d{depth}-{suffix}"), mode, run)?;
        }
    }
    Ok(())
}

/// Reads and writes where every other cluster was written before. The more is written the less is left for the first time,
/// so the number of operations is bounded: at the end, two thirds are dirty.
fn mixed(set: &mut Set<'_>, kind: Kind) -> Result<(), Failure> {
    for (mode, suffix) in set.modes() {
        let id = format!("mixed-d32-{suffix}");
        if set.wanted.row(&id) {
            let (mut backend, span) = filled(set, kind, 2)?;
            let run = Run {
                pattern: Pattern::Random { writes: 30 },
                len: BLOCK,
                span,
                depth: 32,
                most: 4 * span / 3 / u64::from(BLOCK),
            };
            set.measure(&mut backend, id, mode, run)?;
        }
    }
    Ok(())
}

/// A quarter of the disk from its beginning to its end: written, written again, read.
fn sequential(set: &mut Set<'_>, kind: Kind) -> Result<(), Failure> {
    for (mode, suffix) in set.modes() {
        let mut backend = set.start(kind)?;
        let span = set.base_len / 4;
        let run = |write| Run {
            pattern: Pattern::Sequential { write },
            len: BIG,
            span,
            depth: 8,
            most: u64::MAX,
        };
        let fresh = Run {
            most: span / u64::from(BIG),
            ..run(true)
        };
        let id = format!("seq-write-{suffix}");
        if set.wanted.row(&id) {
            set.measure(&mut backend, id, mode, fresh)?;
        }
        prepare(&mut backend, fresh)?;
        set.steady(&mut backend, format!("seq-rewrite-{suffix}"), mode, run(true))?;
        set.steady(&mut backend, format!("seq-read-dirty-{suffix}"), mode, run(false))?;
    }
    Ok(())
}

/// How much disk the largest scene needs, in bytes.
pub(crate) const fn disk_needed(base_len: u64) -> u64 {
    2 * base_len + 256 * MIB
}
