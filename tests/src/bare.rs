//! A bare machine under `mayfly run`: a place, a program as the kernel, and disks that it may have.
//!
//! For what is done by the hundred: such a machine runs some hundredths of a second after its start. It knows `mayfly`'s command
//! line, not what programs do.

use std::fs;

use crate::payload::Payload;
use crate::place::Place;
use crate::supervised::Supervised;

/// What programs that scribble need.
const MEMORY: &str = "--memory=64M";

/// `mayfly run` of `program`, with `accel` and these copies of the place's disk.
///
/// # Panics
///
/// If the place cannot be written.
#[must_use]
pub fn run(place: &Place, accel: &str, disks: usize, program: &Payload) -> Supervised {
    let kernel = place.dir().join("kernel");
    fs::write(&kernel, program.to_elf()).expect("a fresh directory can be written");
    let disk = format!("--disk={}", place.base().display());
    Supervised::new(["run", MEMORY, "--cmdline="])
        .and([
            format!("--accel={accel}"),
            format!("--kernel={}", kernel.display()),
            format!("--overlay-dir={}", place.overlay_dir().display()),
        ])
        .and(vec![disk; disks])
}
