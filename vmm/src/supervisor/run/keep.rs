//! A disk that is being saved or committed: begun, followed, called off, and what is said of its end.

use super::{Run, Waited};
use crate::ctl::show::in_words;
use crate::progress::Progress;
use crate::supervisor::crew::Helper;
use crate::supervisor::fate::Fate;
use crate::supervisor::keeper::{KeepError, Keeping};
use crate::supervisor::plan::PlannedDisk;
use log::{error, info, warn};
use policy::logging::chain;
use protocol::control::{Event, Heard, SaveStatus, Status};
use std::time::{Duration, Instant};

/// How long is waited at a time for something that has no limit of its own.
pub(super) const LONG: Duration = Duration::from_secs(3600);

/// How often a disk is tried that another save was faster for. An operator begins a few; a script, or a helper
/// that a guest has taken over, may begin them without end.
const TRIES: u32 = 10;

/// What became of keeping a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeepOutcome {
    /// It is kept.
    Kept,
    /// It is not, and why has been said.
    Failed,
    /// It was not begun, for somebody else's save is running; that has been said.
    Busy,
    /// The operator called it off, which may have come too late for this one.
    CalledOff {
        /// Whether it did.
        is_kept: bool,
    },
    /// The operator waits for nothing any more, or is gone.
    GivenUp,
}

