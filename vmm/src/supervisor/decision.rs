//! What `--on-exit` will want at the end of a run, tried at its start: what could not be done then is refused before a guest has
//! written anything. By the same function that the end uses ([`rehearse`]); what becomes impossible meanwhile is not known here.

use super::fate::{Fate, OnExit};
use super::keeper::{KeepError, as_it_is, rehearse};
use super::plan::{Backend, Plan, PlannedDisk};
use crate::keep::fresh::Place;
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
/// `report` is the file of `--report`, which is made after this look, as control sockets are.
///
/// # Errors
/// The first that could not be done, in words.
pub(crate) fn check(plan: &Plan, on_exit: &OnExit, report: Option<&Path>) -> Result<(), String> {
    let fate = match on_exit {
        OnExit::Ask => {
            for obstacle in obstacles(plan, &Fate::Commit, None) {
                warn!("--on-exit ask: commit will not be possible: {obstacle}");
            }
            return Ok(());
        }
        OnExit::Decided(fate) => fate,
    };
    match obstacles(plan, fate, report).into_iter().next() {
        None => Ok(()),
        Some(obstacle) => Err(format!("--on-exit: {obstacle}")),
    }
}

/// Why `fate`, now, would leave what is decided for the end no way, if it would.
pub(crate) fn forestalled(plan: &Plan, on_exit: &OnExit, fate: &Fate) -> Option<String> {
    let OnExit::Decided(end) = on_exit else {
        return None;
    };
    match fate {
        Fate::Burn => None,
        // Its base would be another file than the one that it was started from.
        Fate::Commit => (*end == Fate::Commit).then(|| {
            "--on-exit commits the disk at the end, which cannot be done twice; save=PATH can be done now".to_owned()
        }),
        Fate::Save(out) => {
            let place = Place::open(out).ok()?;
            let mut disks = plan.disks.iter().filter(|disk| disk.is_overlaid);
            let disk = disks.find(|disk| match fate_of(plan, disk, end) {
                Fate::Save(out) => Place::open(&out).is_ok_and(|other| other.is_same(&place)),
                Fate::Burn | Fate::Commit => false,
            })?;
            Some(format!(
                "{} is where --on-exit saves disk {}; choose another name",
                out.display(),
                disk.name
            ))
        }
    }
}

/// What speaks against `fate`, disk by disk.
fn obstacles(plan: &Plan, fate: &Fate, report: Option<&Path>) -> Vec<String> {
    let disks = plan.disks.iter().filter(|disk| disk.is_overlaid);
    let mut bases = HashMap::new();
    disks
        .filter_map(|disk| {
            let own = fate_of(plan, disk, fate);
            let obstacle = match rehearse(&own, disk) {
                // What it says of the end, that the base stays, goes without saying at the start.
                Err(KeepError::Commit(error)) => chain(&error),
                Err(error) => chain(&error),
                Ok(()) if *fate == Fate::Commit => {
                    let first = bases.insert(base(disk)?, &disk.name)?;
                    format!("its base is also that of disk {first}, and the second commit would undo the first")
                }
                Ok(()) => taken(plan, &own, report)?,
            };
            Some(format!("disk {}: {obstacle}", disk.name))
        })
        .collect()
}

/// What of the run itself will have the name by then that the disk shall have.
fn taken(plan: &Plan, fate: &Fate, report: Option<&Path>) -> Option<String> {
    let Fate::Save(out) = fate else {
        return None;
    };
    let place = Place::open(out).ok()?;
    let controls = plan
        .disks
        .iter()
        .filter_map(|disk| Some((disk.control.as_deref()?, "a control socket")));
    let mut made = controls.chain(report.map(|report| (report, "--report")));
    let (_, what) = made.find(|(path, _)| Place::open(path).is_ok_and(|made| made.is_same(&place)))?;
    Some(format!(
        "{} is where {what} of this run will be; choose another name",
        out.display()
    ))
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
