//! From samples to figures: medians, spreads, ratios against the best peer, goals met or not.
//!
//! A ratio is the median of the ratios of single rounds, whose two numbers were measured shortly after one another: load
//! from elsewhere, which comes and goes, is in both. This is the file format, too.

use serde::{Deserialize, Serialize};

use crate::backend::Kind;
use crate::floors::Floor;
use crate::machine::Machine;
use crate::rows::{self, Goal, Row, Unit, short};
use crate::scenes::Found;

/// Above this share of all processors for others, a figure is marked.
pub(crate) const FOREIGN: f64 = 0.05;

/// What encryption may cost short requests, and long ones.
const ENCRYPTION: [f64; 2] = [0.20, 0.55];

/// One number of one round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) round: u64,
    pub(crate) value: f64,
    /// Microseconds of the backend's processor time for a request.
    pub(crate) cpu_us: Option<f64>,
    /// The share of all processors that others used meanwhile.
    pub(crate) foreign: Option<f64>,
    /// How long it took, just before, to wake a thread and be woken.
    pub(crate) wake_us: Option<f64>,
}

impl Sample {
    /// A number and nothing else.
    pub(crate) const fn of(round: u64, value: f64) -> Self {
        Self {
            round,
            value,
            cpu_us: None,
            foreign: None,
            wake_us: None,
        }
    }
}

/// The middle of several numbers, the lowest, and the highest.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Span {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Span {
    /// Of some numbers; none of none.
    pub(crate) fn of(numbers: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut numbers: Vec<f64> = numbers.into_iter().filter(|number| number.is_finite()).collect();
        numbers.sort_by(f64::total_cmp);
        let (upper, lower) = (numbers.len() / 2, numbers.len().checked_sub(1)? / 2);
        Some(Self {
            median: f64::midpoint(numbers[lower], numbers[upper]),
            low: *numbers.first()?,
            high: *numbers.last()?,
        })
    }
}

/// What one backend did in one row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figure {
    pub(crate) backend: String,
    pub(crate) value: Span,
    pub(crate) cpu_us: Option<Span>,
    pub(crate) foreign: Option<Span>,
    pub(crate) wake_us: Option<Span>,
    pub(crate) samples: Vec<Sample>,
}

impl Figure {
    fn of(backend: &str, samples: Vec<Sample>) -> Option<Self> {
        let of = |part: fn(&Sample) -> Option<f64>| Span::of(samples.iter().filter_map(part));
        Some(Self {
            backend: backend.to_owned(),
            value: of(|sample| Some(sample.value))?,
            cpu_us: of(|sample| sample.cpu_us),
            foreign: of(|sample| sample.foreign),
            wake_us: of(|sample| sample.wake_us),
            samples,
        })
    }

    /// How many times `other`, round by round.
    fn times(&self, other: &Self) -> Option<Span> {
        let by_round = |figure: &Self, round| {
            let of_round = figure.samples.iter().filter(|sample| sample.round == round);
            Span::of(of_round.map(|sample| sample.value)).map(|span| span.median)
        };
        let mut rounds: Vec<u64> = self.samples.iter().map(|sample| sample.round).collect();
        rounds.dedup();
        let ratio = |round: &u64| Some(by_round(self, *round)? / by_round(other, *round)?);
        Span::of(rounds.iter().filter_map(ratio))
    }
}

/// A goal, and what was found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Verdict {
    pub(crate) goal: String,
    pub(crate) found: String,
    pub(crate) met: bool,
}

/// All about one row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) id: String,
    pub(crate) title: String,
    pub(crate) mode: String,
    pub(crate) unit: String,
    pub(crate) figures: Vec<Figure>,
    /// The best of the peers here.
    pub(crate) best_peer: Option<String>,
    /// How many times the best peer.
    pub(crate) ratio: Option<Span>,
    /// How many times the best peer's processor time for a request.
    pub(crate) cpu_ratio: Option<f64>,
    /// What encryption takes away, as a share of the rate without.
    pub(crate) encryption: Option<Span>,
    pub(crate) verdicts: Vec<Verdict>,
}

impl Outcome {
    /// What a backend did.
    pub(crate) fn figure(&self, backend: &str) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.backend == backend)
    }

    /// What we did.
    pub(crate) fn ours(&self) -> Option<&Figure> {
        self.figure(Kind::Mayfly.name())
    }

    /// What the best peer did.
    pub(crate) fn peer(&self) -> Option<&Figure> {
        self.figure(self.best_peer.as_deref()?)
    }

    /// Whether encryption costs no more than it may.
    pub(crate) fn encryption_verdict(&self) -> Option<bool> {
        Some(self.encryption?.median <= self.encryption_limit())
    }

    /// What encryption may cost here.
    pub(crate) fn encryption_limit(&self) -> f64 {
        let [short, long] = ENCRYPTION;
        match rows::find(&self.id).map(|row| row.unit) {
            Some(Unit::Bytes) => long,
            _ => short,
        }
    }
}

/// How many a second nothing can be faster than.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Bound {
    pub(crate) what: String,
    pub(crate) rate: Span,
}

/// All that is known after a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    /// How this program was started.
    pub(crate) command: String,
    pub(crate) rounds: u64,
    pub(crate) window_ms: u64,
    pub(crate) base_mib: u64,
    /// Others' share of the processors, over all measurements.
    pub(crate) foreign: Option<Span>,
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) floors: Vec<Bound>,
}

