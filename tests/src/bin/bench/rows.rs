//! What is measured and what is wanted of it: the tables of issue "Speed", as data.

use crate::ring::Mode;

/// What the number of a row counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Requests a second.
    Requests,
    /// Bytes a second.
    Bytes,
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
}

/// One row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    pub(crate) mode: Mode,
    pub(crate) unit: Unit,
    pub(crate) goals: &'static [Goal],
}

const fn row(id: &'static str, title: &'static str, mode: Mode, unit: Unit, goals: &'static [Goal]) -> Row {
    Row {
        id,
        title,
        mode,
        unit,
        goals,
    }
}

use Goal::{CpuMicros, CpuRatio, Ratio};
use Mode::{Eventfd, Polling};
use Unit::{Bytes, Requests};

const THIRD: f64 = 1.0 / 3.0;

/// All rows, in the order in which they are shown.
pub(crate) const ALL: &[Row] = &[
    row(
        "read-d1-eventfd",
        "random read 4 KiB, depth 1",
        Eventfd,
        Requests,
        &[Ratio(1.2), CpuRatio(THIRD)],
    ),
    row(
        "read-d32-eventfd",
        "random read 4 KiB, depth 32",
        Eventfd,
        Requests,
        &[Ratio(2.0), CpuMicros(1.6)],
    ),
    row(
        "read-d1-polling",
        "random read 4 KiB, depth 1",
        Polling,
        Requests,
        &[Ratio(1.6)],
    ),
    row(
        "read-d32-polling",
        "random read 4 KiB, depth 32",
        Polling,
        Requests,
        &[Ratio(1.8)],
    ),
    row(
        "touch-d1-eventfd",
        "first-touch write 4 KiB, depth 1",
        Eventfd,
        Requests,
        &[Ratio(1.5)],
    ),
    row(
        "touch-d32-eventfd",
        "first-touch write 4 KiB, depth 32",
        Eventfd,
        Requests,
        &[Ratio(10.0), CpuMicros(5.0)],
    ),
    row(
        "touch-d1-polling",
        "first-touch write 4 KiB, depth 1",
        Polling,
        Requests,
        &[Ratio(5.0)],
    ),
    row(
        "touch-d32-polling",
        "first-touch write 4 KiB, depth 32",
        Polling,
        Requests,
        &[Ratio(10.0)],
    ),
    row(
        "rewrite-d1-eventfd",
        "rewrite 4 KiB, depth 1",
        Eventfd,
        Requests,
        &[Ratio(1.2), CpuRatio(THIRD)],
    ),
    row(
        "rewrite-d32-eventfd",
        "rewrite 4 KiB, depth 32",
        Eventfd,
        Requests,
        &[Ratio(4.0), CpuMicros(3.0)],
    ),
    row(
        "rewrite-d1-polling",
        "rewrite 4 KiB, depth 1",
        Polling,
        Requests,
        &[Ratio(3.5)],
    ),
    row(
        "rewrite-d32-polling",
        "rewrite 4 KiB, depth 32",
        Polling,
        Requests,
        &[Ratio(3.0)],
    ),
    row(
        "mixed-d32-eventfd",
        "mixed 70/30 4 KiB, depth 32, half overwritten",
        Eventfd,
        Requests,
        &[Ratio(2.5)],
    ),
    row(
        "mixed-d32-polling",
        "mixed 70/30 4 KiB, depth 32, half overwritten",
        Polling,
        Requests,
        &[Ratio(3.0)],
    ),
    row(
        "seq-read-base-eventfd",
        "sequential read 128 KiB of the base, depth 8",
        Eventfd,
        Bytes,
        &[Ratio(1.3)],
    ),
    row(
        "seq-read-dirty-eventfd",
        "sequential read 128 KiB of dirty clusters, depth 8",
        Eventfd,
        Bytes,
        &[Ratio(0.7)],
    ),
    row(
        "seq-write-eventfd",
        "sequential write 128 KiB, fresh, depth 8",
        Eventfd,
        Bytes,
        &[Ratio(1.2)],
    ),
    row(
        "seq-rewrite-eventfd",
        "sequential rewrite 128 KiB, depth 8",
        Eventfd,
        Bytes,
        &[Ratio(1.0)],
    ),
    row(
        "seq-read-base-polling",
        "sequential read 128 KiB of the base, depth 8",
        Polling,
        Bytes,
        &[Ratio(1.3)],
    ),
    row(
        "seq-read-dirty-polling",
        "sequential read 128 KiB of dirty clusters, depth 8",
        Polling,
        Bytes,
        &[Ratio(0.7)],
    ),
    row(
        "seq-write-polling",
        "sequential write 128 KiB, fresh, depth 8",
        Polling,
        Bytes,
        &[Ratio(1.2)],
    ),
    row(
        "seq-rewrite-polling",
        "sequential rewrite 128 KiB, depth 8",
        Polling,
        Bytes,
        &[Ratio(1.0)],
    ),
];

/// The row called `id`.
pub(crate) fn find(id: &str) -> Option<&'static Row> {
    ALL.iter().find(|row| row.id == id)
}
