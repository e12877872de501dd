//! What `--on-exit` will want at the end of a run, tried at its start: what could not be done then is refused before a guest has
//! written anything. By the same function that the end uses ([`rehearse`]); what becomes impossible meanwhile is not known here.

use super::fate::{Fate, OnExit};
use super::keeper::{KeepError, as_it_is, rehearse};
use super::plan::{Backend, Plan, PlannedDisk};
use log::warn;
use policy::logging::chain;
use std::collections::HashMap;
use std::path::Path;

/// What becomes of `disk`, where `fate` is said of all.
pub(crate) fn fate_of(plan: &Plan, disk: &PlannedDisk, fate: &Fate) -> Fate {
    let all = plan.disks.iter().filter(|disk| disk.is_overlaid).count();
    fate.of_disk(&disk.device, all, Path::is_dir)
}

/// Refuses what could not be done at the end, and why; where the operator will be asked, says what the answer cannot be.
///
/// # Errors
/// The first that could not be done, in words.
pub(crate) fn check(plan: &Plan, on_exit: &OnExit) -> Result<(), String> {
    let fate = match on_exit {
        OnExit::Ask => {
            for obstacle in obstacles(plan, &Fate::Commit) {
                warn!("--on-exit ask: commit will not be possible: {obstacle}");
            }
            return Ok(());
        }
        OnExit::Decided(fate) => fate,
    };
    match obstacles(plan, fate).into_iter().next() {
        None => Ok(()),
        Some(obstacle) => Err(format!("--on-exit: {obstacle}")),
    }
}

/// What speaks against `fate`, disk by disk.
fn obstacles(plan: &Plan, fate: &Fate) -> Vec<String> {
    let disks = plan.disks.iter().filter(|disk| disk.is_overlaid);
    let mut bases = HashMap::new();
    disks
        .filter_map(|disk| {
            let obstacle = match rehearse(&fate_of(plan, disk, fate), disk) {
                // What it says of the end, that the base stays, goes without saying at the start.
                Err(KeepError::Commit(error)) => chain(&error),
                Err(error) => chain(&error),
                Ok(()) if *fate == Fate::Commit => {
                    let first = bases.insert(base(disk)?, &disk.name)?;
                    format!("its base is also that of disk {first}, and the second commit would undo the first")
                }
                Ok(()) => return None,
            };
            Some(format!("disk {}: {obstacle}", disk.name))
        })
        .collect()
}

/// The file that a disk is started from, as the kernel knows it.
fn base(disk: &PlannedDisk) -> Option<(u64, u64)> {
    let Backend::Helper { image, .. } = &disk.backend else {
        return None;
    };
    as_it_is(image).ok().map(|base| (base.device, base.inode))
}

#[cfg(test)]
mod tests;
