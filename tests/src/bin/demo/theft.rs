//! The step in which a process with the helper's uid tries to get at the overlay, and fails.

use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::fs::{AtFlags, CWD, linkat};

use crate::crew::{Crew, Owner};
use crate::failure::Failure;
use crate::stage::Stage;
use crate::thief::{TAKEN, error_text};
use crate::workshop::Workshop;

/// What came of an attempt.
struct Attempt {
    on_helper: bool,
    act: String,
    outcome: String,
}

/// Shows all attempts, and that they work on any other process of that user.
pub(crate) fn show(stage: &mut Stage, workshop: &Workshop, crew: &Crew) -> Result<(), Failure> {
    stage.step("A thief with the helper's own uid");
    let user = crew.helper.owner()?;
    stage.say(&format!(
        "Processes of one user may usually look into each other. So here is one more process of uid {}, the one that \
         blk-helper runs as (and so does {}), and it wants the overlay:",
        user.uid, crew.vmm.program
    ));
    let attempts = attempt(workshop, crew, user)?;
    let width = attempts.iter().map(|attempt| attempt.act.len()).max().unwrap_or(0);
    let (on_helper, on_ordinary): (Vec<_>, Vec<_>) = attempts.into_iter().partition(|attempt| attempt.on_helper);
    stage.gap();
    let mut refused = !on_helper.is_empty();
    for Attempt { act, outcome, .. } in &on_helper {
        refused &= stage.check(outcome != TAKEN, &format!("{act:width$}  {outcome}"));
    }
    if nix::unistd::geteuid().is_root() {
        refused &= root_cannot_name_it(stage, workshop, crew, width)?;
    }
    stage.gap();
    stage.say("The same program, the same acts, on an ordinary process of the same user:");
    stage.gap();
    let taken = on_ordinary.iter().filter(|attempt| attempt.outcome == TAKEN).count();
    for Attempt { act, outcome, .. } in &on_ordinary {
        stage.show(&format!("{act:width$}  {outcome}"));
    }
    let errors: Vec<&str> = on_helper
        .iter()
        .map(|attempt| attempt.outcome.split(':').next().unwrap_or_default())
        .collect();
    stage.promise(
        "No other process can get at it",
        refused,
        format!(
            "{} attempts as uid {}: {}; on an ordinary process {taken} of {} worked",
            on_helper.len(),
            user.uid,
            errors.join(", "),
            on_ordinary.len()
        ),
    );
    Ok(())
}

/// Not even root can bring it back into a directory: it was opened so that it never gets a name.
fn root_cannot_name_it(stage: &mut Stage, workshop: &Workshop, crew: &Crew, width: usize) -> Result<bool, Failure> {
    let name = workshop.loot().join("named-by-root");
    let linked = linkat(CWD, crew.overlay_path()?, CWD, &name, AtFlags::SYMLINK_FOLLOW);
    let outcome = linked.map_or_else(|errno| error_text(&errno.into()), |()| TAKEN.to_owned());
    Ok(stage.check(
        linked.is_err(),
        &format!("{:width$}  {outcome}", "as root: give it a name (linkat)"),
    ))
}

fn attempt(workshop: &Workshop, crew: &Crew, user: Owner) -> Result<Vec<Attempt>, Failure> {
    // By way of /proc, because the directory of this program may be closed to that user.
    let mut thief = Command::new("/proc/self/exe");
    thief
        .arg("thief")
        .arg(crew.helper.pid.to_string())
        .arg(crew.helper.descriptor("overlay")?.to_string())
        .arg(workshop.loot());
    if nix::unistd::geteuid().as_raw() != user.uid {
        thief.uid(user.uid).gid(user.gid);
    }
    let output = thief.output().map_err(Failure::while_doing("start a thief"))?;
    if !output.status.success() {
        return Err(Failure::Program {
            program: "the thief",
            said: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        });
    }
    let said = String::from_utf8_lossy(&output.stdout);
    let attempts = said.lines().filter_map(|line| {
        let mut fields = line.split('\t');
        let (whom, act, outcome) = (fields.next()?, fields.next()?, fields.next()?);
        Some(Attempt {
            on_helper: whom == "helper",
            act: act.to_owned(),
            outcome: outcome.to_owned(),
        })
    });
    Ok(attempts.collect())
}
