//! A VMM's life, one screen: confine the process with a machine in it, say so, run the guest, end.

use super::args::Config;
use super::check::{self, AttemptError};
use super::confine::{ConfineError, Terms, confine};
use super::crew::Machine;
use super::resources::Resources;
use crate::contract::{MachineExit, MachineSpec};
use log::error;
use policy::Report;
use policy::logging::{self, chain};
use serde::Serialize;
use std::io::{self, Write};

/// The program `mayfly-vmm`.
pub fn main() -> ! {
    let config = Config::from_command_line();
    logging::start("mayfly-vmm", &["vmm", "mayfly_vmm", "policy"], config.verbose);
    std::panic::set_hook(Box::new(|panic| {
        error!("a bug: {panic}; the guest is stopped");
        policy::signals::exit_now(MachineExit::Panicked.number());
    }));
    let code = match (config.spec(), &config.attempt) {
        (Some(spec), _) => live(&spec).number(),
        (None, Some(attempt)) => {
            let Err(error) = check::attempt(attempt, &config);
            not_attempted(&error).number()
        }
        (None, None) => check::run().unwrap_or_else(|error| cannot("check the confinement", &error).number()),
    };
    // Without destructors or waiting for threads: what is left, the kernel frees.
    policy::signals::exit_now(code)
}

/// One run of one guest.
fn live(spec: &MachineSpec) -> MachineExit {
    let pid = std::process::id();
    let terms = Terms {
        keep: spec.descriptors(),
        descriptors: descriptors_needed(spec),
        user: spec.user,
    };
    let confined = match confine(&terms, |prepared| Resources::open(prepared, spec), Machine::start) {
        Ok(confined) => confined,
        Err(error) => return refuse(&error),
    };
    let announcement = Announcement {
        version: env!("CARGO_PKG_VERSION"),
        pid,
        confinement: confined.report(),
    };
    if let Err(error) = announcement.print() {
        let code = cannot("tell the supervisor that the machine is ready", &error);
        // Not returned: the machine would be dropped first, and the filter has no call for closing anything.
        policy::signals::exit_now(code.number());
    }
    Machine::run(confined)
}

/// Descriptors that can be open at a time: a processor's; a kick for each queue of a disk, of which there is one for each
/// processor; and for every device a dozen beside that.
fn descriptors_needed(spec: &MachineSpec) -> u64 {
    let count = |items: usize| u64::try_from(items).unwrap_or(u64::MAX);
    let (cpus, disks, nets) = (u64::from(spec.cpus), count(spec.disks.len()), count(spec.nets.len()));
    let kicks = disks.saturating_mul(cpus);
    let dozens = disks.saturating_add(nets).saturating_add(5).saturating_mul(12);
    cpus.saturating_add(kicks).saturating_add(dozens)
}

/// What is said when the machine is ready.
#[derive(Debug, Serialize)]
struct Announcement<'a> {
    version: &'static str,
    pid: u32,
    confinement: &'a Report,
}

impl Announcement<'_> {
    /// Prints one line of JSON.
    fn print(&self) -> io::Result<()> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        let mut out = io::stdout().lock();
        out.write_all(&line)?;
        out.flush()
    }
}

fn refuse(error: &ConfineError) -> MachineExit {
    error!("{}", chain(error));
    error.exit()
}

fn cannot(doing: &str, error: &io::Error) -> MachineExit {
    error!("cannot {doing}: {error}");
    MachineExit::CannotStart
}

fn not_attempted(error: &AttemptError) -> MachineExit {
    match error {
        AttemptError::Confine(error) => refuse(error),
        AttemptError::Unknown => MachineExit::Usage,
    }
}
