//! One run of a guest, from the first process to the last. One thread, which starts all processes and so must live on: each is
//! killed when it ends.
//!
//! ```text
//! helpers ─► all READY ─► VMM ─► READY ─► console ─► VMM ends ─┬─ reboot: a new connection to each backend, a new VMM
//!                                                              └─ anything else: the end
//! ```
//!
//! What happens comes from [`super::events`], one thing at a time, and [`react`] deals with it; here is what follows in the large.

mod again;
mod react;

use super::child::Child;
use super::console::Console;
use super::crew::{Crew, CrewError};
use super::end::{Code, End, helper_ended, machine_ended, qemu_ended};
use super::events::wait;
use super::host::Engine;
use super::kit::Kit;
use super::plan::Plan;
use super::reports::Reports;
use super::signals::Signals;
use super::terminal::{Raw, discard_input};
use crate::contract::MachineExit;
use log::{info, warn};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use std::io;
use std::process::ExitStatus;
use std::time::{Duration, Instant};
use thiserror::Error;

/// How long a process may take to say READY. It takes milliseconds; the rest is a loaded machine. Longer than a VMM waits for a
/// disk's backend, since the VMM knows better what to say of that.
const START: Duration = Duration::from_secs(35);

/// How long what the guest printed last may take to be passed on, when nobody takes it.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// How long a helper's end may show after the VMM's at the start, and be the cause of it.
const BLAMED: Duration = Duration::from_millis(100);

/// How long the end of a helper may take to show, when the VMM says that a disk is gone.
const SHOWS: Duration = Duration::from_secs(1);

/// A guest that reboots within this time after its VMM started has done nothing else.
const FAST: Duration = Duration::from_secs(1);

/// As many such reboots in a row lead nowhere. The run ends then, rather than slow down: nobody may be watching, and a run that
/// ends with a code of its own is noticed.
const FAST_REBOOTS: u32 = 10;

