//! The step that shows who holds which file: the helper the overlay and the base, the others neither.

use std::io::ErrorKind;

use tests::files::{self, Access, OpenFile};

use crate::crew::{Crew, Process};
use crate::failure::Failure;
use crate::stage::Stage;
use crate::thief::error_text;
use crate::workshop::Workshop;

/// Device and inode.
type Identity = (u64, u64);

/// Shows the files of all three processes.
pub(crate) fn show(stage: &mut Stage, workshop: &Workshop, crew: &Crew) -> Result<(), Failure> {
    stage.step("Who holds what");
    let overlay = of_the_helper(stage, workshop, &crew.helper)?;
    stage.gap();
    of_the_vmm(stage, workshop, &crew.vmm, overlay)?;
    stage.gap();
    of_the_supervisor(stage, workshop, &crew.supervisor, overlay)
}

/// Shows a process's files as the kernel tells them; none where it hides them from us.
fn looked_at(stage: &mut Stage, process: &Process, remark: &str) -> Result<Option<Vec<OpenFile>>, Failure> {
    stage.say(&format!(
        "{}, {remark}. From /proc/{}/fd and fdinfo:",
        process.program, process.pid
    ));
    stage.gap();
    match files::of(process.pid) {
        Ok(files) => {
            list(stage, &files);
            stage.gap();
            Ok(Some(files))
        }
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            stage.show(&error_text(&error));
            stage.gap();
            stage.check(true, "it hides its files even from the user who started it");
            Ok(None)
        }
        Err(source) => Err(Failure::System {
            doing: format!("look at the files of {}", process.program),
            source,
        }),
    }
}

/// The same; and where it hides them, what it reported itself.
fn listed(stage: &mut Stage, process: &Process, remark: &str) -> Result<Option<Vec<OpenFile>>, Failure> {
    let files = looked_at(stage, process, remark)?;
    if files.is_none() {
        stage.say("So this is what it reported itself, when it was ready:");
        stage.gap();
        for descriptor in process.confinement("descriptors")? {
            let number = descriptor["number"].as_u64().unwrap_or_default();
            stage.show(&format!(
                "{number:>3}  {}",
                descriptor["what"].as_str().unwrap_or_default()
            ));
        }
        stage.gap();
    }
    Ok(files)
}

/// Returns the overlay's identity, where it could be seen.
fn of_the_helper(stage: &mut Stage, workshop: &Workshop, helper: &Process) -> Result<Option<Identity>, Failure> {
    let Some(files) = listed(stage, helper, "which is the disk")? else {
        return reported(stage, workshop, helper).map(|()| None);
    };
    if !nix::unistd::geteuid().is_root() {
        stage.check(false, "it hides its files from the user who started it");
    }
    let base = workshop.base_identity()?;
    let base: Vec<&OpenFile> = files.iter().filter(|file| file.identity == base).collect();
    let overlays: Vec<&OpenFile> = files
        .iter()
        .filter(|file| file.access != Access::ReadOnly && file.is_in_a_file_system())
        .collect();
    let read_only = stage.check(
        base.len() == 1 && base.iter().all(|file| file.access == Access::ReadOnly),
        "the base is open once, read-only",
    );
    stage.promise(
        "The image is only read",
        read_only,
        "one descriptor, opened read-only (/proc/PID/fdinfo)",
    );
    let [overlay, spare] = overlays[..] else {
        stage.check(
            false,
            "exactly two files are open for writing: the overlay and its spare",
        );
        return Ok(None);
    };
    let is_nameless = |file: &OpenFile| file.target.ends_with("(deleted)") && file.names == 0 && file.mode == 0;
    let nameless = stage.check(
        is_nameless(overlay) && is_nameless(spare),
        &format!(
            "the overlay has {} names and mode {:03o}, and so has its spare, for a reset; no other file is open for writing",
            overlay.names, overlay.mode
        ),
    ) & nothing_in_the_directory(stage, workshop)?;
    stage.promise(
        "The writes go to a file without a name",
        nameless,
        format!("{}, link count {}", overlay.target, overlay.names),
    );
    Ok(Some(overlay.identity))
}

