//! What it takes to begin, and what grows: start-up time, memory, disk, and rates when much is dirty.

use std::time::Duration;

use super::{BLOCK, KIB, Run, Turn, drive, scatter};
use crate::backend::Backend;
use crate::failure::Failure;
use crate::footprint;
use crate::load::Pattern;
use crate::results::Sample;
use crate::ring::Mode;
use crate::usage::Moment;

const GIB: u64 = 1 << 30;

/// How many starts are measured in a round.
const STARTS: u32 = 4;

/// Random writes to a quarter of the clusters of a fresh disk; then, what that took of disk and memory.
pub(super) fn fill(turn: &mut Turn<'_>) -> Result<(), Failure> {
    let mut backend = turn.start(turn.props.base)?;
    let writes = turn.props.base_len / u64::from(BLOCK) / 4;
    let run = Run {
        pattern: Pattern::Scattered { piece: BLOCK.into() },
        len: BLOCK,
        start: 0,
        span: turn.props.base_len,
        depth: 32,
        most: writes,
    };
    let before = Moment::now(&backend.pids());
    drive(&mut backend, Mode::Eventfd, run, Duration::from_secs(600), turn.round)?;
    let usage = before.until(Moment::now(&backend.pids()));
    let sample = Sample {
        cpu_us: Some(usage.backend * 1e6 / writes as f64),
        foreign: Some(usage.foreign),
        ..Sample::of(turn.round, writes as f64 / usage.elapsed)
    };
    turn.keep("fill-d32-eventfd".to_owned(), sample);
    let written = writes * u64::from(BLOCK);
    if let Some(disk) = footprint::disk(backend.pid()) {
        let sample = Sample::of(turn.round, disk as f64 / written as f64);
        turn.keep("fill-disk".to_owned(), sample);
    }
    if let Some(memory) = footprint::memory(backend.pid()) {
        turn.keep("memory-filled".to_owned(), Sample::of(turn.round, memory));
    }
    Ok(())
}

/// From nothing to an answer.
pub(super) fn spawn(turn: &mut Turn<'_>) -> Result<(), Failure> {
    for _ in 0..STARTS {
        let backend = Backend::start_bare(turn.kind, turn.props.base, turn.props.dir)?;
        let millis = |time: Duration| Sample::of(turn.round, time.as_secs_f64() * 1e3);
        let (spawned, prepared) = (millis(backend.spawned), millis(backend.prepared));
        turn.keep("spawn".to_owned(), spawned);
        turn.keep("spawn-overlay".to_owned(), prepared);
    }
    Ok(())
}

/// What a backend needs that has done nothing yet.
pub(super) fn start(turn: &mut Turn<'_>) -> Result<(), Failure> {
    let [tebibyte, ..] = turn.props.sparse;
    let backend = turn.start(tebibyte)?;
    if let Some(memory) = footprint::memory(backend.pid()) {
        turn.keep("memory-start".to_owned(), Sample::of(turn.round, memory));
    }
    Ok(())
}

/// Rates when more and more is dirty, and on a huge disk.
pub(super) fn grow(turn: &mut Turn<'_>) -> Result<(), Failure> {
    let [_, large, huge] = turn.props.sparse;
    let mut cases: Vec<_> = turn
        .props
        .grow
        .iter()
        .map(|gib| (gib.to_string(), *gib, large))
        .collect();
    cases.push(("huge".to_owned(), 1, huge));
    let start = usize::try_from(turn.round).unwrap_or(0) % cases.len();
    cases.rotate_left(start);
    for (name, gib, base) in cases {
        let wants = |what: &str| turn.wants(&format!("grow-{name}-{what}"));
        if !(wants("touch") || wants("rewrite") || wants("read")) {
            continue;
        }
        let mut backend = turn.start(base)?;
        scatter(&mut backend, gib * GIB, 1)?;
        let run = |pattern, span| Run {
            pattern,
            len: BLOCK,
            start: 0,
            span,
            depth: 32,
            most: u64::MAX,
        };
        let dirty = |writes| run(Pattern::Random { writes }, gib * GIB);
        turn.steady(&mut backend, format!("grow-{name}-read"), Mode::Eventfd, dirty(0))?;
        turn.steady(&mut backend, format!("grow-{name}-rewrite"), Mode::Eventfd, dirty(100))?;
        let fresh = Run {
            start: gib * GIB,
            ..run(Pattern::Scattered { piece: 64 * KIB }, 4 * GIB)
        };
        turn.measure(&mut backend, format!("grow-{name}-touch"), Mode::Eventfd, fresh)?;
    }
    Ok(())
}
