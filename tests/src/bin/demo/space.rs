//! Space on the file system where overlays are: `df` for the eye, numbers for the checks.

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::statvfs::{Statvfs, statvfs};

use crate::failure::Failure;

/// Bytes in a MiB.
pub(crate) const MIB: u64 = 1 << 20;

/// How long a file system may take to show what was allocated or freed: btrfs does with its next transaction.
const SHOWN: Duration = Duration::from_secs(40);

/// Bytes that nobody uses.
pub(crate) fn free(dir: &Path) -> Result<u64, Failure> {
    let found = look(dir)?;
    Ok(found.blocks_free().saturating_mul(found.fragment_size()))
}

/// Bytes that an ordinary user may still use.
pub(crate) fn available(dir: &Path) -> Result<u64, Failure> {
    let found = look(dir)?;
    Ok(found.blocks_available().saturating_mul(found.fragment_size()))
}

/// Waits until the free bytes satisfy `enough`, or for so long that they never will; returns them.
pub(crate) fn settle(dir: &Path, enough: impl Fn(u64) -> bool) -> Result<u64, Failure> {
    let begun = Instant::now();
    loop {
        let now = free(dir)?;
        if enough(now) || begun.elapsed() > SHOWN {
            return Ok(now);
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// What must be seen of `bytes` on a file system that others use at the same time. How much they use in that time is a
/// guess: what a compiler writes in some seconds.
pub(crate) fn most_of(bytes: u64) -> u64 {
    bytes.saturating_sub((bytes / 4).max(192 * MIB))
}

/// What `df` prints.
pub(crate) fn df(dir: &Path) -> Result<String, Failure> {
    let output = Command::new("df").arg("-m").arg(dir).env("LC_ALL", "C").output();
    let output = output.map_err(Failure::while_doing("run df"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(Failure::Program {
            program: "df",
            said: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }
}

/// A size as people write it.
pub(crate) fn human(bytes: u64) -> String {
    let gib = 1024 * MIB;
    if bytes < gib {
        return format!("{} MiB", bytes / MIB);
    }
    format!("{}.{} GiB", bytes / gib, bytes % gib * 10 / gib)
}

fn look(dir: &Path) -> Result<Statvfs, Failure> {
    statvfs(dir).map_err(Failure::while_doing(format!(
        "ask for the free space of {}",
        dir.display()
    )))
}
