//! Waiting until every process is ready, and who is to blame if that does not come.

use super::{BLAMED, Run, RunError, SHOWS, START, Waited};
use crate::supervisor::child::Child;
use crate::supervisor::end::{Code, End, helper_ended, machine_ended, qemu_ended};
use crate::supervisor::host::Engine;

impl Run<'_> {
    /// Waits until every process is ready.
    pub(super) fn until_ready(&mut self) -> Result<Option<End>, RunError> {
        let ready = |run: &Self| run.crew.processes().all(|child| child.is_ready() == Some(true));
        let failed = |run: &Self| run.crew.processes().any(Child::has_failed);
        match self.wait_for(START, |run| ready(run) || failed(run))? {
            Waited::Done if !failed(self) => {
                self.crew.subscribe();
                self.tell_reports().map(|()| None)
            }
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
    pub(super) fn blame(&mut self) -> Result<End, RunError> {
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
}