impl Run<'_> {
    /// The disks that can be kept: ours to serve, with an overlay, their helpers alive.
    pub(super) fn keepable(&self) -> Vec<usize> {
        let disks = self.plan.disks.iter().zip(&self.crew.helpers).enumerate();
        let alive = |helper: &Option<Helper>| helper.as_ref().is_some_and(|helper| helper.child.ended().is_none());
        disks
            .filter(|(_, (disk, helper))| disk.is_overlaid && alive(helper))
            .map(|(index, _)| index)
            .collect()
    }

    pub(super) fn disk(&self, index: usize) -> Option<&PlannedDisk> {
        self.plan.disks.get(index)
    }

    pub(super) fn name(&self, index: usize) -> String {
        self.disk(index).map_or_else(String::new, |disk| disk.name.clone())
    }

    /// Begins to save or commit a disk.
    pub(super) fn begin_to_keep(&mut self, disk: usize, fate: &Fate) -> Result<(), KeepError> {
        let plan = self.plan;
        if let (Some(planned), Some(Some(helper))) = (plan.disks.get(disk), self.crew.helpers.get_mut(disk)) {
            self.keeping = Keeping::begin(disk, planned, &mut helper.control, fate)?;
        }
        Ok(())
    }

    pub(super) fn call_off(&mut self) {
        let Some(keeping) = &mut self.keeping else {
            return;
        };
        if let Some(Some(helper)) = self.crew.helpers.get_mut(keeping.disk)
            && let Err(error) = keeping.cancel(&mut helper.control)
        {
            self.conclude_keeping(Err(error));
        }
    }

    /// What is due for the disk that is being kept; how long nothing is due.
    pub(super) fn tend(&mut self) -> Duration {
        let Some(keeping) = &mut self.keeping else {
            return Duration::MAX;
        };
        let helper = self.crew.helpers.get_mut(keeping.disk).and_then(Option::as_mut);
        let tended = helper.map_or(Ok(()), |helper| {
            if helper.control.has_ended() {
                return Err(KeepError::Failed("the helper is gone".into()));
            }
            keeping.tend(&mut helper.control)
        });
        let wait = keeping.wait();
        match tended {
            Ok(()) => wait,
            Err(error) => {
                self.conclude_keeping(Err(error));
                Duration::ZERO
            }
        }
    }

    /// Hears a helper on its control channel.
    pub(super) fn hear_control(&mut self, index: usize) {
        let Some(Some(helper)) = self.crew.helpers.get_mut(index) else {
            return;
        };
        let heard = helper.control.hear();
        self.take_in(index, heard);
    }

    /// Hears what helpers said while something else was waited for.
    pub(super) fn hear_kept(&mut self) {
        for index in 0..self.crew.helpers.len() {
            let helper = |run: &mut Self| run.crew.helpers.get_mut(index)?.as_mut()?.control.kept();
            while let Some(heard) = helper(self) {
                self.take_in(index, Some(heard));
            }
        }
    }

    fn take_in(&mut self, index: usize, heard: Option<Heard>) {
        match heard {
            None => {}
            Some(Heard::Notice(notice)) => self.tell_of(index, &notice.event),
            Some(Heard::Reply(reply)) => {
                let keeping = self.keeping.as_mut().filter(|keeping| keeping.disk == index);
                let Some(keeping) = keeping else {
                    return;
                };
                let end = keeping.hear(reply);
                if let (Some(progress), Some(save)) = (&mut self.progress, keeping.progress()) {
                    progress.show(save.done_bytes, save.total_bytes);
                }
                if let Some(end) = end {
                    self.conclude_keeping(end);
                }
            }
        }
    }

    /// Something happened to a disk that the operator may want to know.
    fn tell_of(&self, index: usize, event: &Event) {
        let name = self.name(index);
        match event {
            Event::QuotaReached { .. } | Event::SpaceLow { .. } | Event::BaseChanged => {
                warn!("disk {name}: {}", in_words(event));
            }
            Event::Connected
            | Event::Disconnected
            | Event::Reset
            | Event::Saved { .. }
            | Event::SaveCancelled { .. }
            | Event::SaveFailed { .. }
            | Event::Resized { .. }
            | Event::LimitsChanged { .. }
            | Event::Unknown => {}
        }
    }

    fn conclude_keeping(&mut self, end: Result<SaveStatus, KeepError>) {
        let Some(mut keeping) = self.keeping.take() else {
            return;
        };
        if let (Err(_), Some(Some(helper))) = (&end, self.crew.helpers.get_mut(keeping.disk)) {
            // One that was given up may be at work still, which takes space. Who has ended refuses.
            let _ = keeping.cancel(&mut helper.control);
        }
        self.progress = None;
        let name = self.name(keeping.disk);
        let outcome = end.and_then(|status| keeping.finish(&status));
        self.kept = Some(match &outcome {
            Ok(_) => KeepOutcome::Kept,
            Err(error) if error.is_busy() => KeepOutcome::Busy,
            Err(_) => KeepOutcome::Failed,
        });
        let text = match outcome {
            Ok(done) => format!("disk {name}: {done}"),
            Err(error) => format!("disk {name} was not kept: {}", chain(&error)),
        };
        if self.raw.is_some() {
            self.console.show(&format!("mayfly: {text}\n"));
        } else if self.kept == Some(KeepOutcome::Kept) {
            info!("{text}");
        } else {
            error!("{text}");
        }
    }

    /// Keeps a disk, at the end of a run: after the save that somebody else may have begun.
    ///
    /// # Errors
    /// It cannot be begun.
    pub(super) fn keep(&mut self, disk: usize, fate: &Fate) -> Result<KeepOutcome, KeepError> {
        for _ in 0..TRIES {
            if let Err(outcome) = self.until_free(disk) {
                return Ok(outcome);
            }
            self.begin_to_keep(disk, fate)?;
            let outcome = self.until_kept();
            if outcome != KeepOutcome::Busy {
                return Ok(outcome);
            }
        }
        Ok(KeepOutcome::Failed)
    }

    /// Waits until the disk on its way is kept or is not. A signal calls it off; after a second one, not even the helper is
    /// waited for, which would say that it has ended.
    pub(super) fn until_kept(&mut self) -> KeepOutcome {
        self.kept = None;
        let what = self
            .keeping
            .as_ref()
            .map(|keeping| format!("disk {}", self.name(keeping.disk)));
        self.progress = what.map(|what| Progress::new(what, true));
        let mut is_told = false;
        while let Some(keeping) = &self.keeping {
            let is_being_called_off = keeping.is_being_called_off();
            match self.wait_for(LONG, |run| run.keeping.is_none()) {
                Ok(Waited::Done | Waited::TooLong) => {}
                Ok(Waited::End(end)) if !end.calls_off() => {}
                Ok(Waited::End(_)) if is_being_called_off => {
                    self.conclude_keeping(Err(KeepError::CalledOff));
                    return KeepOutcome::GivenUp;
                }
                Ok(Waited::End(_)) => {
                    is_told = true;
                    self.call_off();
                }
                Err(error) => {
                    error!("{}", chain(&error));
                    self.conclude_keeping(Err(KeepError::CalledOff));
                    return KeepOutcome::Failed;
                }
            }
        }
        let kept = self.kept.take().unwrap_or(KeepOutcome::Kept);
        if is_told {
            let is_kept = kept == KeepOutcome::Kept;
            return KeepOutcome::CalledOff { is_kept };
        }
        kept
    }

    /// How a disk is, if its helper says so by `until`.
    pub(super) fn status(&mut self, disk: usize, until: Instant) -> Option<Status> {
        let helper = self.crew.helpers.get_mut(disk)?.as_mut()?;
        let question = helper.control.ask_status().ok()?;
        helper.control.status(question, until).ok()
    }
}
