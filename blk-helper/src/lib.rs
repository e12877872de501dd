//! `blk-helper`: serves one disk to one virtual machine over vhost-user-blk, and burns it.
//!
//! Reading order. A process's life: `args` → `confine` (prepare, open, enter, seal) → `serve`. A request's life:
//! `worker` → `ring` → `queue` → `chain` → `request` → `disk` → `overlay` → `base` or the overlay's store.
//!
//! The concurrency rule: one worker, always the same, drains a ring; whatever the control thread changes about a ring,
//! it changes while that worker keeps away; the disk below takes care of itself.
#![deny(unsafe_code)]

mod args;
mod back_channel;
mod backend;
mod base;
mod bell;
mod chain;
mod check;
mod cipher;
mod clients;
mod cold;
mod confine;
mod connection;
mod control;
mod decide;
mod disk;
mod door;
mod environment;
mod events;
#[cfg(fuzzing)]
pub mod fuzzing;
mod gate;
mod guest_memory;
mod key_memory;
mod limits;
mod mapping;
mod overlay;
mod pace;
mod parking;
mod queue;
mod report;
mod request;
mod resources;
mod ring;
mod save;
mod serve;
mod service;
mod shortage;
mod signal;
mod staff;
mod stats;
mod sys;
mod throttle;
mod transfer;
mod warmer;
mod watch;
mod worker;

use crate::args::Config;
use crate::check::AttemptError;
use crate::confine::{StartError, confine};
use crate::environment::Environment;
use crate::report::HelperReport;
use crate::resources::Sources;
use crate::ring::Fatal;
use crate::serve::{End, serve};
use log::{Level, error, info, log, warn};
use policy::logging::{self, chain};
use protocol::launch::ExitCode;
use std::io::{self, Write};

/// The program.
pub fn main() -> ! {
    let config = Config::from_command_line();
    logging::start("blk-helper", &["blk_helper", "policy"], config.verbose);
    std::panic::set_hook(Box::new(|panic| {
        error!("a bug: {panic}; the disk is burnt");
        policy::signals::exit_now(ExitCode::Panicked.number());
    }));
    let code = if config.print_capabilities {
        print_capabilities()
    } else if config.check_confinement {
        check::run().unwrap_or_else(|error| cannot("check the confinement", &error))
    } else if let Some(act) = &config.attempt {
        attempt(act, &config)
    } else {
        live(&config)
    };
    // Without destructors or waiting for threads: closing the overlay's last descriptor is the burn, and the kernel does it.
    policy::signals::exit_now(code.number())
}

/// The life of a helper.
fn live(config: &Config) -> ExitCode {
    let pid = std::process::id();
    let environment = Environment::read();
    let named = || Sources::named(config, &environment);
    let confined = match confine(config, &environment, named) {
        Ok(confined) => confined,
        Err(error) => return refuse(&error),
    };
    let service = confined.get();
    info!("serving {}", service.facts);
    if let Some(format) = config.report {
        let report = HelperReport {
            version: env!("CARGO_PKG_VERSION"),
            pid,
            disk: &service.facts,
            confinement: confined.report(),
        };
        if let Err(error) = report.print(format) {
            // Not by returning: what is confined cannot let go of its descriptors, since the filter keeps their numbers.
            policy::signals::exit_now(cannot("print the report", &error).number());
        }
    }
    if let Err(error) = service.announce() {
        warn!("cannot tell the service manager that we are ready: {error}");
    }
    let end = serve(confined);
    let (level, code) = match end {
        End::FrontendGone | End::OperatorGone | End::Stopped => (Level::Info, ExitCode::Burnt),
        End::Fatal(Fatal::DrainTimedOut(_)) => (Level::Error, ExitCode::DrainTimedOut),
        End::Fatal(Fatal::HistoryRefused(_)) => (Level::Error, ExitCode::HistoryRefused),
        End::Loop(_) => (Level::Error, ExitCode::ServeFailed),
    };
    log!(level, "{}; the disk is burnt", chain(&end));
    code
}

fn attempt(act: &str, config: &Config) -> ExitCode {
    match check::attempt(act, config, &Environment::read()) {
        Ok(()) => ExitCode::Burnt,
        Err(AttemptError::Start(error)) => refuse(&error),
        Err(AttemptError::Unknown) => ExitCode::Usage,
        Err(AttemptError::Tell(error)) => cannot("tell the outcome", &error),
    }
}

fn refuse(error: &StartError) -> ExitCode {
    error!("{}", chain(error));
    error.exit_code()
}

fn cannot(doing: &str, error: &io::Error) -> ExitCode {
    error!("cannot {doing}: {error}");
    ExitCode::CannotStart
}

/// What the conventions for vhost-user backend programs ask a block backend to say of itself.
fn print_capabilities() -> ExitCode {
    let text = "{\n  \"type\": \"block\",\n  \"features\": [\n    \"read-only\",\n    \"blk-file\"\n  ]\n}\n";
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::Burnt,
        Err(error) => cannot("print the capabilities", &error),
    }
}
