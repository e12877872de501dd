//! The results as tables: aligned for a terminal, or in Markdown.

use crate::backend::Kind;
use crate::results::{FOREIGN, Figure, Outcome, Report, Span};
use crate::rows::{self, Unit, short};

/// A table: its first line is the head.
struct Table {
    title: &'static str,
    lines: Vec<Vec<String>>,
}

/// All tables for a terminal.
pub(crate) fn text(report: &Report) -> String {
    let mut out = String::new();
    for table in tables(report) {
        out += &format!("\n{}\n\n{}", table.title, aligned(&table.lines));
    }
    out + "\n" + &remarks(report).join("\n") + "\n"
}

/// All tables in Markdown.
pub(crate) fn markdown(report: &Report) -> String {
    let mut out = String::new();
    for table in tables(report) {
        out += &format!("### {}\n\n", table.title);
        for (number, line) in table.lines.iter().enumerate() {
            out += &format!("| {} |\n", line.join(" | "));
            if number == 0 {
                out += &format!("|{}\n", "---|".repeat(line.len()));
            }
        }
        out += "\n";
    }
    for remark in remarks(report) {
        out += &format!("- {remark}\n");
    }
    out
}

fn tables(report: &Report) -> Vec<Table> {
    let all = [
        Table {
            title: "Beside the best peer",
            lines: compared(report),
        },
        Table {
            title: "Cost of encryption",
            lines: encryption(report),
        },
        Table {
            title: "As the work grows",
            lines: growth(report),
        },
        Table {
            title: "Every backend",
            lines: everybody(report),
        },
        Table {
            title: "What nothing can be faster than: one thread that does only this",
            lines: floors(report),
        },
    ];
    all.into_iter().filter(|table| table.lines.len() > 1).collect()
}

fn head(names: &[&str]) -> Vec<Vec<String>> {
    vec![names.iter().map(|name| (*name).to_owned()).collect()]
}

fn is_growth(outcome: &Outcome) -> bool {
    outcome.id.starts_with("grow-")
}

fn unit(outcome: &Outcome) -> Unit {
    rows::find(&outcome.id).map_or(Unit::Requests, |row| row.unit)
}

fn compared(report: &Report) -> Vec<Vec<String>> {
    let mut lines = head(&[
        "",
        "client",
        "mayfly",
        "best peer",
        "ratio (of rounds)",
        "CPU a request: mayfly, peer",
        "goal",
        "",
    ]);
    for outcome in report.outcomes.iter().filter(|outcome| !is_growth(outcome)) {
        let unit = unit(outcome);
        let value = |figure: Option<&Figure>| figure.map_or_else(String::new, |figure| spread(unit, figure.value));
        let cpu = |figure: Option<&Figure>| {
            let micros = figure.and_then(|figure| figure.cpu_us);
            micros.map_or_else(|| "–".to_owned(), |micros| format!("{} µs", short(micros.median)))
        };
        let peer = outcome.peer().map_or_else(String::new, |figure| {
            format!("{} {}", value(Some(figure)), figure.backend.trim_start_matches("qsd-"))
        });
        let cpus = match outcome.ours().and_then(|figure| figure.cpu_us) {
            Some(_) => format!("{}, {}", cpu(outcome.ours()), cpu(outcome.peer())),
            None => String::new(),
        };
        lines.push(vec![
            outcome.title.clone() + mark(outcome),
            outcome.mode.clone(),
            value(outcome.ours()),
            peer,
            outcome.ratio.map_or_else(String::new, range),
            cpus,
            goals(outcome),
            met(outcome),
        ]);
    }
    lines
}

fn encryption(report: &Report) -> Vec<Vec<String>> {
    let mut lines = head(&[
        "",
        "client",
        "encrypted",
        "in the clear",
        "cost (of rounds)",
        "goal",
        "",
    ]);
    for outcome in &report.outcomes {
        let Some((cost, plain)) = outcome.encryption.zip(outcome.figure(Kind::MayflyPlain.name())) else {
            continue;
        };
        let value =
            |figure: Option<&Figure>| figure.map_or_else(String::new, |figure| spread(unit(outcome), figure.value));
        let limit = outcome.encryption_limit();
        lines.push(vec![
            outcome.title.clone() + mark(outcome),
            outcome.mode.clone(),
            value(outcome.ours()),
            value(Some(plain)),
            format!(
                "{} ({}–{})",
                percent(cost.median),
                percent(cost.low),
                percent(cost.high)
            ),
            format!("≤ {}", percent(limit)),
            yes(outcome.encryption_verdict() == Some(true)).to_owned(),
        ]);
    }
    lines
}

