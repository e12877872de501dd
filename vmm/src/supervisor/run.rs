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
mod ask;
mod bury;
mod decide;
mod keep;
mod others;
mod react;
mod ready;

use self::ask::Asked;
use self::keep::KeepOutcome;
use super::console::Console;
use super::crew::{Crew, CrewError};
use super::end::{Code, End, machine_ended, qemu_ended};
use super::events::wait;
use super::fate::OnExit;
use super::host::Engine;
use super::keeper::Keeping;
use super::kit::Kit;
use super::plan::Plan;
use super::reports::Reports;
use super::settings::Settings;
use super::terminal::{Raw, discard_input};
use crate::contract::MachineExit;
use crate::progress::Progress;
use crate::signals::Signals;
use log::{info, warn};
use nix::errno::Errno;
use std::io;
use std::ops::ControlFlow;
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
    on_exit: OnExit,
    reset_on_reboot: bool,
    /// The disk that is being saved or committed.
    keeping: Option<Keeping>,
    progress: Option<Progress>,
    /// What became of the last one that was, until somebody asks.
    kept: Option<KeepOutcome>,
    /// What the operator was asked while the guest runs, and the answer to what was asked at its end.
    asked: Option<Asked>,
    answer: Option<String>,
}

/// How a run ended, and whether disks that were to be kept then are.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) end: End,
    pub(crate) is_kept: bool,
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
    pub(crate) fn new(
        plan: &'a Plan,
        kit: Kit,
        signals: Signals,
        reports: Option<Reports>,
        settings: &Settings,
    ) -> Self {
        Self {
            plan,
            kit,
            signals,
            crew: Crew::default(),
            console: Console::new(),
            raw: None,
            reports,
            verbose: settings.verbose,
            began: Instant::now(),
            reboots: 0,
            fast_reboots: 0,
            gone: None,
            on_exit: settings.on_exit.clone(),
            reset_on_reboot: settings.reset_on_reboot,
            keeping: None,
            progress: None,
            kept: None,
            asked: None,
            answer: None,
        }
    }

    /// Runs the guest. When this returns, the terminal is as it was and no process is left.
    ///
    /// # Errors
    /// [`RunError`].
    pub(crate) fn go(mut self) -> Result<Outcome, RunError> {
        let end = self.live();
        let was_raw = self.raw.is_some();
        let is_kept = self.decide(end.as_ref());
        self.console.close();
        self.raw = None;
        self.bury();
        self.remove_sockets();
        if was_raw {
            discard_input();
        }
        end.map(|end| Outcome { end, is_kept })
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
                ControlFlow::Continue(status) => status,
                ControlFlow::Break(end) => return Ok(end),
            };
            if let Some(end) = self.conclude(status)?.or_else(|| self.lost_helper()) {
                return Ok(end);
            }
            connections = match self.connect_again()? {
                ControlFlow::Continue(connections) => connections,
                ControlFlow::Break(end) => return Ok(end),
            };
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
    fn until_machine_ends(&mut self) -> Result<ControlFlow<End, ExitStatus>, RunError> {
        loop {
            let drained = |run: &Self| run.gone.is_some() && run.console.is_drained();
            let left = self
                .gone
                .map_or(START, |(_, when)| LAST_WORDS.saturating_sub(when.elapsed()));
            let waited = self.wait_for(left, drained)?;
            match (waited, self.gone) {
                (Waited::End(end), None) => return Ok(ControlFlow::Break(end)),
                // It has ended already: what ends now does so with it, but for an operator who does not want to wait.
                (Waited::End(end @ (End::Quit | End::Told(_) | End::TerminalGone | End::OutputGone)), _) => {
                    return Ok(ControlFlow::Break(end));
                }
                (Waited::Done, Some((status, _))) => return Ok(ControlFlow::Continue(status)),
                (Waited::TooLong, Some((status, when))) if when.elapsed() >= LAST_WORDS => {
                    warn!("nobody takes what the guest printed last; some of it is lost");
                    return Ok(ControlFlow::Continue(status));
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
            let left = left.min(self.tend());
            for source in wait(&self.signals, &self.crew, &self.console, left).map_err(RunError::Wait)? {
                if let Some(end) = self.handle(source) {
                    return Ok(Waited::End(end));
                }
            }
        }
    }
}
