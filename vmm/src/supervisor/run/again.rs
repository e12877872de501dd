//! New connections to the disks' backends, for a guest that reboots. A helper first finishes what its last frontend asked for,
//! which can take long on a slow disk; meanwhile everything else is heard as ever.

use super::others::{Other, Seen};
use super::{Run, RunError, SHOWS, Waited};
use crate::channel::ORDER_PATIENCE;
use crate::supervisor::crew::CrewError;
use crate::supervisor::end::End;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// When a helper that was busy is asked again.
const BUSY: Duration = Duration::from_millis(50);

/// Why there are no connections.
enum Stop {
    End(End),
    Crew(CrewError),
    Run(RunError),
}

impl From<CrewError> for Stop {
    fn from(error: CrewError) -> Self {
        Self::Crew(error)
    }
}

impl Run<'_> {
    /// New connections, in the order of the disks, or what ended the run instead.
    ///
    /// # Errors
    /// A backend that lives does not take one.
    pub(super) fn connect_again(&mut self) -> Result<ControlFlow<End, Vec<OwnedFd>>, RunError> {
        let error = match self.try_again() {
            Ok(connections) => return Ok(ControlFlow::Continue(connections)),
            Err(Stop::End(end)) => return Ok(ControlFlow::Break(end)),
            Err(Stop::Run(error)) => return Err(error),
            Err(Stop::Crew(error)) => error,
        };
        // A helper that ended closed its channel a moment before that shows.
        match self.wait_for(SHOWS, |run| run.lost_helper().is_some())? {
            Waited::End(end) => Ok(ControlFlow::Break(end)),
            Waited::Done | Waited::TooLong => self
                .lost_helper()
                .map_or_else(|| Err(error.into()), |end| Ok(ControlFlow::Break(end))),
        }
    }

    /// Lets the helpers reset their disks, if that is wanted, then take the new connections.
    fn try_again(&mut self) -> Result<Vec<OwnedFd>, Stop> {
        if self.reset_on_reboot {
            self.reset()?;
        }
        let connections = self.crew.connect_again(self.plan)?;
        self.until_done()?;
        Ok(connections)
    }

    /// Lets the helpers reset their disks. One that still saves its disk is busy, and is waited for as long
    /// as that gets on.
    fn reset(&mut self) -> Result<(), Stop> {
        let end = Instant::now() + ORDER_PATIENCE;
        let mut others = BTreeMap::new();
        loop {
            self.crew.reset(self.plan)?;
            match self.until_done() {
                Err(Stop::Crew(error))
                    if error.is_busy()
                        && (self.keeping.is_some() || Instant::now() < end || self.is_saving(&mut others)) => {}
                outcome => return outcome,
            }
            match self.wait_for(BUSY, |_| false) {
                Ok(Waited::End(end)) => return Err(Stop::End(end)),
                Ok(Waited::Done | Waited::TooLong) => {}
                Err(error) => return Err(Stop::Run(error)),
            }
        }
    }

    /// Whether a save that somebody else began gets on, on one of the disks.
    fn is_saving(&mut self, others: &mut BTreeMap<usize, Other>) -> bool {
        self.keepable().into_iter().any(|disk| {
            let seen = self.look_at(disk, others.entry(disk).or_default());
            matches!(seen, Seen::Running(_))
        })
    }

    /// Waits until the helpers did what they were asked to.
    fn until_done(&mut self) -> Result<(), Stop> {
        match self.wait_for(ORDER_PATIENCE, |run| !run.crew.is_asked()) {
            Ok(Waited::End(end)) => Err(Stop::End(end)),
            Ok(Waited::Done | Waited::TooLong) => Ok(self.crew.accepted(self.plan)?),
            Err(error) => Err(Stop::Run(error)),
        }
    }
}
