//! The ratios as a picture: a bar for each row, from one times the best peer, on a logarithmic scale, with the goal as a mark.

use std::fmt::Write;

use crate::results::{Outcome, Report};
use crate::rows::{self, Goal, short};

const WIDTH: f64 = 900.0;
const LEFT: f64 = 430.0;
const RIGHT: f64 = 70.0;
const TOP: f64 = 78.0;
const LINE: f64 = 22.0;
/// The powers of two between which bars end.
const SCALE: (f64, f64) = (-2.0, 5.0);

const MET: &str = "#2a7f62";
const MISSED: &str = "#c0562f";

/// The picture.
pub(crate) fn svg(report: &Report) -> String {
    let bars: Vec<(&Outcome, f64, f64)> = report.outcomes.iter().filter_map(bar).collect();
    let height = TOP + LINE * bars.iter().map(|_| 1.0).sum::<f64>() + 16.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n"
    );
    frame(&mut out, height);
    let mut y = TOP;
    for bar in bars {
        row(&mut out, y, bar);
        y += LINE;
    }
    out + "</svg>\n"
}

/// What it is, and the scale.
fn frame(out: &mut String, height: f64) {
    text(
        out,
        (16.0, 24.0),
        "start",
        "font-size=\"15\" font-weight=\"bold\"",
        "blk-helper beside the best qemu-storage-daemon",
    );
    text(
        out,
        (16.0, 42.0),
        "start",
        "fill=\"#555\"",
        "times as fast, median of interleaved rounds; the line is the goal",
    );
    for power in [-2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0_f64] {
        let (x, colour) = (place(power.exp2()), if power == 0.0 { "#444" } else { "#ddd" });
        line(out, (x, TOP - 4.0), (x, height - 14.0), colour, 1.0);
        text(
            out,
            (x, TOP - 8.0),
            "middle",
            "fill=\"#777\" font-size=\"10\"",
            &format!("{} ×", power.exp2()),
        );
    }
}

/// A name, its bar, the goal's mark and the ratio.
fn row(out: &mut String, y: f64, (outcome, ratio, goal): (&Outcome, f64, f64)) {
    let name = if outcome.mode.is_empty() {
        outcome.title.clone()
    } else {
        format!("{}, {}", outcome.title, outcome.mode)
    };
    text(
        out,
        (LEFT - 8.0, y + 14.0),
        "end",
        "fill=\"#222\" font-size=\"11\"",
        &name,
    );
    let (one, end) = (place(1.0), place(ratio));
    let colour = if ratio >= goal { MET } else { MISSED };
    let (x, width) = (one.min(end), (end - one).abs().max(1.0));
    let y_bar = y + 4.0;
    let _ = writeln!(
        out,
        "<rect x=\"{x:.1}\" y=\"{y_bar:.1}\" width=\"{width:.1}\" height=\"13\" fill=\"{colour}\"/>"
    );
    line(out, (place(goal), y + 1.0), (place(goal), y + 20.0), "#111", 2.0);
    let label = one.max(end).max(place(goal)) + 6.0;
    text(
        out,
        (label, y + 14.0),
        "start",
        "fill=\"#222\"",
        &format!("{} ×", short(ratio)),
    );
}

/// What has a ratio, and one to reach.
fn bar(outcome: &Outcome) -> Option<(&Outcome, f64, f64)> {
    let goals = rows::find(&outcome.id)?.goals;
    let goal = goals.iter().find_map(|goal| match goal {
        Goal::Ratio(least) => Some(*least),
        Goal::CpuRatio(_) | Goal::CpuMicros(_) | Goal::AtMost(_) | Goal::Near(_) => None,
    })?;
    Some((outcome, outcome.ratio?.median, goal))
}

/// Where a ratio is, from left to right.
fn place(ratio: f64) -> f64 {
    let (low, high) = SCALE;
    let part = (ratio.log2().clamp(low, high) - low) / (high - low);
    LEFT + part * (WIDTH - LEFT - RIGHT)
}

fn line(out: &mut String, from: (f64, f64), to: (f64, f64), colour: &str, width: f64) {
    let _ = writeln!(
        out,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\" stroke-width=\"{width}\"/>",
        from.0, from.1, to.0, to.1
    );
}

fn text(out: &mut String, at: (f64, f64), anchor: &str, style: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let (x, y) = at;
    let _ = writeln!(
        out,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" {style}>{words}</text>"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_is_logarithmic_and_ends() {
        let step = place(2.0) - place(1.0);

        assert!((place(4.0) - place(2.0) - step).abs() < 1e-9);
        assert!((place(1e9) - (WIDTH - RIGHT)).abs() < 1e-9);
        assert!((place(0.0) - LEFT).abs() < 1e-9);
    }

    #[test]
    fn words_cannot_end_the_picture() {
        let mut out = String::new();

        text(&mut out, (0.0, 0.0), "start", "", "</svg> & more");

        assert!(out.contains("&lt;/svg> &amp; more"), "{out}");
    }
}
