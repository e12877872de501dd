//! What is measured and what is wanted of it, as data.

/// What the number of a row counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Requests a second.
    Requests,
    /// Bytes a second.
    Bytes,
    /// Milliseconds.
    Millis,
    /// MiB of memory.
    Mebibytes,
    /// A multiple of what was written.
    Times,
}

impl Unit {
    /// Whether more is better.
    pub(crate) const fn is_rate(self) -> bool {
        matches!(self, Self::Requests | Self::Bytes)
    }

    /// A number of this unit, for people.
    pub(crate) fn text(self, value: f64) -> String {
        match self {
            Self::Requests => format!("{} k/s", short(value / 1e3)),
            Self::Bytes => format!("{} GB/s", short(value / 1e9)),
            Self::Millis => format!("{} ms", short(value)),
            Self::Mebibytes => format!("{} MiB", short(value)),
            Self::Times => format!("{value:.3} ×"),
        }
    }
}

/// A number with three digits.
pub(crate) fn short(value: f64) -> String {
    let places = match value.abs() {
        ..10.0 => 2,
        10.0..100.0 => 1,
        _ => 0,
    };
    format!("{value:.places$}")
}

/// What is wanted of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Goal {
    /// At least so many times the best peer.
    Ratio(f64),
    /// At most so many times the best peer's processor time for a request.
    CpuRatio(f64),
    /// At most so many microseconds of processor time for a request.
    CpuMicros(f64),
    /// At most so much, in the row's unit.
    AtMost(f64),
    /// At least nine tenths of another row.
    Near(&'static str),
}

/// One row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    pub(crate) unit: Unit,
    pub(crate) goals: &'static [Goal],
}

impl Row {
    /// How the client learns of answers in this row, where that matters.
    pub(crate) fn mode(&self) -> &'static str {
        match self.id.rsplit_once('-') {
            Some((_, "eventfd")) => "eventfd",
            Some((_, "polling")) => "polling",
            _ => "",
        }
    }
}

const fn row(id: &'static str, title: &'static str, unit: Unit, goals: &'static [Goal]) -> Row {
    Row { id, title, unit, goals }
}

use Goal::{AtMost, CpuMicros, CpuRatio, Near, Ratio};
use Unit::{Bytes, Mebibytes, Millis, Requests, Times};

const THIRD: f64 = 1.0 / 3.0;
const READ_1: &str = "random read 4 KiB, depth 1";
const READ_32: &str = "random read 4 KiB, depth 32";
const TOUCH_1: &str = "first-touch write 4 KiB, depth 1";
const TOUCH_32: &str = "first-touch write 4 KiB, depth 32";
const REWRITE_1: &str = "rewrite 4 KiB, depth 1";
const REWRITE_32: &str = "rewrite 4 KiB, depth 32";
const MIXED: &str = "70 % read, 30 % write 4 KiB, depth 32, half overwritten";
const READ_BASE: &str = "sequential read 128 KiB of the base, depth 8";
const READ_DIRTY: &str = "sequential read 128 KiB of dirty clusters, depth 8";
const WRITE: &str = "sequential write 128 KiB, fresh, depth 8";
const REWRITE: &str = "sequential rewrite 128 KiB, depth 8";

