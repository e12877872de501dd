//! What a hostile guest does to its machine, and what else the VMM may be given: no process crashes, hangs, grows, or outlives its
//! run.

mod backends;
mod inputs;
mod kernels;
mod scribble;

use std::io::Write;

/// Past the harness's capture: what a random test did is worth knowing of one that succeeds.
fn tell(line: &str) {
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}
