//! The step in which something is kept, because somebody says so: `mayfly ctl`, a save, a commit.
//!
//! On a small disk of the second guest's own: the Debian image is the user's, and nobody commits to that here.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::process::Command;

use crate::failure::Failure;
use crate::life::{self, Life};
use crate::stage::Stage;
use crate::workshop::Workshop;

/// What the guest writes.
const NOTE: &str = "this shall stay";

/// Of a status, what is about the disk.
const STATUS_LINES: usize = 6;

/// Keeps what the guest wrote to its second disk.
pub(crate) fn decide(stage: &mut Stage, workshop: &Workshop, life: &mut Life) -> Result<(), Failure> {
    stage.step("The decision is yours: save, commit");
    stage.say(
        "The guest has a second disk, from an empty image golden.raw. Its helper takes orders at a socket, vdb.ctl, that the VMM \
         does not have. The guest writes something worth keeping:",
    );
    life.show(
        stage,
        &format!("echo {NOTE} | dd of=/dev/vdb conv=notrunc,fsync 2>/dev/null; head -n 1 /dev/vdb"),
    )?;
    stage.gap();
    stage.say("How its disk is:");
    let status = ctl(stage, workshop, ["status"])?.1;
    // The rest is about limits and confinement.
    let first: Vec<_> = status.lines().take(STATUS_LINES).collect();
    stage.show(&first.join("\n"));
    stage.show("...");
    stage.gap();
    stage.say("The disk as it is at this moment, as a new file, while the guest runs on:");
    let tested = workshop.file("tested.raw");
    let (saved, said) = ctl(stage, workshop, [OsStr::new("save"), tested.as_os_str()])?;
    stage.show_wrapped(&lines(&said));
    stage.gap();
    stage.say("And as the new base, in the place of the old one:");
    let golden = workshop.golden();
    let words = [OsStr::new("commit"), OsStr::new("--base"), golden.as_os_str()];
    let before = workshop.golden_identity()?;
    let (committed, said) = ctl(stage, workshop, words)?;
    stage.show_wrapped(&lines(&said));
    stage.gap();
    stage.say("Once more, which would undo what somebody else may have committed meanwhile:");
    let (again, said) = ctl(stage, workshop, words)?;
    stage.show_wrapped(&lines(&said));
    stage.gap();
    let kept = stage.check(
        saved && begins_with_note(&tested)?,
        "tested.raw has what the guest wrote",
    ) & stage.check(
        committed && begins_with_note(&golden)? && workshop.golden_identity()? != before,
        "golden.raw is a new file, and has it too",
    ) & stage.check(!again, "a second commit is refused");
    let alive = life.sh("head -n 1 /dev/vdb")? == NOTE;
    let alive = stage.check(alive, "the guest goes on, and noticed nothing");
    stage.promise(
        "What you want to keep is kept",
        kept & alive,
        "a save and a commit while the guest ran; everything else burns",
    );
    Ok(())
}

/// Whether `mayfly ctl` did it, and what it said.
fn ctl<W: AsRef<OsStr>>(
    stage: &Stage,
    workshop: &Workshop,
    words: impl IntoIterator<Item = W>,
) -> Result<(bool, String), Failure> {
    let words: Vec<_> = words.into_iter().map(|word| word.as_ref().to_owned()).collect();
    let shown: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    let socket = workshop.control();
    let command = format!("mayfly ctl {} {}", socket.display(), shown.join(" "));
    stage.command(&command.replace(&format!("{}/", workshop.dir().display()), ""));
    let output = Command::new(life::program()?)
        .arg("ctl")
        .arg(socket)
        .args(&words)
        .output();
    let output = output.map_err(Failure::while_doing("run mayfly ctl"))?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).replace(&format!("{}/", workshop.dir().display()), "");
    Ok((output.status.success(), said))
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

fn begins_with_note(path: &std::path::Path) -> Result<bool, Failure> {
    let mut head = [0; NOTE.len()];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut head));
    read.map_err(Failure::while_doing(format!("read {}", path.display())))?;
    Ok(head == *NOTE.as_bytes())
}
