//! `--check-confinement`: shows what confines a VMM, then attempts what must be impossible, from each of its threads.
//!
//! Each attempt is a process of its own: this program, started again, goes through the same steps as one that runs a guest, with
//! the same threads and filters, and then one of the threads performs the act where it would do its work. Instead of a guest
//! there is a [`Bench`]: the same kinds of descriptors with nobody at the other ends.

mod bench;

use super::args::Config;
use super::confine::{ConfineError, Crewed, Terms, confine, seal};
use super::thread::{Parked, ThreadError};
use crate::contract::MachineExit;
use bench::Bench;
use policy::forbidden::check::{self, Finding, Round, SHOW};
use policy::forbidden::{Act, CONTROL, machine};
use policy::seccomp::vmm::{Role, VmmDescriptors, to_markdown};
use policy::{Confined, Descriptor, Descriptors};
use std::convert::Infallible;
use std::io::{self, Write};
use std::thread;

/// The exit code of a check that found nothing, and of an attempt that could say what came of it.
pub(crate) const FINE: u8 = 0;

/// Where an act is attempted under the filter that all threads share.
const PROCESS: &str = "process";

/// Descriptors that a process of this kind may open. A bench has fewer.
const DESCRIPTORS: u64 = 256;

/// Runs the whole check; the process's exit code.
///
/// # Errors
/// When the report cannot be written, or this program cannot be started again.
pub(crate) fn run() -> io::Result<u8> {
    let rounds = [PROCESS].into_iter().chain(Role::NAMES).map(|place| {
        let whose = thread_of(place).map_or("the filter of all threads".to_owned(), |name| {
            format!("the own filter of a thread of the kind {name}")
        });
        Round {
            under: format!(" under {whose}"),
            prefix: format!("{place}:"),
            acts: machine::acts(thread_of(place)),
        }
    });
    Ok(match check::run(rounds)? {
        Finding::NotConfined => MachineExit::NotConfined.number(),
        Finding::Possible => MachineExit::ForbiddenActPossible.number(),
        Finding::Impossible => FINE,
    })
}

/// The kind of thread that attempts acts at a place, if it is one's own filter that they are to meet.
fn thread_of(place: &str) -> Option<&'static str> {
    Role::NAMES.into_iter().find(|name| *name == place)
}

/// What an attempt could not do.
pub(crate) enum AttemptError {
    /// The confinement itself failed.
    Confine(ConfineError),
    /// There is no such act, or no such thread.
    Unknown,
}

/// Confines this process as one that runs a guest, then attempts what `name` says, tells what came of it, and ends.
///
/// # Errors
/// [`AttemptError`]: nothing was attempted.
pub(crate) fn attempt(name: &str, config: &Config) -> Result<Infallible, AttemptError> {
    let terms = Terms {
        keep: Vec::new(),
        descriptors: DESCRIPTORS,
        user: config.user,
    };
    // Asked for while that is possible.
    let parent = nix::unistd::getppid();
    if name == SHOW {
        let confined = confine(&terms, |_| Bench::open(parent), |bench| Rig::muster(bench, None));
        end(show(&confined.map_err(AttemptError::Confine)?));
    }
    let (place, act) = name.split_once(':').ok_or(AttemptError::Unknown)?;
    let acts = machine::acts(thread_of(place));
    let act = acts.into_iter().chain([CONTROL]).find(|known| known.name == act);
    let act = act.ok_or(AttemptError::Unknown)?;
    let start = |bench| Rig::muster(bench, Some(act));
    let confined = match place {
        PROCESS => seal(&terms, |_| Bench::open(parent), start),
        _ if thread_of(place).is_some() => confine(&terms, |_| Bench::open(parent), start),
        _ => return Err(AttemptError::Unknown),
    };
    let (rig, _) = confined.map_err(AttemptError::Confine)?.into_parts();
    rig.perform(place, &act)
}

/// Ends this confined process, if only because nobody can be told what came of an act. Nothing in it may be closed.
fn end(told: io::Result<()>) -> ! {
    policy::signals::exit_now(told.map_or(MachineExit::CannotStart.number(), |()| FINE))
}

/// Prints what confines the process.
fn show(confined: &Confined<Rig>) -> io::Result<()> {
    let rig = confined.get();
    let mut out = io::stdout().lock();
    writeln!(out, "{}", rig.bench.kvm())?;
    writeln!(out, "{}", confined.report())?;
    writeln!(out, "{}", to_markdown(&rig.bench.named()))?;
    out.flush()
}

/// A bench, with a thread of each kind at it.
struct Rig {
    bench: Bench,
    threads: Vec<(Role, Parked)>,
}

impl Rig {
    /// Starts the threads. Let go, each performs `act`, if there is one.
    fn muster(bench: Bench, act: Option<Act>) -> Result<Self, ThreadError> {
        let targets = bench.targets();
        let threads = bench
            .roles()
            .map(|role| {
                let work = move || end(act.map_or(Ok(()), |act| tell(&check::attempt(&act, &targets))));
                Ok((role, Parked::start(role.name().to_owned(), work)?))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { bench, threads })
    }

    /// Has the thread at `place` perform `act`; without one there, the control thread, which is this one.
    fn perform(self, place: &str, act: &Act) -> ! {
        let Self { bench, threads } = self;
        let Some((_, thread)) = threads.into_iter().find(|(role, _)| role.name() == place) else {
            end(tell(&check::attempt(act, &bench.targets())))
        };
        thread.go();
        loop {
            thread::park();
        }
    }
}

impl Descriptors for Rig {
    fn descriptors(&self) -> Vec<Descriptor> {
        self.bench.descriptors()
    }
}

impl Crewed for Rig {
    fn named(&self) -> VmmDescriptors {
        self.bench.named()
    }

    fn threads(&self) -> Vec<(Role, &Parked)> {
        self.threads.iter().map(|(role, thread)| (*role, thread)).collect()
    }
}

/// Says what came of an act.
fn tell(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}
