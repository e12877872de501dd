//! `--check-confinement`: shows what confines a helper, then attempts what must be impossible.
//!
//! Each attempt is a process of its own: this program, started again, goes through the same steps as one that serves, and
//! then performs the act where it would serve. This process only watches, and is not confined itself.

use crate::args::Config;
use crate::base::BaseSource;
use crate::confine::{StartError, confine};
use crate::door::DoorSource;
use crate::environment::Environment;
use crate::resources::Sources;
use nix::sys::signal::Signal;
use policy::forbidden::{self, Act, Outcome, Targets};
use protocol::launch::ExitCode;
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output, Stdio};

/// The attempt that attempts nothing: it shows the report.
const SHOW: &str = "show-report";

/// What an attempt says of an act that it performed.
const DONE: &str = "it was done";

/// What became of an act.
enum Verdict {
    /// It cannot be done: how that showed.
    Impossible(String),
    /// It can, or nobody knows.
    Alarm(String),
}

/// Runs the whole check; the process's exit code.
///
/// # Errors
/// When the report cannot be written, or this program cannot be started again.
pub(crate) fn run() -> io::Result<ExitCode> {
    let mut out = io::stdout().lock();
    let shown = again(SHOW)?;
    out.write_all(&shown.stdout)?;
    if !shown.status.success() {
        io::stderr().write_all(&shown.stderr)?;
        return Ok(ExitCode::NotConfined);
    }
    // What must be possible, so that a process which dies of something else does not pass for a refusal.
    let control = again(forbidden::CONTROL.name)?;
    if control.stdout.trim_ascii() != DONE.as_bytes() {
        writeln!(
            out,
            "\nALARM: an attempt does not get as far as its act, so nothing can be said"
        )?;
        io::stderr().write_all(&control.stderr)?;
        return Ok(ExitCode::ForbiddenActPossible);
    }
    writeln!(out, "\nforbidden acts, each in a process of its own:")?;
    let mut alarms = 0u32;
    for act in forbidden::all() {
        let text = match judge(&again(act.name)?) {
            Verdict::Impossible(how) => format!("impossible: {how}"),
            Verdict::Alarm(how) => {
                alarms = alarms.saturating_add(1);
                format!("ALARM: {how}")
            }
        };
        writeln!(out, "  {:<28} {:<62} {text}", act.name, act.what)?;
    }
    if alarms == 0 {
        writeln!(out, "\nnone of {} forbidden acts was possible", forbidden::all().len())?;
        Ok(ExitCode::Burnt)
    } else {
        writeln!(
            out,
            "\n{alarms} of {} forbidden acts were possible",
            forbidden::all().len()
        )?;
        Ok(ExitCode::ForbiddenActPossible)
    }
}

/// Starts this program again with the same options, to attempt `act`.
fn again(act: &str) -> io::Result<Output> {
    let options = std::env::args_os()
        .skip(1)
        .filter(|option| option != "--check-confinement");
    Command::new(std::env::current_exe()?)
        .args(options)
        .args([OsString::from("--attempt"), act.into()])
        .stdin(Stdio::null())
        .output()
}

fn judge(output: &Output) -> Verdict {
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    match (output.status.signal(), output.status.code()) {
        (Some(signal), _) if Signal::try_from(signal) == Ok(Signal::SIGSYS) => {
            Verdict::Impossible("the filter killed the process".into())
        }
        (None, Some(0)) if said.starts_with("refused") => Verdict::Impossible(said),
        (None, Some(0)) => Verdict::Alarm(said),
        (signal, code) => Verdict::Alarm(format!(
            "the attempt itself failed (signal {signal:?}, exit {code:?}): {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
    }
}

/// What an attempt could not do.
pub(crate) enum AttemptError {
    /// The confinement itself failed.
    Start(StartError),
    /// There is no such act.
    Unknown,
    /// The outcome cannot be told.
    Tell(io::Error),
}

/// Confines this process as one that serves, then attempts the act called `name` and says what came of it.
///
/// # Errors
/// [`AttemptError`].
pub(crate) fn attempt(name: &str, config: &Config, environment: &Environment) -> Result<(), AttemptError> {
    let act = forbidden::all()
        .iter()
        .chain([&forbidden::CONTROL])
        .find(|act| act.name == name);
    if act.is_none() && name != SHOW {
        return Err(AttemptError::Unknown);
    }
    let parent = nix::unistd::getppid();
    let confined = confine(config, environment, || Ok(own_sources())).map_err(AttemptError::Start)?;
    let service = confined.get();
    let text = match act {
        None => format!(
            "disk: {}\n{}\nfilter:\n{}",
            service.facts,
            confined.report(),
            service.filter().to_markdown()
        ),
        Some(act) => tell(act, &service.targets(parent)),
    };
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")
        .and_then(|()| out.flush())
        .map_err(AttemptError::Tell)
}

fn tell(act: &Act, targets: &Targets) -> String {
    match act.attempt(targets) {
        Outcome::Possible => DONE.into(),
        Outcome::Reached(errno) => {
            format!("the kernel took the call and only disliked its arguments: {errno}")
        }
        Outcome::Refused(errno) => format!("refused: {errno}"),
        Outcome::NoTarget => "refused: there is nothing to aim at".into(),
    }
}

/// A base and a door for a process that will not serve: its own executable, and a connection to nobody.
fn own_sources() -> Sources {
    let base = BaseSource::Path("/proc/self/exe".into());
    let (door, _closed) = UnixStream::pair().expect("a fresh process has descriptors left");
    Sources {
        base,
        door: DoorSource::Connection(door.into()),
    }
}
