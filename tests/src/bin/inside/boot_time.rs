//! From `exec` to the first line of the guest's init, beside QEMU's smallest machine on the same KVM.

use std::process::Command;
use std::time::{Duration, Instant};

use tests::guest::{Guest, GuestError, System};
use tests::place::Place;

use crate::machine::{BOOT, busybox};
use crate::peer::microvm;
use crate::say;

/// Of each, in turns, so that whatever else the machine does disturbs both.
const RUNS: usize = 5;

const DISK: usize = 8 << 20;

/// What the init of the tests says first.
const INIT: &str = "mayfly-guest: init";

pub(crate) fn is_not_longer_than_the_peers() -> Result<String, GuestError> {
    let place = Place::with_noise(DISK, 4);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for run in 1..=RUNS {
        ours.push(boot(busybox(&place, &["--memory", "256M"])?)?);
        theirs.push(boot(microvm(Some(&place.base()))?)?);
        say(&format!(
            "run {run}: mayfly {:.2?}, QEMU microvm {:.2?}",
            ours[run - 1],
            theirs[run - 1]
        ));
    }
    let (ours, theirs) = (median(ours), median(theirs));
    assert!(ours <= theirs, "medians: mayfly {ours:.2?}, QEMU microvm {theirs:.2?}");
    Ok(format!(
        "medians of {RUNS}: mayfly {ours:.2?}, QEMU microvm {theirs:.2?}"
    ))
}

fn boot(command: Command) -> Result<Duration, GuestError> {
    let begun = Instant::now();
    let mut guest = Guest::of(command, System::Busybox, None)?;
    guest.wait_for(INIT, BOOT)?;
    let took = begun.elapsed();
    guest.kill()?;
    Ok(took)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
