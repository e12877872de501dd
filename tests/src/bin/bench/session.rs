//! A whole run: the files, a warm-up, then round after round of all scenes with the backends in turn.
//!
//! Rounds are the outer loop: what disturbs the machine for a minute is then in one round of each row, not in all rounds of
//! one.

use std::fs;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use crate::args::Options;
use crate::backend::Kind;
use crate::failure::Failure;
use crate::machine::Machine;
use crate::results::{self, Entry, Report};
use crate::rig::{Rig, Warm};
use crate::scenes::{self, Props, Turn};
use crate::{chart, floors, table};

const TIB: u64 = 1 << 40;

/// Measures everything in `rig`, shows it, and writes it down.
pub(crate) fn run(options: &Options, rig: &Rig, command: String) -> Result<(), Failure> {
    let (base, warm) = base(options, rig)?;
    // Small enough to be written quickly, large enough that reads do not hit the same pages.
    let cold_len = options.base_len / 4;
    let cold = rig.noise("cold.raw", cold_len)?;
    let sparse = [
        rig.sparse("1t.raw", TIB)?,
        rig.sparse("64g.raw", TIB / 16)?,
        rig.sparse("15t.raw", 15 * TIB)?,
    ];
    let props = Props {
        base: &base,
        base_len: options.base_len,
        cold: &cold,
        cold_len,
        sparse: [&sparse[0], &sparse[1], &sparse[2]],
        dir: rig.dir(),
        window: options.window,
        grow: &options.grow,
    };
    warm_up(options, props)?;
    let mut entries = Vec::new();
    let mut bounds = Vec::new();
    for round in 0..options.rounds {
        for scene in 0..scenes::ALL.len() {
            say(&format!(
                "round {} of {}, scene {} of {}",
                round + 1,
                options.rounds,
                scene + 1,
                scenes::ALL.len()
            ));
            warm.prove()?;
            entries.extend(in_turn(options, props, round, scene)?);
        }
        if options.floors {
            bounds.push(floors::all(&base, rig.dir(), options.window / 2)?);
        }
    }
    say("");
    let report = Report {
        machine: Machine::this(rig.dir()),
        command,
        rounds: options.rounds,
        window_ms: u64::try_from(options.window.as_millis()).unwrap_or(u64::MAX),
        base_mib: options.base_len >> 20,
        foreign: results::foreign(&entries),
        outcomes: results::outcomes(&entries),
        floors: results::floors(&bounds),
    };
    publish(&report, options)
}

fn base(options: &Options, rig: &Rig) -> Result<(PathBuf, Warm), Failure> {
    say("writing the base");
    let base = rig.noise("base.raw", options.base_len)?;
    let warm = Warm::hold(&base)?;
    Ok((base, warm))
}

/// The first writes after a pause are slower than all others.
fn warm_up(options: &Options, props: Props<'_>) -> Result<(), Failure> {
    say("warming up");
    let props = Props {
        window: props.window / 2,
        ..props
    };
    for kind in options.backends.iter().filter(|kind| !kind.is_for_orientation()) {
        let mut turn = Turn {
            props,
            kind: *kind,
            round: 0,
            wanted: &["touch-d32-eventfd"],
            found: Vec::new(),
        };
        let of_them = scenes::ALL.iter().filter(|scene| scene.has(turn.wanted, *kind));
        for scene in of_them {
            scene.play(&mut turn)?;
        }
    }
    Ok(())
}

/// One scene with all backends, each round beginning with another.
fn in_turn(options: &Options, props: Props<'_>, round: u64, scene: usize) -> Result<Vec<Entry>, Failure> {
    let scene = &scenes::ALL[scene];
    let mut order: Vec<Kind> = options.backends.clone();
    let first = usize::try_from(round).unwrap_or(0) % order.len();
    order.rotate_left(first);
    let mut entries = Vec::new();
    for kind in order {
        let is_time = round == 0 || !kind.is_for_orientation();
        if is_time && scene.has(&options.rows, kind) {
            let mut turn = Turn {
                props,
                kind,
                round,
                wanted: &options.rows,
                found: Vec::new(),
            };
            scene.play(&mut turn)?;
            entries.extend(turn.found.into_iter().map(|found| (kind, found)));
        }
    }
    Ok(entries)
}

fn publish(report: &Report, options: &Options) -> Result<(), Failure> {
    let mut out = std::io::stdout();
    // Who closed our output does not want to see it.
    let _ = out.write_all(table::text(report).as_bytes());
    let json = serde_json::to_string_pretty(report).map_err(Failure::while_doing("write the results"))?;
    write(&options.json, &json)?;
    write(&options.chart, &chart::svg(report))?;
    let _ = writeln!(
        out,
        "\n{} has all samples; 'bench --render {0} docs' puts them into docs/benchmarks.md. {} has the ratios.",
        options.json.display(),
        options.chart.display()
    );
    Ok(())
}

/// Writes `text` to a file.
pub(crate) fn write(path: &Path, text: &str) -> Result<(), Failure> {
    fs::write(path, text).map_err(Failure::while_doing(format!("write {}", path.display())))
}

/// Where we are, on a line that is written over, for who watches.
fn say(what: &str) {
    let mut err = std::io::stderr();
    if err.is_terminal() {
        let _ = write!(err, "\r\x1b[K{what}");
    }
}
