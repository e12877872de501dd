//! The decision at the end of a run (`--on-exit`).
//!
//! The VMM is gone first: all that the guest wrote is in, and nobody writes any more. Then each disk meets its fate, one after
//! the other. A signal calls off what is left of that.

use super::keep::LONG;
use super::{Run, RunError, Waited};
use crate::supervisor::end::End;
use crate::supervisor::fate::{Fate, OnExit};
use log::{error, info};
use nix::sys::signal::Signal;
use policy::logging::chain;
use protocol::control::OverlayStatus;
use protocol::size::show;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a VMM that was killed may take to be gone.
const GONE: Duration = Duration::from_secs(10);

impl Run<'_> {
    /// The end of the run, which came so: each disk meets its fate. Whether all that was to be kept is kept.
    pub(super) fn decide(&mut self, end: Result<&End, &RunError>) -> bool {
        let disks = self.keepable();
        if self.crew.machine.is_none() || (self.on_exit == OnExit::Decided(Fate::Burn) && self.keeping.is_none()) {
            return true;
        }
        self.end_machine();
        self.console.end_guest();
        // Questions are asked, and signals typed, on a terminal as shells have it.
        self.raw = None;
        // A terminal that is closed hangs up and sends a signal: one end, not an end and a change of mind.
        while self.signals.next().is_some() {}
        // What was begun with C-a s goes on to its end.
        let mut is_kept = self.keeping.is_none() || self.until_kept();
        for (index, disk) in disks.iter().enumerate() {
            if self.is_called_off {
                let left = disks.get(index..).unwrap_or_default();
                let names: Vec<_> = left.iter().map(|disk| self.name(*disk)).collect();
                error!("called off: what the guest wrote to {} is lost", names.join(", "));
                return false;
            }
            let is_met = match self.on_exit.clone() {
                OnExit::Ask => self.ask_at_the_end(*disk, end),
                OnExit::Decided(fate) => self.meet(*disk, &fate, end),
            };
            if !is_met && !self.is_called_off {
                error!("what the guest wrote to disk {} is lost", self.name(*disk));
            }
            is_kept &= is_met;
        }
        if self.is_called_off && !is_kept {
            error!("called off: what was not kept by then is lost");
        }
        is_kept
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
    fn meet(&mut self, disk: usize, fate: &Fate, end: Result<&End, &RunError>) -> bool {
        let device = self.disk(disk).map_or("", |disk| disk.device.as_str()).to_owned();
        let all = self.plan.disks.iter().filter(|disk| disk.is_overlaid).count();
        let fate = fate.of_disk(&device, all, Path::is_dir);
        // A guest that never came up has nothing to keep, whatever is wanted.
        if (fate == Fate::Commit || end.is_err()) && self.overlay(disk).is_some_and(is_untouched) {
            info!(
                "disk {}: nothing was written, so there is nothing to keep",
                self.name(disk)
            );
            return true;
        }
        if fate == Fate::Commit && !end.is_ok_and(End::is_wanted) {
            error!(
                "disk {} is not committed, for the run failed: {}",
                self.name(disk),
                in_words(end)
            );
            return false;
        }
        match self.begin_to_keep(disk, &fate) {
            Ok(()) => self.until_kept(),
            Err(error) => {
                error!("disk {} was not kept: {}", self.name(disk), chain(&error));
                false
            }
        }
    }

    /// The operator decides on a disk, until it is kept as wanted.
    fn ask_at_the_end(&mut self, disk: usize, end: Result<&End, &RunError>) -> bool {
        let overlay = self.overlay(disk);
        if overlay.is_some_and(is_untouched) {
            return true;
        }
        let written = overlay.map_or_else(String::new, |overlay| format!(", {} written", show(overlay.used_bytes)));
        info!("{}", in_words(end));
        loop {
            let text = format!(
                "mayfly: disk {}{written}: burn, commit or save=PATH? [burn] ",
                self.name(disk)
            );
            if !self.console.ask(None, &text) {
                self.is_called_off = true;
                return false;
            }
            let Some(line) = self.until_answered() else {
                return false;
            };
            let fate = if line.is_empty() { Ok(Fate::Burn) } else { line.parse() };
            let begun = fate.and_then(|fate: Fate| {
                let is_burnt = fate == Fate::Burn;
                let begun = self.begin_to_keep(disk, &fate).map_err(|error| chain(&error));
                begun.map(|()| is_burnt)
            });
            match begun {
                Ok(true) => return true,
                Ok(false) if self.until_kept() => return true,
                Ok(false) if self.is_called_off => return false,
                Ok(false) => {}
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
                Ok(Waited::End(_)) | Err(_) => {
                    self.is_called_off = true;
                    return None;
                }
            }
        }
    }
}

/// How the run ended.
fn in_words(end: Result<&End, &RunError>) -> String {
    end.map_or_else(|error| chain(error), ToString::to_string)
}

fn is_untouched(overlay: OverlayStatus) -> bool {
    overlay.dirty_clusters == 0 && overlay.zero_clusters == 0
}
