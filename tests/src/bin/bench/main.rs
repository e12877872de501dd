//! Measures the disk beside its peers (`make bench`).

#![deny(unsafe_code)]

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

mod backend;
mod disk;
mod failure;
mod load;
mod rig;
mod ring;
mod rows;
mod scenes;
mod usage;

use backend::Kind;
use failure::Failure;
use rows::{Goal, Unit};
use scenes::{Found, Set, Wanted};

#[derive(Debug)]
struct Filter(Vec<String>);

impl Wanted for Filter {
    fn row(&self, id: &str) -> bool {
        rows::find(id).is_some() && (self.0.is_empty() || self.0.iter().any(|part| id.contains(part.as_str())))
    }
}

struct Options {
    rounds: u64,
    window: Duration,
    base_mib: u64,
    filter: Filter,
    backends: Vec<Kind>,
    dir: PathBuf,
}

fn main() -> ExitCode {
    let mut options = Options {
        rounds: 5,
        window: Duration::from_millis(500),
        base_mib: 4096,
        filter: Filter(Vec::new()),
        backends: Kind::ALL.to_vec(),
        dir: PathBuf::from("/var/tmp"),
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().unwrap_or_default();
        match word.as_str() {
            "--rounds" => options.rounds = value().parse().unwrap_or(5),
            "--window-ms" => options.window = Duration::from_millis(value().parse().unwrap_or(500)),
            "--base-mib" => options.base_mib = value().parse().unwrap_or(4096),
            "--rows" => options.filter = Filter(value().split(',').map(str::to_owned).collect()),
            "--dir" => options.dir = PathBuf::from(value()),
            "--backends" => {
                let names = value();
                options.backends = Kind::ALL
                    .into_iter()
                    .filter(|kind| names.split(',').any(|name| kind.name() == name))
                    .collect();
            }
            _ => return ExitCode::from(2),
        }
    }
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let _ = writeln!(std::io::stderr(), "bench: {}", failure.chain());
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), Failure> {
    let rig = rig::Rig::new(&options.dir)?;
    let base_len = options.base_mib << 20;
    let base = rig.noise("base.raw", base_len)?;
    let warm = rig::Warm::hold(&base)?;
    let mut all: BTreeMap<(String, &'static str), Vec<Found>> = BTreeMap::new();
    for scene in scenes::ALL {
        let wanted = rows::ALL
            .iter()
            .any(|row| options.filter.row(row.id) && scene.prefixes.iter().any(|prefix| row.id.starts_with(prefix)));
        if !wanted {
            continue;
        }
        for round in 0..options.rounds {
            warm.prove()?;
            let mut order = options.backends.clone();
            let turn = usize::try_from(round).unwrap_or(0) % order.len().max(1);
            order.rotate_left(turn);
            for kind in order {
                let mut set = Set {
                    base: &base,
                    base_len,
                    dir: rig.dir(),
                    window: options.window,
                    round,
                    wanted: &options.filter,
                    found: Vec::new(),
                };
                (scene.play)(&mut set, kind)?;
                for found in set.found {
                    all.entry((found.row.clone(), kind.name())).or_default().push(found);
                }
            }
        }
    }
    show(&all, &options.backends);
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn show(all: &BTreeMap<(String, &'static str), Vec<Found>>, backends: &[Kind]) {
    let mut out = std::io::stdout();
    for row in rows::ALL {
        let figures: Vec<_> = backends
            .iter()
            .filter_map(|kind| {
                let found = all.get(&(row.id.to_owned(), kind.name()))?;
                let of = |part: fn(&Found) -> f64| median(found.iter().map(part).collect());
                Some((*kind, of(|f| f.value), of(|f| f.cpu), of(|f| f.foreign)))
            })
            .collect();
        if figures.is_empty() {
            continue;
        }
        let _ = write!(out, "{:24}", row.id);
        for (kind, value, cpu, foreign) in &figures {
            let value = match row.unit {
                Unit::Requests => format!("{:.1}k/s", value / 1e3),
                Unit::Bytes => format!("{:.2}GB/s", value / 1e9),
            };
            let _ = write!(out, " | {} {value} {cpu:.1}us {:.0}%", kind.name(), foreign * 100.0);
        }
        let best = figures
            .iter()
            .filter(|f| f.0.is_peer())
            .max_by(|a, b| a.1.total_cmp(&b.1));
        if let (Some(ours), Some(best)) = (figures.iter().find(|f| f.0 == Kind::Mayfly), best) {
            let _ = write!(out, " | {:.2}x cpu {:.2}x", ours.1 / best.1, ours.2 / best.2);
            for goal in row.goals {
                let (text, met) = match goal {
                    Goal::Ratio(least) => (format!(">={least}x"), ours.1 / best.1 >= *least),
                    Goal::CpuRatio(most) => (format!("cpu<={most:.2}x"), ours.2 / best.2 <= *most),
                    Goal::CpuMicros(most) => (format!("cpu<={most}us"), ours.2 <= *most),
                };
                let _ = write!(out, " {text}:{}", if met { "met" } else { "MISSED" });
            }
        }
        let _ = writeln!(out);
    }
}
