//! The scenes: each starts a backend, brings its overlay into a state, and measures the rows that need that state.

use std::path::Path;
use std::time::Duration;

use crate::backend::{Backend, Kind};
use crate::failure::Failure;
use crate::floors::wake_micros;
use crate::load::{Pattern, Stream};
use crate::results::Sample;
use crate::ring::Mode;
use crate::usage::Moment;

mod size;
mod speed;

const KIB: u64 = 1 << 10;
const BLOCK: u32 = 4 << 10;
const BIG: u32 = 128 << 10;

/// How long the question takes whether the processors are awake.
const WAKE_WINDOW: Duration = Duration::from_millis(10);

/// A number that was measured.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) row: String,
    pub(crate) sample: Sample,
}

/// The files that scenes are played on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Props<'rig> {
    /// Noise, held in the page cache.
    pub(crate) base: &'rig Path,
    /// Its length, a power of two.
    pub(crate) base_len: u64,
    /// Noise that nobody holds.
    pub(crate) cold: &'rig Path,
    /// Its length.
    pub(crate) cold_len: u64,
    /// Disks of nothing: 1 TiB, 64 GiB, 15 TiB.
    pub(crate) sparse: [&'rig Path; 3],
    /// Where overlays go.
    pub(crate) dir: &'rig Path,
    /// How long a rate is measured.
    pub(crate) window: Duration,
    /// How many GiB are dirty in the rows about growth.
    pub(crate) grow: &'rig [u64],
}

/// One backend's turn at a scene.
#[derive(Debug)]
pub(crate) struct Turn<'rig> {
    pub(crate) props: Props<'rig>,
    pub(crate) kind: Kind,
    pub(crate) round: u64,
    /// Which rows are wanted.
    pub(crate) wanted: &'rig [&'static str],
    pub(crate) found: Vec<Found>,
}

/// One run of the driver.
#[derive(Clone, Copy, Debug)]
struct Run {
    pattern: Pattern,
    len: u32,
    start: u64,
    span: u64,
    depth: u16,
    most: u64,
}

const MODES: [(Mode, &str); 2] = [(Mode::Eventfd, "eventfd"), (Mode::Polling, "polling")];

/// Who plays a scene.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    /// Ours, as users start it.
    Ours,
    /// Ours and the peers.
    Contenders,
    /// Those for orientation, too.
    Everybody,
}

/// A scene, and what the names of its rows begin with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scene {
    prefixes: &'static [&'static str],
    who: Who,
    play: fn(&mut Turn<'_>) -> Result<(), Failure>,
}

/// All scenes.
pub(crate) const ALL: &[Scene] = &[
    scene(&["read-", "seq-read-base-"], Who::Everybody, speed::base),
    scene(&["touch-"], Who::Everybody, speed::touch),
    scene(&["fill-", "memory-filled"], Who::Contenders, size::fill),
    scene(&["rewrite-"], Who::Everybody, speed::rewrite),
    scene(&["mixed-"], Who::Everybody, speed::mixed),
    scene(
        &["seq-write-", "seq-rewrite-", "seq-read-dirty-"],
        Who::Everybody,
        speed::sequential,
    ),
    scene(&["cold-"], Who::Everybody, speed::cold),
    scene(&["spawn"], Who::Contenders, size::spawn),
    scene(&["memory-start"], Who::Contenders, size::start),
    scene(&["grow-"], Who::Ours, size::grow),
];

const fn scene(prefixes: &'static [&'static str], who: Who, play: fn(&mut Turn<'_>) -> Result<(), Failure>) -> Scene {
    Scene { prefixes, who, play }
}

impl Scene {
    /// Whether a row that is wanted is measured in it, for this backend.
    pub(crate) fn has(&self, wanted: &[&str], kind: Kind) -> bool {
        let in_it = |row: &&str| self.prefixes.iter().any(|prefix| row.starts_with(prefix));
        let plays = match self.who {
            Who::Ours => kind == Kind::Mayfly,
            Who::Contenders => !kind.is_for_orientation(),
            Who::Everybody => true,
        };
        plays && wanted.iter().any(in_it)
    }

    /// Plays it.
    pub(crate) fn play(&self, turn: &mut Turn<'_>) -> Result<(), Failure> {
        (self.play)(turn)
    }
}

impl Turn<'_> {
    fn start(&self, base: &Path) -> Result<Backend, Failure> {
        Backend::start(self.kind, base, self.props.dir)
    }

    fn wants(&self, row: &str) -> bool {
        self.wanted.contains(&row)
    }

    /// The modes, every other round in the other order.
    fn modes(&self) -> [(Mode, &'static str); 2] {
        let mut modes = MODES;
        if self.round % 2 == 1 {
            modes.reverse();
        }
        modes
    }

    /// Keeps a number, if it is wanted.
    fn keep(&mut self, row: String, sample: Sample) {
        if self.wants(&row) {
            self.found.push(Found { row, sample });
        }
    }

    /// Measures a row, if it is wanted.
    fn measure(&mut self, backend: &mut Backend, row: String, mode: Mode, run: Run) -> Result<(), Failure> {
        if !self.wants(&row) {
            return Ok(());
        }
        let wake = match (mode, run.depth) {
            (Mode::Eventfd, 1) => Some(wake_micros(WAKE_WINDOW)?),
            (Mode::Eventfd | Mode::Polling, _) => None,
        };
        let before = Moment::now(&backend.pids());
        let done = drive(backend, mode, run, self.props.window, self.round)?;
        let usage = before.until(Moment::now(&backend.pids()));
        let done = done as f64;
        let worth = f64::from(if run.len == BLOCK { 1 } else { run.len });
        let sample = Sample {
            cpu_us: Some(usage.backend * 1e6 / done),
            foreign: Some(usage.foreign),
            wake_us: wake,
            ..Sample::of(self.round, done * worth / usage.elapsed)
        };
        self.found.push(Found { row, sample });
        Ok(())
    }

    /// Measures a row after the same was done for a while.
    fn steady(&mut self, backend: &mut Backend, row: String, mode: Mode, run: Run) -> Result<(), Failure> {
        if self.wants(&row) {
            drive(backend, mode, run, self.props.window / 5, self.round + 1000)?;
            self.measure(backend, row, mode, run)?;
        }
        Ok(())
    }
}

fn drive(backend: &mut Backend, mode: Mode, run: Run, limit: Duration, seed: u64) -> Result<u64, Failure> {
    let mut stream = Stream::new(run.pattern, run.len, run.start..run.start + run.span, run.most, seed);
    let ring = backend.disk.ring(run.len);
    Ok(ring.run(run.depth, mode, limit, || stream.next())?)
}

/// Does all of it, as fast as the backend can.
fn prepare(backend: &mut Backend, run: Run) -> Result<(), Failure> {
    drive(backend, Mode::Eventfd, run, Duration::from_secs(600), 7).map(drop)
}

/// Writes once to each cluster of the first `span` bytes (or to one in `share` of them), in an order without order.
fn scatter(backend: &mut Backend, span: u64, share: u64) -> Result<(), Failure> {
    let run = Run {
        pattern: Pattern::Scattered { piece: BLOCK.into() },
        len: BLOCK,
        start: 0,
        span,
        depth: 32,
        most: span / u64::from(BLOCK) / share,
    };
    prepare(backend, run)
}
