//! The two sides of a check: a watcher that starts one process for each act and judges how it ended, and what such a process says.
//!
//! The watcher is not confined. Programs that use this have the options `--check-confinement` and, hidden, `--attempt WHAT`. How a
//! process confines itself before it performs an act, it does not know.

use nix::sys::signal::Signal;
use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output, Stdio};

use super::{Act, CONTROL, Outcome, Targets};

/// What a process says of an act that it performed.
const DONE: &str = "it was done";

/// What it says when it has nothing to aim at.
const NO_TARGET: &str = "refused: there is nothing to aim at";

/// What became of an act.
enum Verdict {
    /// It cannot be done: how that showed.
    Impossible(String),
    /// It can, or nobody knows.
    Alarm(String),
    /// It says nothing about this process.
    NotHere,
}

/// What a watcher found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    /// Acts that were impossible.
    impossible: usize,
    /// Acts that were possible, or may have been.
    alarms: usize,
}

/// The attempt that attempts nothing: it shows what confines the process.
pub const SHOW: &str = "show-report";

/// Acts that are attempted in one way.
#[derive(Debug)]
pub struct Round {
    /// For a person, behind "forbidden acts": under which filter, where there are several.
    pub under: String,
    /// What stands before an act's name in `--attempt`.
    pub prefix: String,
    /// The acts.
    pub acts: Vec<Act>,
}

impl Round {
    /// The only one of a process whose threads have one filter.
    #[must_use]
    pub fn only(acts: &[Act]) -> Self {
        Self {
            under: String::new(),
            prefix: String::new(),
            acts: acts.to_vec(),
        }
    }
}

/// What a whole check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// A process could not be confined.
    NotConfined,
    /// A forbidden act was possible, or may have been.
    Possible,
    /// None was.
    Impossible,
}

/// Runs a whole check, and prints it: what confines a process of this program, then what became of each act.
///
/// # Errors
/// When it cannot be printed, or this program cannot be started again.
pub fn run(rounds: impl IntoIterator<Item = Round>) -> io::Result<Finding> {
    let mut out = io::stdout().lock();
    let shown = start_again(SHOW)?;
    out.write_all(&shown.stdout)?;
    if !shown.status.success() {
        io::stderr().write_all(&shown.stderr)?;
        return Ok(Finding::NotConfined);
    }
    let mut sum = Tally::default();
    for Round { under, prefix, acts } in rounds {
        writeln!(out, "\nforbidden acts{under}, each in a process of its own:")?;
        let tally = watch(&mut out, &acts, |act| start_again(&format!("{prefix}{act}")))?;
        sum.impossible = sum.impossible.saturating_add(tally.impossible);
        sum.alarms = sum.alarms.saturating_add(tally.alarms);
    }
    if sum.alarms == 0 {
        writeln!(out, "\nnone of {} forbidden acts was possible", sum.impossible)?;
        Ok(Finding::Impossible)
    } else {
        writeln!(out, "\n{} forbidden acts were possible", sum.alarms)?;
        Ok(Finding::Possible)
    }
}

/// Watches processes that `start` starts, one for [`CONTROL`] and one for each of `acts`, and writes a line for each.
///
/// # Errors
/// When the lines cannot be written, or a process cannot be started.
fn watch(out: &mut impl Write, acts: &[Act], mut start: impl FnMut(&str) -> io::Result<Output>) -> io::Result<Tally> {
    let mut tally = Tally::default();
    // What must be possible, so that a process which dies of something else does not pass for a refusal.
    let control = start(CONTROL.name)?;
    if control.stdout.trim_ascii() != DONE.as_bytes() {
        writeln!(
            out,
            "  ALARM: an attempt does not get as far as its act, so nothing can be said: {}",
            ending(&control)
        )?;
        tally.alarms = 1;
        return Ok(tally);
    }
    for act in acts {
        let text = match judge(&start(act.name)?) {
            Verdict::NotHere => continue,
            Verdict::Impossible(how) => {
                tally.impossible = tally.impossible.saturating_add(1);
                format!("impossible: {how}")
            }
            Verdict::Alarm(how) => {
                tally.alarms = tally.alarms.saturating_add(1);
                format!("ALARM: {how}")
            }
        };
        writeln!(out, "  {:<28} {:<62} {text}", act.name, act.what)?;
    }
    Ok(tally)
}

