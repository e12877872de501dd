//! The walk itself: its steps in their order, and what is said at each. What is measured, and how, is in the files
//! beside this one.

use crate::failure::Failure;
use crate::life::PIECE_MIB;
use crate::space::{self, MIB, human};
use crate::stage::Stage;
use crate::workshop::Workshop;
use crate::{begin, burn, holders, keep, theft};

/// The most that fits into the guest's file system.
const DISK_HOLDS_MIB: u64 = 1536;

/// Below this, the guest writes only a part of what is free: the demo must not fill anybody's disk.
const PLENTY_MIB: u64 = 3072;

/// Walks through all steps, with a guest that writes `mib`; returns whether every promise was kept.
pub(crate) fn run(workshop: &Workshop, mib: u64) -> Result<bool, Failure> {
    let mut stage = Stage::new();
    let mib = affordable(&stage, workshop, mib)?;
    stage.gap();
    stage.say(
        "QEMU's -snapshot made a promise: the guest may write to its disk as it likes, the writes go to a file \
         without a name, the image stays as it is, and when the process ends, however it ends, the space is back. \
         Mayfly keeps it in a process of its own, so that a guest which takes over its VMM gets nothing. This is \
         that promise, step by step, with real processes. What you see is measured while you watch.",
    );
    let before = base(&mut stage, workshop)?;

    let mut life = begin::start(&mut stage, workshop)?;
    begin::boot(&mut stage, workshop, &mut life)?;
    holders::show(&mut stage, workshop, &life.crew)?;
    let wrote = burn::write(&mut stage, workshop, &mut life, mib)?;
    theft::show(&mut stage, workshop, &life.crew)?;
    burn::by_poweroff(&mut stage, workshop, life, wrote)?;
    let mut life = burn::not_by_reboot(&mut stage, workshop)?;
    keep::decide(&mut stage, workshop, &mut life)?;
    burn::by_kill(&mut stage, workshop, life, mib)?;

    base_again(&mut stage, workshop, &before)?;
    let kept = stage.summary();
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