fn growth(report: &Report) -> Vec<Vec<String>> {
    let mut lines = head(&["", "mayfly", "found", "goal", ""]);
    for outcome in report.outcomes.iter().filter(|outcome| is_growth(outcome)) {
        let value = outcome
            .ours()
            .map_or_else(String::new, |figure| spread(unit(outcome), figure.value));
        let found = outcome
            .verdicts
            .first()
            .map_or_else(String::new, |verdict| verdict.found.clone());
        lines.push(vec![
            outcome.title.clone() + mark(outcome),
            value,
            found,
            goals(outcome),
            met(outcome),
        ]);
    }
    lines
}

fn everybody(report: &Report) -> Vec<Vec<String>> {
    let mut lines = head(&["", "client"]);
    lines[0].extend(Kind::ALL.iter().map(|kind| kind.name().to_owned()));
    lines[0].push("wake-up".to_owned());
    for outcome in report.outcomes.iter().filter(|outcome| !is_growth(outcome)) {
        let value = |kind: &Kind| {
            let figure = outcome.figure(kind.name());
            figure.map_or_else(String::new, |figure| unit(outcome).text(figure.value.median))
        };
        let mut line = vec![outcome.title.clone() + mark(outcome), outcome.mode.clone()];
        line.extend(Kind::ALL.iter().map(value));
        let wake = Span::of(outcome.figures.iter().filter_map(|figure| Some(figure.wake_us?.median)));
        line.push(wake.map_or_else(String::new, |wake| format!("{} µs", short(wake.median))));
        lines.push(line);
    }
    lines
}

fn floors(report: &Report) -> Vec<Vec<String>> {
    let mut lines = head(&["", "a second"]);
    for bound in &report.floors {
        lines.push(vec![bound.what.clone(), spread(Unit::Requests, bound.rate)]);
    }
    lines
}

/// A median, and half of the range about it.
fn spread(unit: Unit, span: Span) -> String {
    let half = (span.high - span.low) / 2.0 / span.median;
    format!("{} ± {}", unit.text(span.median), percent(half))
}

fn range(span: Span) -> String {
    format!("{} × ({}–{})", short(span.median), short(span.low), short(span.high))
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

fn goals(outcome: &Outcome) -> String {
    let goals: Vec<_> = outcome.verdicts.iter().map(|verdict| verdict.goal.as_str()).collect();
    goals.join(", ")
}

fn met(outcome: &Outcome) -> String {
    let met: Vec<_> = outcome.verdicts.iter().map(|verdict| yes(verdict.met)).collect();
    met.join(", ")
}

const fn yes(met: bool) -> &'static str {
    if met { "met" } else { "MISSED" }
}

/// Whether others were at work meanwhile.
fn mark(outcome: &Outcome) -> &'static str {
    let foreign = outcome.figures.iter().filter_map(|figure| figure.foreign);
    if foreign.map(|foreign| foreign.median).fold(0.0, f64::max) > FOREIGN {
        " (!)"
    } else {
        ""
    }
}

fn remarks(report: &Report) -> Vec<String> {
    let mut all = vec![format!(
        "Medians of {} rounds with the backends in turn; ± is half of the range.",
        report.rounds
    )];
    if let Some(foreign) = report.foreign {
        let (median, high) = (percent(foreign.median), percent(foreign.high));
        all.push(if foreign.median > FOREIGN {
            format!(
                "FOREIGN LOAD: others used {median} of the processors, at times {high}. Do it again on a quiet machine."
            )
        } else {
            format!(
                "Others used {median} of the processors, at times {high}; (!) marks rows with more than {}.",
                percent(FOREIGN)
            )
        });
    }
    let verdicts = report.outcomes.iter().flat_map(|outcome| &outcome.verdicts);
    let costs = report.outcomes.iter().filter_map(Outcome::encryption_verdict);
    let (met, missed): (Vec<_>, Vec<_>) = verdicts.map(|verdict| verdict.met).chain(costs).partition(|met| *met);
    all.push(format!("{} goals met, {} missed.", met.len(), missed.len()));
    all
}

fn aligned(lines: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |cells: &Vec<String>| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    lines.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let cell = str::to_owned;

        let text = aligned(&[vec![cell("a"), cell("b")], vec![cell("µµµ"), cell("c")]]);

        assert_eq!(text, "a    b\nµµµ  c\n");
    }

    #[test]
    fn a_spread_is_half_of_the_range() {
        let span = Span {
            median: 100e3,
            low: 90e3,
            high: 120e3,
        };

        assert_eq!(spread(Unit::Requests, span), "100 k/s ± 15 %");
    }
}
