//! The decision at the end of a run (`--on-exit`).
//!
//! The VMM is gone first: all that the guest wrote is in, and nobody writes any more. Then each disk meets its fate, one after
//! the other. A signal calls off what is left of that; a terminal that is closed does not ([`End::calls_off`]).

use super::keep::{KeepOutcome, LONG};
use super::{Run, RunError, Waited};
use crate::supervisor::control::PATIENCE;
use crate::supervisor::decision;
use crate::supervisor::end::End;
use crate::supervisor::fate::{Fate, OnExit};
use log::{error, info};
use nix::sys::signal::Signal;
use policy::logging::chain;
use protocol::control::{OverlayStatus, Status};
use protocol::size::show;
use protocol::units::Capacity;
use std::time::{Duration, Instant};

/// How long a VMM that was killed may take to be gone.
const GONE: Duration = Duration::from_secs(10);

/// How long all helpers together may take to say what was written, when the operator waits for nothing any more. Who does not say
/// so counts as written to.
const LAST_QUESTION: Duration = Duration::from_secs(1);

impl Run<'_> {
    /// The end of the run, which came so: each disk meets its fate. Whether all that was to be kept is kept.
    pub(super) fn decide(&mut self, end: Result<&End, &RunError>) -> bool {
        let disks = self.keepable();
        let all_burn = self.on_exit == OnExit::Decided(Fate::Burn);
        if self.crew.machine.is_none() || (all_burn && self.keeping.is_none()) {
            return true;
        }
        self.end_machine();
        self.console.end_guest();
        // Questions are asked, and signals typed, on a terminal as shells have it.
        self.raw = None;
        // What came with the end is no change of mind.
        while self.signals.next().is_some() {}
        let (mut is_kept, goes_on) = self.end_what_was_begun();
        if all_burn {
            return is_kept;
        }
        if !goes_on {
            return self.give_up(&disks, end);
        }
        for (index, disk) in disks.iter().enumerate() {
            let kept = match self.on_exit.clone() {
                OnExit::Ask => self.ask_at_the_end(*disk, end),
                OnExit::Decided(fate) => self.meet(*disk, &fate, end),
            };
            match kept {
                KeepOutcome::Kept => {}
                KeepOutcome::Failed | KeepOutcome::Busy => {
                    error!("what the guest wrote to disk {} is lost", self.name(*disk));
                    is_kept = false;
                }
                KeepOutcome::CalledOff { .. } | KeepOutcome::GivenUp => {
                    let is_met = kept == KeepOutcome::CalledOff { is_kept: true };
                    let left = index.saturating_add(usize::from(is_met));
                    return self.give_up(disks.get(left..).unwrap_or_default(), end) && is_kept;
                }
            }
        }
        is_kept
    }

    /// What was begun with C-a s goes on to its end: whether it is as the operator wants it, and whether the rest is still wanted.
    fn end_what_was_begun(&mut self) -> (bool, bool) {
        let Some(keeping) = &self.keeping else {
            return (true, true);
        };
        let was_called_off = keeping.is_being_called_off();
        match self.until_kept() {
            KeepOutcome::Kept => (true, true),
            KeepOutcome::Failed | KeepOutcome::Busy => (was_called_off, true),
            // That save alone: what becomes of the disks at the end is another matter.
            KeepOutcome::CalledOff { .. } => (true, true),
            KeepOutcome::GivenUp => (true, false),
        }
    }

    /// The operator wants no more of the decision, for these disks. Whether that leaves nothing undone.
    fn give_up(&mut self, disks: &[usize], end: Result<&End, &RunError>) -> bool {
        let until = Instant::now() + LAST_QUESTION;
        let (untouched, written): (Vec<_>, Vec<_>) = disks
            .iter()
            .partition(|disk| self.status(**disk, until).is_some_and(|status| is_untouched(&status)));
        let names = |disks: &[usize]| {
            let names: Vec<_> = disks.iter().map(|disk| self.name(*disk)).collect();
            names.join(", ")
        };
        if !written.is_empty() {
            error!("called off: what the guest wrote to {} is lost", names(&written));
        }
        // Nothing is lost of these, but where files were wanted of them there are none.
        let is_missed = !untouched.is_empty() && end.is_ok() && matches!(self.on_exit, OnExit::Decided(Fate::Save(_)));
        if is_missed {
            error!(
                "called off: {} not saved; the guest wrote nothing there",
                names(&untouched)
            );
        }
        written.is_empty() && !is_missed
    }

    /// The VMM is killed, if it has not ended, and waited for.
    fn end_machine(&mut self) {
        let is_gone = |run: &Self| {
            run.crew
                .machine
                .as_ref()
                .is_none_or(|machine| machine.ended().is_some())
        };
        if let Some(machine) = &self.crew.machine {
            machine.signal(Signal::SIGKILL);
        }
        let until = Instant::now() + GONE;
        while !is_gone(self) && Instant::now() < until {
            let left = until.saturating_duration_since(Instant::now());
            // What ends the run ends it already.
            let _ = self.wait_for(left, is_gone);
        }
    }

    /// A disk meets the fate that was decided for it at the start.
    fn meet(&mut self, disk: usize, fate: &Fate, end: Result<&End, &RunError>) -> KeepOutcome {
        let fate = self
            .disk(disk)
            .map_or(Fate::Burn, |disk| decision::fate_of(self.plan, disk, fate));
        // A guest that never came up has nothing to keep, whatever is wanted.
        let until = Instant::now() + PATIENCE;
        let is_pointless = fate == Fate::Commit || end.is_err();
        if is_pointless && self.status(disk, until).is_some_and(|status| is_untouched(&status)) {
            info!(
                "disk {}: nothing was written, so there is nothing to keep",
                self.name(disk)
            );
            return KeepOutcome::Kept;
        }
        if fate == Fate::Commit && !end.is_ok_and(End::is_wanted) {
            error!(
                "disk {} is not committed, for the run failed: {}",
                self.name(disk),
                in_words(end)
            );
            return KeepOutcome::Failed;
        }
        self.keep(disk, &fate).unwrap_or_else(|error| {
            error!("disk {} was not kept: {}", self.name(disk), chain(&error));
            KeepOutcome::Failed
        })
    }

    /// The operator decides on a disk, until it is kept as wanted.
    fn ask_at_the_end(&mut self, disk: usize, end: Result<&End, &RunError>) -> KeepOutcome {
        let status = self.status(disk, Instant::now() + PATIENCE);
        if status.as_ref().is_some_and(is_untouched) {
            return KeepOutcome::Kept;
        }
        let written = status.as_ref().map_or_else(String::new, changed);
        info!("{}", in_words(end));
        loop {
            let text = format!(
                "mayfly: disk {}{written}: burn, commit or save=PATH? [burn] ",
                self.name(disk)
            );
            if !self.console.ask(None, &text) {
                return KeepOutcome::GivenUp;
            }
            let Some(line) = self.until_answered() else {
                return KeepOutcome::GivenUp;
            };
            let fate = if line.is_empty() { Ok(Fate::Burn) } else { line.parse() };
            let kept = fate.and_then(|fate: Fate| match fate {
                Fate::Burn => Ok(KeepOutcome::Kept),
                Fate::Commit | Fate::Save(_) => self.keep(disk, &fate).map_err(|error| chain(&error)),
            });
            match kept {
                Ok(KeepOutcome::Kept | KeepOutcome::CalledOff { is_kept: true }) => return KeepOutcome::Kept,
                Ok(KeepOutcome::GivenUp) => return KeepOutcome::GivenUp,
                Ok(KeepOutcome::Failed | KeepOutcome::Busy | KeepOutcome::CalledOff { is_kept: false }) => {}
                Err(error) => error!("{error}"),
            }
        }
    }

    /// The answer to the question that was asked at the end; none if the operator gave up, or is gone.
    fn until_answered(&mut self) -> Option<String> {
        self.answer = None;
        loop {
            match self.wait_for(LONG, |run| run.answer.is_some()) {
                Ok(Waited::Done) => return self.answer.take(),
                Ok(Waited::TooLong | Waited::End(End::HelperEnded { .. })) => {}
                Ok(Waited::End(_)) | Err(_) => return None,
            }
        }
    }
}

/// How the run ended.
fn in_words(end: Result<&End, &RunError>) -> String {
    end.map_or_else(|error| chain(error), ToString::to_string)
}

/// Whether the disk is as its base.
fn is_untouched(status: &Status) -> bool {
    let is_written = |overlay: OverlayStatus| overlay.dirty_clusters != 0 || overlay.zero_clusters != 0;
    !is_resized(status) && status.overlay.is_some_and(|overlay| !is_written(overlay))
}

fn is_resized(status: &Status) -> bool {
    Capacity::of_image(status.base.bytes).is_none_or(|capacity| capacity.bytes() != status.disk_bytes)
}

/// In what it is not.
fn changed(status: &Status) -> String {
    let written = status
        .overlay
        .map(|overlay| format!(", {} written", show(overlay.used_bytes)));
    let resized = is_resized(status).then(|| format!(", resized to {}", show(status.disk_bytes)));
    written.into_iter().chain(resized).collect()
}
