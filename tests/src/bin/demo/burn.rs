//! The steps in which the overlay grows and burns: written by a guest, ended by `poweroff` and by SIGKILL.
//!
//! How much burnt is measured over the moment of the end itself, since other programs use the file system too. Root
//! can also see how many blocks the overlay occupied; others have only what `df` says.

use std::time::Duration;

use protocol::launch::ExitCode;
use tests::guest::System;

use crate::failure::Failure;
use crate::helper::{Ended, Helper};
use crate::life::{Life, PIECE_MIB};
use crate::space::{self, MIB, human, most_of};
use crate::stage::Stage;
use crate::workshop::Workshop;

/// What the guest calls the file that it fills.
const DIARY: &str = "/root/diary";

/// How long the helper may take to notice that its frontend left.
const END: Duration = Duration::from_secs(10);

/// Lets the guest write; returns how many bytes the overlay then had, at least.
pub(crate) fn write(stage: &mut Stage, workshop: &Workshop, life: &mut Life, mib: u64) -> Result<u64, Failure> {
    stage.step(&format!("The guest writes {mib} MiB"));
    let dir = workshop.overlay_dir();
    stage.say(
        "Before. Watch how much is available where the overlay is (other programs use that file system too, so the \
         last digits are theirs):",
    );
    show_df(stage, workshop)?;
    let before = space::free(&dir)?;
    stage.gap();
    stage.say(&format!("The guest fills a file of its own, {DIARY}, with noise:"));
    life.begin_to_write(mib, &format!("cat $noise >>{DIARY} && sync {DIARY}"))?;
    life.follow(stage, workshop, mib, mib)?;
    life.show(stage, &format!("ls -lh {DIARY}"))?;
    stage.gap();
    let wrote = mib * MIB;
    let after = space::settle(&dir, |now| before.saturating_sub(now) >= most_of(wrote))?;
    stage.say("Meanwhile outside:");
    show_df(stage, workshop)?;
    stage.command(&format!("ls -A {}", dir.display()));
    let names = workshop.overlay_names()?;
    stage.show(&if names.is_empty() {
        "(nothing)".to_owned()
    } else {
        names.join("\n")
    });
    stage.gap();
    stage.check(names.is_empty(), "no file there that anybody could open");
    stage.check(
        before.saturating_sub(after) >= most_of(wrote),
        &format!("yet {} less are free than before", human(before.saturating_sub(after))),
    );
    if let Some(bytes) = life.helper.overlay_bytes() {
        stage.check(
            bytes >= wrote,
            &format!("the overlay itself occupies {} (what root can see of it)", human(bytes)),
        );
    }
    Ok(wrote)
}

/// Switches the guest off; the helper ends because QEMU left.
pub(crate) fn by_poweroff(stage: &mut Stage, workshop: &Workshop, mut life: Life, wrote: u64) -> Result<(), Failure> {
    stage.step("The end, first way: the guest is switched off");
    let burn = Burn::begin(workshop, &life.helper, wrote)?;
    stage.guest_command("poweroff");
    life.poweroff(stage)?;
    let ended = life.helper.wait(END)?;
    stage.say("QEMU ended, so blk-helper saw its socket close. Its last words:");
    stage.gap();
    stage.show(ended.last_words());
    stage.gap();
    let right = stage.check(
        ended.status.code() == Some(i32::from(ExitCode::Burnt.number())),
        &format!("blk-helper ended by itself: {}", ended.how()),
    );
    let (gone, seen) = burn.over(stage, workshop)?;
    stage.promise("It burns when the guest is switched off", right & gone, seen);
    Ok(())
}

/// A second guest overwrites its whole disk, and the helper is killed in the middle of that.
pub(crate) fn by_kill(stage: &mut Stage, workshop: &Workshop, mib: u64) -> Result<(), Failure> {
    stage.step("The end, second way: kill -9 in the middle of a write");
    stage.say("A new blk-helper on the same image, and a small guest that has the disk only to play with:");
    let helper = Helper::start(workshop, &[])?;
    let mut life = Life::boot(stage, workshop, helper, System::Busybox)?;
    pristine(stage, &mut life)?;
    stage.gap();
    stage.say("Now this guest overwrites the disk from its beginning, file system and all:");
    stage.gap();
    let (length, _) = workshop.base_size()?;
    let all = length / MIB;
    life.begin_to_write(
        all,
        "dd if=$noise of=/dev/vda bs=1M seek=$((16 * i)) conv=notrunc,fsync 2>/dev/null",
    )?;
    let until = (mib / 2 / PIECE_MIB).max(1) * PIECE_MIB;
    life.follow(stage, workshop, until, all)?;
    show_df(stage, workshop)?;
    let burn = Burn::begin(workshop, &life.helper, until * MIB)?;
    stage.command(&format!("kill -9 {}", life.helper.pid()));
    let ended: Ended = life.helper.kill()?;
    stage.gap();
    let right = stage.check(
        ended.how() == "killed by signal 9",
        &format!("blk-helper had no time for anything: {}", ended.how()),
    ) & stage.check(life.written_mib() < all, "the guest was still writing");
    let (gone, seen) = burn.over(stage, workshop)?;
    stage.promise("It burns when blk-helper is killed", right & gone, seen);
    Ok(())
}

/// The second guest looks for what the first one left.
fn pristine(stage: &mut Stage, life: &mut Life) -> Result<(), Failure> {
    life.show(stage, "mount -t ext4 -o ro /dev/vda /mnt; ls -A /mnt/root")?;
    let diary = life
        .guest
        .sh(&format!("test -e /mnt{DIARY} || test ! -e /mnt/etc/hostname"), END)
        .map_err(Failure::Guest)?;
    life.sh("umount /mnt")?;
    stage.gap();
    let clean = stage.check(
        diary.status != 0,
        &format!("it sees the Debian of the image, and no {DIARY}: that burnt"),
    );
    stage.promise(
        "The next guest finds nothing of the last",
        clean,
        format!("the image's files, but not the {DIARY} of the guest before"),
    );
    Ok(())
}

/// Space from just before an end to after it.
struct Burn {
    free: u64,
    wrote: u64,
    held: Option<u64>,
}

impl Burn {
    fn begin(workshop: &Workshop, helper: &Helper, wrote: u64) -> Result<Self, Failure> {
        let (held, free) = (helper.overlay_bytes(), space::free(&workshop.overlay_dir())?);
        Ok(Self { free, wrote, held })
    }

    /// Once the helper ended: whether all is back, and what was seen.
    fn over(&self, stage: &mut Stage, workshop: &Workshop) -> Result<(bool, String), Failure> {
        let dir = workshop.overlay_dir();
        let least = most_of(self.held.unwrap_or(self.wrote));
        let freed = space::settle(&dir, |now| now.saturating_sub(self.free) >= least)?.saturating_sub(self.free);
        let names = workshop.overlay_names()?;
        let held = self
            .held
            .map(|bytes| format!("overlay of {}, ", human(bytes)))
            .unwrap_or_default();
        let gone = stage.check(names.is_empty(), "no file is left in the overlay directory")
            & stage.check(
                freed >= least,
                &format!("{held}{} more are free than just before the end", human(freed)),
            );
        show_df(stage, workshop)?;
        Ok((gone, format!("{held}df gained {}, no file left", human(freed))))
    }
}

fn show_df(stage: &Stage, workshop: &Workshop) -> Result<(), Failure> {
    let dir = workshop.overlay_dir();
    stage.command(&format!("df -m {}", dir.display()));
    stage.show(&space::df(&dir)?);
    Ok(())
}
