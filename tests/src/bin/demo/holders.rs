//! The step that shows who holds which file: the helper the overlay and the base, QEMU neither.

use std::io::ErrorKind;

use nix::unistd::geteuid;

use crate::failure::Failure;
use crate::files::{self, Access, OpenFile};
use crate::helper::Helper;
use crate::life::Life;
use crate::stage::Stage;
use crate::thief::error_text;
use crate::workshop::Workshop;

/// Shows both processes' files.
pub(crate) fn show(stage: &mut Stage, workshop: &Workshop, life: &Life) -> Result<(), Failure> {
    stage.step("Who holds what");
    let overlay = of_the_helper(stage, workshop, &life.helper)?;
    of_qemu(stage, workshop, life.guest.pid(), overlay)
}

/// Device and inode.
type Identity = (u64, u64);

/// Returns the overlay's identity, where it could be seen.
fn of_the_helper(stage: &mut Stage, workshop: &Workshop, helper: &Helper) -> Result<Option<Identity>, Failure> {
    stage.say(&format!(
        "Files of blk-helper, from /proc/{}/fd and fdinfo:",
        helper.pid()
    ));
    stage.gap();
    let files = files::of(helper.pid());
    match files {
        Ok(files) => {
            if !geteuid().is_root() {
                stage.check(false, "it hides its files from the user who started it");
            }
            from_outside(stage, workshop, &files)
        }
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            stage.show(&error_text(&error));
            stage.gap();
            stage.check(true, "it hides its files even from the user who started it");
            stage.gap();
            stage.say("So this is what it reported itself, when it was ready:");
            stage.gap();
            reported(stage, workshop, helper)?;
            Ok(None)
        }
        Err(source) => Err(Failure::System {
            doing: "look at the files of blk-helper".to_owned(),
            source,
        }),
    }
}

fn from_outside(stage: &mut Stage, workshop: &Workshop, files: &[OpenFile]) -> Result<Option<Identity>, Failure> {
    list(stage, files);
    stage.gap();
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
    let [overlay] = overlays[..] else {
        stage.check(false, "exactly one file is open for writing");
        return Ok(None);
    };
    let nameless = stage.check(
        overlay.target.ends_with("(deleted)") && overlay.names == 0 && overlay.mode == 0,
        &format!(
            "the overlay has {} names and mode {:03o}; it is the only file open for writing",
            overlay.names, overlay.mode
        ),
    ) & nothing_listed(stage, workshop)?;
    stage.promise(
        "The writes go to a file without a name",
        nameless,
        format!("{}, link count {}", overlay.target, overlay.names),
    );
    Ok(Some(overlay.identity))
}

fn reported(stage: &mut Stage, workshop: &Workshop, helper: &Helper) -> Result<(), Failure> {
    let mut told = Vec::new();
    for descriptor in helper
        .reported("/confinement/descriptors")?
        .as_array()
        .into_iter()
        .flatten()
    {
        let what = descriptor["what"].as_str().unwrap_or_default();
        stage.show(&format!(
            "{:>3}  {what}",
            descriptor["number"].as_u64().unwrap_or_default()
        ));
        told.push(what);
    }
    stage.gap();
    let read_only = stage.check(told.contains(&"base, read-only"), "the base is open read-only");
    let nameless = stage.check(
        told.contains(&"overlay, nameless, read-write"),
        "the overlay is nameless",
    ) & nothing_listed(stage, workshop)?;
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

fn nothing_listed(stage: &mut Stage, workshop: &Workshop) -> Result<bool, Failure> {
    let names = workshop.overlay_names()?;
    Ok(stage.check(names.is_empty(), "the overlay directory is empty all the same"))
}

fn of_qemu(stage: &mut Stage, workshop: &Workshop, pid: u32, overlay: Option<Identity>) -> Result<(), Failure> {
    stage.gap();
    stage.say(&format!(
        "Files of QEMU, which a hostile guest attacks first, from /proc/{pid}/fd and fdinfo:"
    ));
    stage.gap();
    let files = files::of(pid).map_err(Failure::while_doing("look at the files of QEMU"))?;
    list(stage, &files);
    stage.gap();
    let base = workshop.base_identity()?;
    let disks = files
        .iter()
        .filter(|file| file.identity == base || Some(file.identity) == overlay || file.is_in_a_file_system());
    let disks = disks.count();
    let none = stage.check(
        disks == 0,
        "neither the base nor the overlay, nor any other file of a disk",
    );
    stage.promise(
        "A guest that takes over QEMU finds no disk there",
        none,
        format!("{} descriptors, {disks} of them files of a disk", files.len()),
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