fn reported(stage: &mut Stage, workshop: &Workshop, helper: &Process) -> Result<(), Failure> {
    let told: Vec<&str> = helper
        .confinement("descriptors")?
        .iter()
        .filter_map(|descriptor| descriptor["what"].as_str())
        .collect();
    let read_only = stage.check(told.contains(&"base, read-only"), "the base is open read-only");
    let nameless = stage.check(
        told.contains(&"overlay, nameless, read-write"),
        "the overlay is nameless",
    ) & nothing_in_the_directory(stage, workshop)?;
    stage.promise(
        "The image is only read",
        read_only,
        "as reported by blk-helper; run as root to see it from outside",
    );
    stage.promise(
        "The writes go to a file without a name",
        nameless,
        "as reported by blk-helper, and its directory is empty",
    );
    Ok(())
}

fn nothing_in_the_directory(stage: &mut Stage, workshop: &Workshop) -> Result<bool, Failure> {
    let names = workshop.overlay_names()?;
    Ok(stage.check(names.is_empty(), "the overlay directory is empty all the same"))
}

fn of_the_vmm(stage: &mut Stage, workshop: &Workshop, vmm: &Process, overlay: Option<Identity>) -> Result<(), Failure> {
    let remark = "which a hostile guest attacks first; it has the guest's memory, and what it boots from";
    let (disks, all) = match listed(stage, vmm, remark)? {
        Some(files) => {
            let (base, boots_from) = (workshop.base_identity()?, workshop.boot_identities()?);
            let is_known = |file: &OpenFile| boots_from.contains(&file.identity) || file.target == "/dev/kvm";
            let is_disk = |file: &&OpenFile| {
                file.identity == base || Some(file.identity) == overlay || file.is_in_a_file_system() && !is_known(file)
            };
            (files.iter().filter(is_disk).count(), files.len())
        }
        None => {
            let told = vmm.confinement("descriptors")?;
            let is_disk = |what: &str| what.starts_with("base") || what.starts_with("overlay");
            let disks = told
                .iter()
                .filter(|descriptor| descriptor["what"].as_str().is_none_or(is_disk));
            (disks.count(), told.len())
        }
    };
    let none = stage.check(
        disks == 0,
        "neither the base nor the overlay, nor any other file but what it boots from",
    );
    stage.promise(
        "A guest that takes over the VMM finds no disk there",
        none,
        format!("{}: {all} descriptors, {disks} of them files of a disk", vmm.program),
    );
    Ok(())
}

fn of_the_supervisor(
    stage: &mut Stage,
    workshop: &Workshop,
    supervisor: &Process,
    overlay: Option<Identity>,
) -> Result<(), Failure> {
    let remark = "which has the terminal (here: this demo's pipes) and a control channel to the disk";
    let Some(files) = looked_at(stage, supervisor, remark)? else {
        stage.promise(
            "What mayfly holds, its own user cannot take",
            true,
            "its descriptors are hidden; run as root to see that none is of a disk",
        );
        return Ok(());
    };
    let (base, overlays) = (workshop.base_identity()?, workshop.overlay_dir());
    let disks = files.iter().filter(|file| {
        file.identity == base
            || Some(file.identity) == overlay
            || overlays.to_str().is_none_or(|dir| file.target.starts_with(dir))
    });
    let disks = disks.count();
    let none = stage.check(
        disks == 0 && !files.is_empty(),
        "it opened the image to hand it over, and has it no more",
    );
    stage.promise(
        "Only blk-helper has the disk",
        none,
        format!("mayfly: {} descriptors, {disks} of them files of a disk", files.len()),
    );
    Ok(())
}

/// Files one by one; what has no place anywhere (sockets, events, pipes) is summed up.
fn list(stage: &Stage, files: &[OpenFile]) {
    let (placed, others): (Vec<_>, Vec<_>) = files.iter().partition(|file| file.target.starts_with('/'));
    for file in placed {
        stage.show(&format!(
            "{:>3}  {:10}  {}",
            file.number,
            file.access.text(),
            file.target
        ));
    }
    let mut kinds: Vec<(&str, usize)> = Vec::new();
    for file in others {
        let kind = file.kind();
        match kinds.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, count)) => *count += 1,
            None => kinds.push((kind, 1)),
        }
    }
    let kinds: Vec<String> = kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    stage.show(&format!("     and    {}", kinds.join(", ")));
}
