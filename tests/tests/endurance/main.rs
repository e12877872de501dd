//! The same again and again, for as long as it takes to see what is not given back: memory, descriptors, processes, space.
//!
//! A short form by default. `make endurance` runs the long one (`MAYFLY_ENDURANCE=long`, `MAYFLY_ENDURANCE_MINUTES` for the row
//! that has a duration), one row after the other. Each prints what it measured.

mod connections;
mod crowd;
mod faults;
mod kills;
mod measure;

use std::io::Write;
use std::time::Duration;

use tests::orphans::turn;

/// How often something is done.
fn times(short: u64, long: u64) -> u64 {
    match std::env::var("MAYFLY_ENDURANCE") {
        Ok(form) if form == "long" => long,
        Ok(form) => panic!("MAYFLY_ENDURANCE is `long` or not set, not {form}"),
        Err(_) => short,
    }
}

/// How long the row that has a duration takes.
fn duration() -> Duration {
    let minutes = std::env::var("MAYFLY_ENDURANCE_MINUTES");
    let minutes = minutes.map_or(60, |text| text.parse().expect("MAYFLY_ENDURANCE_MINUTES is a number"));
    Duration::from_secs(times(2, 60 * minutes))
}

/// Past the harness's capture: the figures are what this is for.
fn tell(line: &str) {
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}