/// Why a run did not get as far as a guest, or failed between two of its boots.
#[derive(Debug, Error)]
pub(crate) enum RunError {
    #[error(transparent)]
    Crew(#[from] CrewError),
    #[error("{name} did not start ({how}); what it said is above")]
    Ended { name: String, how: String, code: Code },
    #[error("{name} was not ready within {} s; is this machine overloaded?", START.as_secs())]
    Silent { name: String },
    #[error(
        "{name} closed its standard output or said too much there, and no line that it is ready; what it logged is above"
    )]
    Unready { name: String },
    #[error("cannot wait for what happens")]
    Wait(#[source] Errno),
    #[error("cannot write the report of --report")]
    Report(#[source] io::Error),
    #[error("the terminal cannot be used")]
    Terminal(#[source] Errno),
}

impl RunError {
    /// What `exit` gets.
    pub(crate) const fn code(&self) -> Code {
        match self {
            Self::Ended { code, .. } => *code,
            Self::Crew(_) | Self::Silent { .. } | Self::Unready { .. } | Self::Report(_) | Self::Terminal(_) => {
                Code::CannotStart
            }
            Self::Wait(_) => Code::RunFailed,
        }
    }
}

/// A run.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    plan: &'a Plan,
    kit: Kit,
    signals: Signals,
    crew: Crew,
    console: Console,
    raw: Option<Raw>,
    reports: Option<Reports>,
    verbose: bool,
    began: Instant,
    reboots: u32,
    fast_reboots: u32,
    /// How the VMM ended, and when that was seen.
    gone: Option<(ExitStatus, Instant)>,
}

/// What ended a wait.
enum Waited {
    /// What was waited for.
    Done,
    /// The time was up.
    TooLong,
    /// Something that ends the run.
    End(End),
}

impl<'a> Run<'a> {
    /// A run that has not begun.
    pub(crate) fn new(plan: &'a Plan, kit: Kit, signals: Signals, reports: Option<Reports>, verbose: bool) -> Self {
        Self {
            plan,
            kit,
            signals,
            crew: Crew::default(),
            console: Console::new(),
            raw: None,
            reports,
            verbose,
            began: Instant::now(),
            reboots: 0,
            fast_reboots: 0,
            gone: None,
        }
    }

    /// Runs the guest. When this returns, the terminal is as it was and no process is left.
    ///
    /// # Errors
    /// [`RunError`].
    pub(crate) fn go(mut self) -> Result<End, RunError> {
        let end = self.live();
        self.console.close();
        let was_raw = self.raw.take().is_some();
        self.bury();
        if was_raw {
            discard_input();
        }
        end
    }

    fn live(&mut self) -> Result<End, RunError> {
        let mut connections = self.crew.start_helpers(self.plan)?;
        if let Some(end) = self.until_ready()? {
            return Ok(end);
        }
        loop {
            self.gone = None;
            self.crew
                .start_machine(self.plan, &mut self.kit, connections, &mut self.console)?;
            if let Some(end) = self.until_ready()? {
                return Ok(end);
            }
            self.begin_console()?;
            let status = match self.until_machine_ends()? {
                Ok(status) => status,
                Err(end) => return Ok(end),
            };
            if let Some(end) = self.conclude(status)?.or_else(|| self.lost_helper()) {
                return Ok(end);
            }
            connections = match self.connect_again()? {
                Ok(connections) => connections,
                Err(end) => return Ok(end),
            };
        }
    }

    /// Waits until every process is ready.
    fn until_ready(&mut self) -> Result<Option<End>, RunError> {
        let ready = |run: &Self| run.crew.processes().all(|child| child.is_ready() == Some(true));
        let failed = |run: &Self| run.crew.processes().any(Child::has_failed);
        match self.wait_for(START, |run| ready(run) || failed(run))? {
            Waited::Done if !failed(self) => self.tell_reports().map(|()| None),
            Waited::Done => {
                // Standard output was closed: the exit code comes with the end.
                self.wait_for(SHOWS, |run| run.crew.processes().any(|child| child.ended().is_some()))?;
                self.blame().map(Some)
            }
            Waited::TooLong | Waited::End(End::HelperEnded { .. }) => self.blame().map(Some),
            Waited::End(end) => Ok(Some(end)),
        }
    }

    fn tell_reports(&mut self) -> Result<(), RunError> {
        let reports = self.reports.as_mut();
        let told = reports.map(|reports| reports.add(self.crew.processes()));
        told.transpose().map(drop).map_err(RunError::Report)
    }

    /// Who is to blame for there being no guest: a helper rather than the VMM, which has nobody without it.
    ///
    /// # Errors
    /// A process that did not start; the end of a helper that had started is one of the run.
    fn blame(&mut self) -> Result<End, RunError> {
        self.wait_for(BLAMED, |run| run.lost_helper().is_some())?;
        // The VMM is started when all helpers are ready.
        let started = self.crew.machine.is_some();
        let lost = self.lost_helper().filter(|_| started);
        lost.map_or_else(|| Err(self.who_failed()), Ok)
    }

    fn who_failed(&self) -> RunError {
        let ended = self
            .crew
            .processes()
            .find_map(|child| child.ended().map(|status| (child, status)));
        let Some((child, status)) = ended else {
            if let Some(child) = self.crew.processes().find(|child| child.is_ready() == Some(false)) {
                let name = child.name().to_owned();
                return RunError::Unready { name };
            }
            let late = self.crew.processes().find(|child| child.is_ready().is_none());
            let name = late.map_or("a process", |child| child.name()).to_owned();
            return RunError::Silent { name };
        };
        let is_machine = self
            .crew
            .machine
            .as_ref()
            .is_some_and(|machine| machine.pid() == child.pid());
        let how = match (is_machine, self.plan.engine) {
            (false, _) => helper_ended(status),
            (true, Engine::Kvm) => machine_ended(status),
            (true, Engine::Qemu) => qemu_ended(status),
        };
        let confined = status.code() != Some(i32::from(Code::NotConfined.number()));
        RunError::Ended {
            name: child.name().to_owned(),
            how,
            code: if confined { Code::CannotStart } else { Code::NotConfined },
        }
    }

    /// The guest has the terminal from now on.
    fn begin_console(&mut self) -> Result<(), RunError> {
        if self.raw.is_none() && self.console.has_keys() {
            self.raw = Some(Raw::enter().map_err(RunError::Terminal)?);
            info!("the guest has the terminal; C-a h shows the keys, C-a x quits");
        }
        Ok(())
    }

    /// Waits until the VMM has ended and all that the guest printed is passed on.
    fn until_machine_ends(&mut self) -> Result<Result<ExitStatus, End>, RunError> {
        loop {
            let drained = |run: &Self| run.gone.is_some() && run.console.is_drained();
            let left = self
                .gone
                .map_or(START, |(_, when)| LAST_WORDS.saturating_sub(when.elapsed()));
            let waited = self.wait_for(left, drained)?;
            match (waited, self.gone) {
                (Waited::End(end), None) => return Ok(Err(end)),
                // It has ended already: what ends now does so with it, but for an operator who does not want to wait.
                (Waited::End(end @ (End::Quit | End::Told(_) | End::TerminalGone | End::OutputGone)), _) => {
                    return Ok(Err(end));
                }
                (Waited::Done, Some((status, _))) => return Ok(Ok(status)),
                (Waited::TooLong, Some((status, when))) if when.elapsed() >= LAST_WORDS => {
                    warn!("nobody takes what the guest printed last; some of it is lost");
                    return Ok(Ok(status));
                }
                (Waited::TooLong | Waited::Done | Waited::End(_), _) => {}
            }
        }
    }

    /// What follows from the VMM's end; nothing if the guest shall boot again.
    fn conclude(&mut self, status: ExitStatus) -> Result<Option<End>, RunError> {
        if self.plan.engine == Engine::Qemu {
            return match status.code() {
                Some(0) => Ok(Some(End::PoweredOff)),
                Some(_) if !self.console.has_spoken() => self.blame().map(Some),
                Some(_) | None => Ok(Some(End::MachineEnded {
                    how: qemu_ended(status),
                })),
            };
        }
        let exit = status.code().and_then(|code| MachineExit::try_from(code).ok());
        let end = match exit {
            Some(MachineExit::PoweredOff) => End::PoweredOff,
            Some(MachineExit::GuestCrashed) => End::GuestCrashed,
            Some(MachineExit::Reboot) => return Ok(self.count_reboot()),
            Some(MachineExit::DiskGone) => {
                self.wait_for(SHOWS, |run| run.lost_helper().is_some())?;
                self.lost_helper().unwrap_or(End::DiskGone)
            }
            Some(_) | None => End::MachineEnded {
                how: machine_ended(status),
            },
        };
        Ok(Some(end))
    }

    /// The end of a helper, if one has ended.
    fn lost_helper(&self) -> Option<End> {
        let helpers = self.plan.disks.iter().zip(&self.crew.helpers);
        let mut ended = helpers.filter_map(|(disk, helper)| Some((disk, helper.as_ref()?.child.ended()?)));
        ended.next().map(|(disk, status)| End::HelperEnded {
            disk: disk.name.clone(),
            status,
        })
    }

    fn count_reboot(&mut self) -> Option<End> {
        let lived = self
            .crew
            .machine
            .as_ref()
            .map_or(FAST, |machine| machine.started().elapsed());
        self.reboots = self.reboots.saturating_add(1);
        self.fast_reboots = if lived < FAST {
            self.fast_reboots.saturating_add(1)
        } else {
            0
        };
        if self.fast_reboots >= FAST_REBOOTS {
            return Some(End::RebootLoop);
        }
        info!("the guest reboots: a new VMM on the same disks");
        None
    }

    /// Waits for `done`, for something that ends the run, or for the time to be up.
    fn wait_for(&mut self, limit: Duration, mut done: impl FnMut(&Self) -> bool) -> Result<Waited, RunError> {
        let until = Instant::now() + limit;
        loop {
            if done(self) {
                return Ok(Waited::Done);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Waited::TooLong);
            }
            for source in wait(&self.signals, &self.crew, &self.console, left).map_err(RunError::Wait)? {
                if let Some(end) = self.handle(source) {
                    return Ok(Waited::End(end));
                }
            }
        }
    }

    /// Ends every process and waits for that, with a bound: a burn frees its space before the process is gone, which can take a
    /// file system some seconds.
    fn bury(&mut self) {
        const POLITE: Duration = Duration::from_secs(2);
        const MOST: Duration = Duration::from_secs(30);
        if let Some(machine) = &self.crew.machine {
            // It holds nothing that needs putting away.
            machine.signal(Signal::SIGKILL);
        }
        for (signal, limit) in [(Signal::SIGTERM, POLITE), (Signal::SIGKILL, MOST)] {
            self.crew.processes().for_each(|child| child.signal(signal));
            let gone = |run: &Self| run.crew.processes().all(|child| child.ended().is_some());
            let until = Instant::now() + limit;
            while !gone(self) && Instant::now() < until {
                let left = until.saturating_duration_since(Instant::now());
                match self.wait_for(left, gone) {
                    // What ends here was told to.
                    Ok(Waited::End(End::HelperEnded { .. })) => {}
                    Ok(_) | Err(_) => break,
                }
            }
        }
        for child in self.crew.processes().filter(|child| child.ended().is_none()) {
            warn!(
                "{} (process {}) was killed and has not ended yet",
                child.name(),
                child.pid()
            );
        }
    }
}
