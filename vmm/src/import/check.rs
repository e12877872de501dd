//! `--check-confinement`: shows what confines an import, then attempts what must be impossible.
//!
//! Each attempt is a process of its own: this program, started again, goes through the same steps as one that converts, and
//! performs the act where it would look at the image. Image and output are files in memory; the image can only be read.

use super::args::Config;
use super::life::{Files, StartError, confine};
use crate::contract::import::{Format, ImageSpec, ImportExit, ImportSpec};
use nix::sys::memfd::{MFdFlags, memfd_create};
use policy::forbidden::check::{self, Finding, Round, SHOW};
use policy::forbidden::{self, CONTROL, Targets, stand_in};
use policy::seccomp::import::import_filter;
use policy::{Confined, signals};
use std::convert::Infallible;
use std::io::{self, Write};
use std::os::fd::IntoRawFd;

/// Runs the whole check.
///
/// # Errors
/// When the report cannot be written, or this program cannot be started again.
pub(super) fn run() -> io::Result<ImportExit> {
    Ok(match check::run([Round::only(forbidden::all())])? {
        Finding::NotConfined => ImportExit::NotConfined,
        Finding::Possible => ImportExit::ForbiddenActPossible,
        Finding::Impossible => ImportExit::Done,
    })
}

/// What an attempt could not do.
pub(super) enum AttemptError {
    /// The confinement itself failed.
    Start(StartError),
    /// There is no such act.
    Unknown,
}

/// Confines this process as one that converts, then attempts what `name` says, tells what came of it, and ends.
///
/// # Errors
/// [`AttemptError`]: nothing was attempted.
pub(super) fn attempt(name: &str, config: &Config) -> Result<Infallible, AttemptError> {
    let act = forbidden::all().iter().chain([&CONTROL]).find(|act| act.name == name);
    if act.is_none() && name != SHOW {
        return Err(AttemptError::Unknown);
    }
    let parent = nix::unistd::getppid();
    let spec = own_files(config);
    let confined = confine(&spec).map_err(AttemptError::Start)?;
    let targets = if name == CONTROL.name {
        // Without files its work is to say something. It reads images with another call than a helper its base.
        Targets::new(parent)
    } else {
        Targets {
            base: spec.images.first().map(|spec| spec.image),
            overlay: Some(spec.output),
            ..Targets::new(parent)
        }
    };
    let text = act.map_or_else(|| report(&confined), |act| check::attempt(act, &targets));
    let mut out = io::stdout().lock();
    let told = writeln!(out, "{text}").and_then(|()| out.flush());
    let exit = told.map_or(ImportExit::CannotStart, |()| ImportExit::Done);
    // Not returned: nothing in here may be closed.
    signals::exit_now(exit.number())
}

fn report(confined: &Confined<Files>) -> String {
    let filter = import_filter(&confined.get().named());
    format!("{}\nfilter:\n{}", confined.report(), filter.to_markdown())
}

/// Files for a process that will not convert anything.
fn own_files(config: &Config) -> ImportSpec {
    let image = stand_in().expect("a fresh process has descriptors left");
    let output = memfd_create("output", MFdFlags::MFD_CLOEXEC).expect("a fresh process has descriptors left");
    ImportSpec {
        images: vec![ImageSpec {
            image: image.into_raw_fd(),
            format: Format::Qcow2,
        }],
        output: output.into_raw_fd(),
        bytes_max: 1 << 30,
        user: config.user,
        verbose: config.verbose,
    }
}