/// A number of a backend.
pub(crate) type Entry = (Kind, Found);

/// The outcomes of all rows that have one.
pub(crate) fn outcomes(entries: &[Entry]) -> Vec<Outcome> {
    let mut outcomes: Vec<Outcome> = Vec::new();
    for row in rows::ALL {
        let figures: Vec<Figure> = Kind::ALL
            .into_iter()
            .filter_map(|kind| Figure::of(kind.name(), samples(entries, kind, row.id)))
            .collect();
        if !figures.is_empty() {
            let outcome = outcome(row, figures, &outcomes);
            outcomes.push(outcome);
        }
    }
    outcomes
}

fn samples(entries: &[Entry], kind: Kind, row: &str) -> Vec<Sample> {
    let of_both = |(its, found): &&Entry| *its == kind && found.row == row;
    entries
        .iter()
        .filter(of_both)
        .map(|(_, found)| found.sample.clone())
        .collect()
}

fn outcome(row: &Row, figures: Vec<Figure>, before: &[Outcome]) -> Outcome {
    let find = |kind: Kind| figures.iter().find(|figure| figure.backend == kind.name());
    let better = |a: &&Figure, b: &&Figure| {
        let order = a.value.median.total_cmp(&b.value.median);
        if row.unit.is_rate() { order } else { order.reverse() }
    };
    let peers = Kind::ALL.into_iter().filter(|kind| kind.is_peer());
    let best = peers.filter_map(find).max_by(better);
    let ours = find(Kind::Mayfly);
    let against = |other: Option<&Figure>| ours?.times(other?);
    let cpu = |figure: Option<&Figure>| Some(figure?.cpu_us?.median);
    let encryption = against(find(Kind::MayflyPlain)).filter(|_| row.unit.is_rate() && writes(row));
    let mut outcome = Outcome {
        id: row.id.to_owned(),
        title: row.title.to_owned(),
        mode: row.mode().to_owned(),
        unit: unit(row.unit).to_owned(),
        best_peer: best.map(|figure| figure.backend.clone()),
        ratio: against(best),
        cpu_ratio: cpu(ours).zip(cpu(best)).map(|(ours, best)| ours / best),
        encryption: encryption.map(|rate| Span {
            median: 1.0 - rate.median,
            low: 1.0 - rate.high,
            high: 1.0 - rate.low,
        }),
        verdicts: Vec::new(),
        figures,
    };
    outcome.verdicts = row
        .goals
        .iter()
        .filter_map(|goal| verdict(*goal, row, &outcome, before))
        .collect();
    outcome
}

/// Whether encryption has a part in it.
fn writes(row: &Row) -> bool {
    !row.id.starts_with("read-") && !row.id.starts_with("seq-read-base") && !row.id.starts_with("cold")
}

fn verdict(goal: Goal, row: &Row, outcome: &Outcome, before: &[Outcome]) -> Option<Verdict> {
    let ours = outcome.ours()?;
    let (goal, found, met) = match goal {
        Goal::Ratio(least) => {
            let ratio = outcome.ratio?.median;
            (format!("≥ {least} ×"), format!("{} ×", short(ratio)), ratio >= least)
        }
        Goal::CpuRatio(most) => {
            let ratio = outcome.cpu_ratio?;
            (
                format!("CPU ≤ {} ×", short(most)),
                format!("{} ×", short(ratio)),
                ratio <= most,
            )
        }
        Goal::CpuMicros(most) => {
            let micros = ours.cpu_us?.median;
            (
                format!("CPU ≤ {most} µs"),
                format!("{} µs", short(micros)),
                micros <= most,
            )
        }
        Goal::AtMost(most) => {
            let value = ours.value.median;
            (
                format!("≤ {}", row.unit.text(most)),
                row.unit.text(value),
                value <= most,
            )
        }
        Goal::Near(other) => {
            let reference = before.iter().find(|outcome| outcome.id == other)?.ours()?;
            let ratio = ours.times(reference)?.median;
            (
                "≥ 0.9 × at 1 GiB".to_owned(),
                format!("{} ×", short(ratio)),
                ratio >= 0.9,
            )
        }
    };
    Some(Verdict { goal, found, met })
}

const fn unit(unit: Unit) -> &'static str {
    match unit {
        Unit::Requests => "requests/s",
        Unit::Bytes => "bytes/s",
        Unit::Millis => "ms",
        Unit::Mebibytes => "MiB",
        Unit::Times => "times",
    }
}

/// Floors of several rounds, together.
pub(crate) fn floors(rounds: &[Vec<Floor>]) -> Vec<Bound> {
    let names = rounds.first().map(Vec::as_slice).unwrap_or_default();
    let rates = |name: &str| {
        let all = rounds.iter().flatten().filter(|(its, _)| *its == name);
        Span::of(all.map(|(_, rate)| *rate))
    };
    let bound = |(what, _): &Floor| {
        Some(Bound {
            what: (*what).to_owned(),
            rate: rates(what)?,
        })
    };
    names.iter().filter_map(bound).collect()
}

/// Others' share of the processors, over all measurements.
pub(crate) fn foreign(entries: &[Entry]) -> Option<Span> {
    Span::of(entries.iter().filter_map(|(_, found)| found.sample.foreign))
}

#[cfg(test)]
mod tests;
