//! New connections to the disks' backends, for a guest that reboots. A helper first finishes what its last frontend asked for,
//! which can take long on a slow disk; meanwhile everything else is heard as ever.

use super::{Run, RunError, SHOWS, Waited};
use crate::supervisor::control::PATIENCE_TO_ATTACH;
use crate::supervisor::end::End;
use std::os::fd::OwnedFd;

impl Run<'_> {
    /// New connections, in the order of the disks, or what ended the run instead.
    ///
    /// # Errors
    /// A backend that lives does not take one.
    pub(super) fn connect_again(&mut self) -> Result<Result<Vec<OwnedFd>, End>, RunError> {
        let connected = match self.crew.connect_again(self.plan) {
            Ok(connections) => {
                if let Waited::End(end) = self.wait_for(PATIENCE_TO_ATTACH, |run| !run.crew.is_asked())? {
                    return Ok(Err(end));
                }
                self.crew.accepted(self.plan).map(|()| connections)
            }
            Err(error) => Err(error),
        };
        let error = match connected {
            Ok(connections) => return Ok(Ok(connections)),
            Err(error) => error,
        };
        // A helper that ended closed its channel a moment before that shows.
        match self.wait_for(SHOWS, |run| run.lost_helper().is_some())? {
            Waited::End(end) => Ok(Err(end)),
            Waited::Done | Waited::TooLong => self.lost_helper().map_or_else(|| Err(error.into()), |end| Ok(Err(end))),
        }
    }
}
