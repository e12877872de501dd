//! Each kind of process of a run, killed by the hundred at random moments: what is left, and how machines end that are not killed.
//!
//! Bare machines, on this host's own KVM and by emulation. One at a time: whoever outlives its parent becomes this process's
//! child, and is counted.

mod ends;
mod kills;

use std::time::Duration;

use tests::orphans::turn;

/// How long something may take that takes some hundredths of a second: the rest is a loaded machine.
const SOON: Duration = Duration::from_secs(20);