/// All rows, in the order in which they are shown.
#[rustfmt::skip]
pub(crate) const ALL: &[Row] = &[
    row("read-d1-eventfd", READ_1, Requests, &[Ratio(1.2), CpuRatio(THIRD)]),
    row("read-d32-eventfd", READ_32, Requests, &[Ratio(2.0), CpuMicros(1.6)]),
    row("read-d1-polling", READ_1, Requests, &[Ratio(1.6)]),
    row("read-d32-polling", READ_32, Requests, &[Ratio(1.8)]),
    row("touch-d1-eventfd", TOUCH_1, Requests, &[Ratio(1.5)]),
    row("touch-d32-eventfd", TOUCH_32, Requests, &[Ratio(10.0), CpuMicros(5.0)]),
    row("touch-d1-polling", TOUCH_1, Requests, &[Ratio(5.0)]),
    row("touch-d32-polling", TOUCH_32, Requests, &[Ratio(10.0)]),
    row("fill-d32-eventfd", "random writes 4 KiB over a quarter of a fresh disk, depth 32", Requests, &[Ratio(5.0)]),
    row("fill-disk", "disk used for them, by bytes written", Times, &[AtMost(1.05)]),
    row("rewrite-d1-eventfd", REWRITE_1, Requests, &[Ratio(1.2), CpuRatio(THIRD)]),
    row("rewrite-d32-eventfd", REWRITE_32, Requests, &[Ratio(4.0), CpuMicros(3.0)]),
    row("rewrite-d1-polling", REWRITE_1, Requests, &[Ratio(3.5)]),
    row("rewrite-d32-polling", REWRITE_32, Requests, &[Ratio(3.0)]),
    row("mixed-d32-eventfd", MIXED, Requests, &[Ratio(2.5)]),
    row("mixed-d32-polling", MIXED, Requests, &[Ratio(3.0)]),
    row("seq-read-base-eventfd", READ_BASE, Bytes, &[Ratio(1.3)]),
    row("seq-read-dirty-eventfd", READ_DIRTY, Bytes, &[Ratio(0.7)]),
    row("seq-write-eventfd", WRITE, Bytes, &[Ratio(1.2)]),
    row("seq-rewrite-eventfd", REWRITE, Bytes, &[Ratio(1.0)]),
    row("seq-read-base-polling", READ_BASE, Bytes, &[Ratio(1.3)]),
    row("seq-read-dirty-polling", READ_DIRTY, Bytes, &[Ratio(0.7)]),
    row("seq-write-polling", WRITE, Bytes, &[Ratio(1.2)]),
    row("seq-rewrite-polling", REWRITE, Bytes, &[Ratio(1.0)]),
    row("cold-d32-eventfd", "random read 4 KiB of a cold base, depth 32", Requests, &[Ratio(1.0)]),
    row("spawn", "spawn to first read answered", Millis, &[AtMost(7.0)]),
    row("spawn-overlay", "the same, and the overlay made", Millis, &[AtMost(7.0)]),
    row("memory-start", "memory at the start, disk of 1 TiB", Mebibytes, &[AtMost(3.0)]),
    row("memory-filled", "memory after the random writes over a quarter of a fresh disk", Mebibytes, &[AtMost(8.0)]),
    row("grow-1-touch", "first touch, depth 32, at 1 GiB dirty", Requests, &[]),
    row("grow-1-rewrite", "rewrite, depth 32, at 1 GiB dirty", Requests, &[]),
    row("grow-1-read", "random read of dirty clusters, depth 32, at 1 GiB dirty", Requests, &[]),
    row("grow-4-touch", "first touch, at 4 GiB dirty", Requests, &[Near("grow-1-touch")]),
    row("grow-4-rewrite", "rewrite, at 4 GiB dirty", Requests, &[Near("grow-1-rewrite")]),
    row("grow-4-read", "random read, at 4 GiB dirty", Requests, &[Near("grow-1-read")]),
    row("grow-16-touch", "first touch, at 16 GiB dirty", Requests, &[Near("grow-1-touch")]),
    row("grow-16-rewrite", "rewrite, at 16 GiB dirty", Requests, &[Near("grow-1-rewrite")]),
    row("grow-16-read", "random read, at 16 GiB dirty", Requests, &[Near("grow-1-read")]),
    row("grow-huge-touch", "first touch, at 1 GiB dirty of a disk of 15 TiB", Requests, &[Near("grow-1-touch")]),
    row("grow-huge-rewrite", "rewrite, at 1 GiB dirty of a disk of 15 TiB", Requests, &[Near("grow-1-rewrite")]),
    row("grow-huge-read", "random read, at 1 GiB dirty of a disk of 15 TiB", Requests, &[Near("grow-1-read")]),
];

/// The row called `id`.
pub(crate) fn find(id: &str) -> Option<&'static Row> {
    ALL.iter().find(|row| row.id == id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_found_by_a_name_of_its_own() {
        for (place, row) in ALL.iter().enumerate() {
            assert_eq!(
                ALL.iter().position(|other| other.id == row.id),
                Some(place),
                "{}",
                row.id
            );
        }
    }

    #[test]
    fn rows_compared_with_others_name_rows() {
        for row in ALL {
            for goal in row.goals {
                if let Goal::Near(other) = goal {
                    assert!(find(other).is_some(), "{} is compared with {other}", row.id);
                }
            }
        }
    }

    #[test]
    fn numbers_have_three_digits() {
        assert_eq!([short(1.234), short(12.34), short(123.4)], ["1.23", "12.3", "123"]);
    }
}
