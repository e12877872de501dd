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
use policy::forbidden::check::{self, Finding, Round, SHOW};
use policy::forbidden::{self, stand_in};
use protocol::launch::ExitCode;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;

/// Runs the whole check; the process's exit code.
///
/// # Errors
/// When the report cannot be written, or this program cannot be started again.
pub(crate) fn run() -> io::Result<ExitCode> {
    Ok(match check::run([Round::only(forbidden::all())])? {
        Finding::NotConfined => ExitCode::NotConfined,
        Finding::Possible => ExitCode::ForbiddenActPossible,
        Finding::Impossible => ExitCode::Burnt,
    })
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
        Some(act) => check::attempt(act, &service.targets(parent)),
    };
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")
        .and_then(|()| out.flush())
        .map_err(AttemptError::Tell)
}

/// A base and a door for a process that will not serve: a file of its own, and a connection to nobody.
fn own_sources() -> Sources {
    let base = stand_in().expect("a fresh process has descriptors left");
    let (door, _closed) = UnixStream::pair().expect("a fresh process has descriptors left");
    Sources {
        base: BaseSource::Descriptor(base.into()),
        door: DoorSource::Connection(door.into()),
        operator: None,
    }
}
