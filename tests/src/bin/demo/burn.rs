//! The steps in which the overlay grows, stays and burns: written by a guest, kept by a reboot, ended by `poweroff` and by
//! SIGKILL.
//!
//! How much burnt is measured over the moment of the end itself, since other programs use the file system too. Root
//! can also see how many blocks the overlay occupied; others have only what `df` says.

use std::path::Path;
use std::time::Duration;

use tests::guest::System;

use crate::crew::Crew;
use crate::failure::Failure;
use crate::life::{Life, PIECE_MIB};
use crate::space::{self, MIB, human, most_of};
use crate::stage::Stage;
use crate::workshop::Workshop;

/// What the guest calls the file that it fills.
const DIARY: &str = "/srv/diary";

/// How long the processes may take to end: a file system needs some time to free much space.
const END: Duration = Duration::from_secs(30);

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
    let kept = kept_in_the_overlay(life, &dir, before, wrote)?;
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
    stage.check(kept.0, &kept.1);
    Ok(wrote)
}

/// Whether the file system has what the guest wrote, and how that can be seen.
fn kept_in_the_overlay(life: &Life, dir: &Path, before: u64, wrote: u64) -> Result<(bool, String), Failure> {
    if let Some(bytes) = life.crew.overlay_bytes() {
        let seen = format!(
            "yet the overlay occupies {} (root can see that much of it)",
            human(bytes)
        );
        return Ok((bytes >= wrote, seen));
    }
    // What others do to the file system meanwhile is in this too.
    let after = space::settle(dir, |now| before.saturating_sub(now) >= most_of(wrote))?;
    let less = before.saturating_sub(after);
    Ok((
        less >= most_of(wrote),
        format!("yet {} less are free than before", human(less)),
    ))
}

/// Switches the guest off.
pub(crate) fn by_poweroff(stage: &mut Stage, workshop: &Workshop, mut life: Life, wrote: u64) -> Result<(), Failure> {
    stage.step("The end, first way: the guest is switched off");
    let burn = Burn::begin(workshop, &life, wrote)?;
    stage.guest_command("poweroff");
    life.poweroff(stage)?;
    stage.say("The VMM ended, so mayfly ended the helper, and then itself, with exit code 0. Its last words:");
    stage.gap();
    stage.show_wrapped(life.told().last().map(std::slice::from_ref).unwrap_or_default());
    stage.gap();
    let (gone, seen) = burn.over(stage, workshop)?;
    stage.promise("It burns when the guest is switched off", gone, seen);
    Ok(())
}

/// A second guest, which reboots: the one end that is none.
pub(crate) fn not_by_reboot(stage: &mut Stage, workshop: &Workshop) -> Result<Life, Failure> {
    stage.step("Another guest, and what is not the end: a reboot");
    stage.say("The same command once more, for a small guest that has the disk only to play with:");
    let mut life = Life::start(workshop, System::Busybox)?;
    life.boot(stage)?;
    pristine(stage, &mut life)?;
    let before = life.crew.clone();
    life.show(stage, "echo here I was | dd of=/dev/vda conv=notrunc,fsync 2>/dev/null")?;
    stage.guest_command("reboot");
    life.reboot(stage)?;
    let found = life.show(stage, "head -n 1 /dev/vda")?;
    stage.gap();
    let new = &life.crew;
    let kept = stage.check(found == "here I was", "what it wrote is there after the reboot")
        & stage.check(
            new.helper.pid == before.helper.pid,
            &format!("the disk's process is the same: {}", new.helper.pid),
        );
    let renewed = if new.vmm.is_ours() {
        let is_new = new.vmm.pid != before.vmm.pid;
        let fact = format!("the VMM is a new one, and knows nothing of the old: {}", new.vmm.pid);
        stage.check(is_new, &fact)
    } else {
        stage.say("(QEMU boots the guest again within its process; a mayfly-vmm would be a new one.)");
        true
    };
    stage.promise(
        "A reboot of the guest keeps its disk",
        kept & renewed,
        "a new boot on the same blk-helper read what the one before had written",
    );
    Ok(life)
}

/// That guest overwrites its whole disk, and the supervisor is killed in the middle of it.
pub(crate) fn by_kill(stage: &mut Stage, workshop: &Workshop, mut life: Life, mib: u64) -> Result<(), Failure> {
    stage.step("The end, second way: kill -9 in the middle of a write");
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
    let burn = Burn::begin(workshop, &life, until * MIB)?;
    stage.command(&format!("kill -9 {}", life.crew.supervisor.pid));
    life.guest.kill().map_err(Failure::Guest)?;
    stage.gap();
    let right = stage.check(
        life.written_mib() < all,
        "mayfly was killed while the guest was writing, and had no time for anything",
    );
    let (gone, seen) = burn.over(stage, workshop)?;
    stage.promise("It burns when mayfly is killed", right & gone, seen);
    Ok(())
}

/// The second guest looks for what the first one left.
fn pristine(stage: &mut Stage, life: &mut Life) -> Result<(), Failure> {
    life.show(stage, "mount -t ext4 -o ro /dev/vda /mnt; ls -A /mnt/srv")?;
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

/// What there is just before an end, to see that nothing of it is there after.
struct Burn {
    crew: Crew,
    free: u64,
    wrote: u64,
    held: Option<u64>,
}

impl Burn {
    fn begin(workshop: &Workshop, life: &Life, wrote: u64) -> Result<Self, Failure> {
        let (held, free) = (life.crew.overlay_bytes(), space::free(&workshop.overlay_dir())?);
        let crew = life.crew.clone();
        Ok(Self {
            crew,
            free,
            wrote,
            held,
        })
    }

    /// Once the end has come: whether nothing is left, and what was seen.
    fn over(&self, stage: &mut Stage, workshop: &Workshop) -> Result<(bool, String), Failure> {
        let left: Vec<String> = self
            .crew
            .wait_gone(END)
            .into_iter()
            .map(|process| process.program.clone())
            .collect();
        let pids = self
            .crew
            .all()
            .map(|process| format!("{} {}", process.program, process.pid));
        let processes = stage.check(left.is_empty(), &format!("no process is left ({})", pids.join(", ")));
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
        Ok((
            processes & gone,
            format!("{held}df gained {}, no process and no file left", human(freed)),
        ))
    }
}

fn show_df(stage: &Stage, workshop: &Workshop) -> Result<(), Failure> {
    let dir = workshop.overlay_dir();
    stage.command(&format!("df -m {}", dir.display()));
    stage.show(&space::df(&dir)?);
    Ok(())
}