/// How a process ended that attempted an act.
fn judge(output: &Output) -> Verdict {
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    match (output.status.signal(), output.status.code()) {
        (Some(signal), _) if Signal::try_from(signal) == Ok(Signal::SIGSYS) => {
            Verdict::Impossible("the filter killed the process".into())
        }
        (None, Some(0)) if said == NO_TARGET => Verdict::NotHere,
        (None, Some(0)) if said.starts_with("refused") => Verdict::Impossible(said),
        (None, Some(0)) => Verdict::Alarm(said),
        (Some(_), _) | (None, _) => Verdict::Alarm(format!("the attempt itself failed: {}", ending(output))),
    }
}

/// How a process ended, for somebody who wonders why.
fn ending(output: &Output) -> String {
    format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim())
}

/// Starts this program again with the same options, to attempt something instead of checking everything.
///
/// # Errors
/// When it cannot be started.
fn start_again(attempt: &str) -> io::Result<Output> {
    let options = std::env::args_os()
        .skip(1)
        .filter(|option| option != "--check-confinement");
    Command::new(std::env::current_exe()?)
        .args(options)
        .args(["--attempt", attempt])
        .stdin(Stdio::null())
        .output()
}

/// Attempts an act in this process, and says what came of it in the words that [`run`] understands.
#[must_use]
pub fn attempt(act: &Act, targets: &Targets) -> String {
    match act.attempt(targets) {
        Outcome::Possible => DONE.into(),
        Outcome::Reached(errno) => format!("the kernel took the call and only disliked its arguments: {errno}"),
        Outcome::Refused(errno) => format!("refused: {errno}"),
        Outcome::NoTarget => NO_TARGET.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> io::Result<Output> {
        Command::new("/bin/sh").args(["-c", script]).output()
    }

    /// One act, whose process does what the script says.
    fn tally(script: &str) -> (Tally, String) {
        let mut out = Vec::new();
        let tally = watch(&mut out, &super::super::all()[..1], |name| {
            shell(if name == CONTROL.name {
                "echo it was done"
            } else {
                script
            })
        });
        (tally.unwrap(), String::from_utf8(out).unwrap())
    }

    const IMPOSSIBLE: Tally = Tally {
        impossible: 1,
        alarms: 0,
    };
    const ALARM: Tally = Tally {
        impossible: 0,
        alarms: 1,
    };

    #[test]
    fn a_refusal_or_a_death_by_the_filter_is_impossible() {
        assert_eq!(tally("echo refused: EPERM").0, IMPOSSIBLE);
        assert_eq!(tally("kill -SYS $$").0, IMPOSSIBLE);
    }

    /// An execve that succeeds says nothing and ends well.
    #[test]
    fn whatever_else_happens_is_an_alarm() {
        for script in [
            "true",
            "echo it was done",
            "false",
            "kill -KILL $$",
            "echo refused: EPERM; false",
        ] {
            let (tally, text) = tally(script);
            assert_eq!(tally, ALARM, "{script}");
            assert!(text.contains("ALARM"), "{text}");
        }
    }

    #[test]
    fn what_has_no_target_is_not_counted() {
        assert_eq!(
            tally("echo refused: there is nothing to aim at"),
            (Tally::default(), String::new())
        );
    }

    #[test]
    fn attempts_that_do_not_get_as_far_as_the_act_are_an_alarm() {
        let mut out = Vec::new();
        let tally = watch(&mut out, super::super::all(), |_| {
            shell("echo cannot start >&2; kill -SYS $$")
        })
        .unwrap();

        assert_eq!(tally, ALARM);
        assert!(String::from_utf8(out).unwrap().contains("cannot start"));
    }
}
