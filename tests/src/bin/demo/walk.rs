//! The walk itself: its steps in their order, and what is said at each. What is measured, and how, is in the files
//! beside this one.

use serde_json::Value;
use tests::guest::System;

use crate::burn;
use crate::failure::Failure;
use crate::helper::Helper;
use crate::holders;
use crate::life::{Life, PIECE_MIB};
use crate::space::{self, MIB, human};
use crate::stage::Stage;
use crate::theft;
use crate::workshop::Workshop;

/// The most that fits into the guest's file system.
const DISK_HOLDS_MIB: u64 = 1536;

/// Below this, the guest writes only a part of what is free: the demo must not fill anybody's disk.
const PLENTY_MIB: u64 = 3072;

/// The layers that a watcher is shown; the others are counted.
const SHOWN_LAYERS: [&str; 8] = [
    "user",
    "no capabilities",
    "no-new-privs",
    "not dumpable",
    "landlock",
    "seccomp",
    "network namespace",
    "empty root",
];

/// Walks through all steps, with a guest that writes `mib`; returns whether every promise was kept.
pub(crate) fn run(workshop: &Workshop, mib: u64) -> Result<bool, Failure> {
    let mut stage = Stage::new();
    let mib = affordable(&stage, workshop, mib)?;
    stage.gap();
    stage.say(
        "QEMU's -snapshot made a promise: the guest may write to its disk as it likes, the writes go to a file \
         without a name, the image stays as it is, and when the process ends, however it ends, the space is back. \
         Mayfly keeps it in a process of its own, so that a guest which takes over QEMU gets nothing. This is that \
         promise, step by step, with real processes. What you see is measured while you watch.",
    );
    let before = base(&mut stage, workshop)?;

    let helper = helper_starts(&mut stage, workshop)?;
    let encrypted = helper.encrypts()?;
    let mut life = guest_boots(&mut stage, workshop, helper)?;
    holders::show(&mut stage, workshop, &life)?;
    let wrote = burn::write(&mut stage, workshop, &mut life, mib)?;
    theft::show(&mut stage, workshop, &life.helper)?;
    burn::by_poweroff(&mut stage, workshop, life, wrote)?;
    burn::by_kill(&mut stage, workshop, mib)?;

    base_again(&mut stage, workshop, &before)?;
    let kept = stage.summary();
    if !encrypted {
        stage.say(
            "Not promised yet: the overlay is not encrypted. Its freed blocks keep what the guest wrote until the \
             host's disk overwrites or trims them.",
        );
    }
    stage.say("'make demo-shell' gives you a guest of your own, to ruin as you like.");
    stage.gap();
    Ok(kept)
}

/// How much the guest will write, in whole pieces.
fn affordable(stage: &Stage, workshop: &Workshop, mib: u64) -> Result<u64, Failure> {
    let available = space::available(&workshop.overlay_dir())? / MIB;
    let mut mib = mib.min(DISK_HOLDS_MIB);
    if available < PLENTY_MIB && mib > available / 4 {
        mib = available / 4;
        stage.say(&format!(
            "Only {available} MiB are free here, so the guest will write a quarter of that."
        ));
    }
    Ok((mib / PIECE_MIB).max(2) * PIECE_MIB)
}

type Stamp = (String, (i64, i64));

fn base(stage: &mut Stage, workshop: &Workshop) -> Result<Stamp, Failure> {
    stage.step("The base image");
    let (length, occupied) = workshop.base_size()?;
    stage.say(&format!(
        "A Debian system on a raw disk of {}, {} of it in use. It was made once by 'make images' and lies at",
        human(length),
        human(occupied)
    ));
    stage.say(&workshop.base().display().to_string());
    let stamp = stage.wait("reading all of it", || workshop.base_stamp())?;
    stage.command("sha256sum debian.raw");
    stage.show(&stamp.0);
    Ok(stamp)
}

fn base_again(stage: &mut Stage, workshop: &Workshop, before: &Stamp) -> Result<(), Failure> {
    stage.step("The base image, again");
    let after = stage.wait("reading all of it", || workshop.base_stamp())?;
    stage.command("sha256sum debian.raw");
    stage.show(&after.0);
    stage.gap();
    let same = stage.check(after.0 == before.0, "the same bytes as before the two guests")
        & stage.check(after.1 == before.1, "the same modification time");
    let short = before.0.get(..12).unwrap_or_default();
    stage.promise(
        "The image stays as it is",
        same,
        format!("SHA-256 {short}... and modification time, before and after two guests"),
    );
    Ok(())
}

fn helper_starts(stage: &mut Stage, workshop: &Workshop) -> Result<Helper, Failure> {
    stage.step("blk-helper opens the image, makes the overlay, and locks itself in");
    let helper = Helper::start(workshop, &["--exit-on-disconnect"])?;
    stage.command(helper.command_line());
    stage.gap();
    stage.say(&format!(
        "It is pid {}. Once locked in, it reports what the kernel says of it:",
        helper.pid()
    ));
    stage.gap();
    let layers = helper
        .reported("/confinement/layers")?
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    for layer in layers
        .iter()
        .filter(|layer| text(layer, "name").is_some_and(|name| SHOWN_LAYERS.contains(&name)))
    {
        let mark = if is(layer, "achieved") { "" } else { "not in force: " };
        let (name, evidence) = (
            text(layer, "name").unwrap_or_default(),
            text(layer, "evidence").unwrap_or_default(),
        );
        stage.show_named(name, &format!("{mark}{evidence}"));
    }
    let achieved = layers.iter().filter(|layer| is(layer, "achieved")).count();
    let missing = layers
        .iter()
        .filter(|layer| is(layer, "required") && !is(layer, "achieved"))
        .count();
    stage.gap();
    let confined = stage.check(
        missing == 0 && !layers.is_empty(),
        &format!(
            "every layer that it requires is in force ({achieved} of {} in all)",
            layers.len()
        ),
    );
    stage.promise(
        "The disk's process is locked in",
        confined,
        format!(
            "{achieved} of {} layers in force, none missing that is required",
            layers.len()
        ),
    );
    Ok(helper)
}

fn guest_boots(stage: &mut Stage, workshop: &Workshop, helper: Helper) -> Result<Life, Failure> {
    stage.step("A stock Debian boots from it");
    let mut life = Life::boot(stage, workshop, helper, System::Debian)?;
    stage.say("QEMU was started with");
    stage.command(&life.command_line()?);
    stage.gap();
    stage.say(&format!(
        "QEMU is pid {}; all that it has of the disk is a socket. The guest says hello:",
        life.guest.pid()
    ));
    life.show(
        stage,
        "uname -srm; grep PRETTY /etc/os-release; systemctl is-system-running",
    )?;
    life.show(stage, "lsblk --output NAME,SIZE,TYPE,FSTYPE,MOUNTPOINTS")?;
    let sectors: u64 = life.sh("cat /sys/block/vda/size")?.parse().unwrap_or(0);
    let (length, _) = workshop.base_size()?;
    stage.gap();
    stage.check(
        sectors * 512 == length,
        "its disk vda is exactly as large as the base image",
    );
    Ok(life)
}

fn text<'value>(value: &'value Value, field: &str) -> Option<&'value str> {
    value.get(field)?.as_str()
}

fn is(value: &Value, field: &str) -> bool {
    value.get(field).and_then(Value::as_bool) == Some(true)
}
