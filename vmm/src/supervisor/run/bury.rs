//! The end of every process, and of what has a name.

use super::{Run, Waited};
use crate::supervisor::end::End;
use crate::supervisor::socket_identity::SocketIdentity;
use log::warn;
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

impl Run<'_> {
    /// Ends every process and waits for that, with a bound: a burn frees its space before the process is gone, which can take a
    /// file system some seconds.
    pub(super) fn bury(&mut self) {
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

    /// Removes the names of the helpers' control sockets: a helper has no file system to do that itself. One that was never ready
    /// may have made its own all the same.
    pub(super) fn remove_sockets(&self) {
        for (disk, helper) in self.plan.disks.iter().zip(&self.crew.helpers) {
            if let (Some(path), Some(helper)) = (&disk.control, helper) {
                let unready = || helper.child.ended().and(SocketIdentity::left_at(path, helper.before));
                if let Some(socket) = helper.socket.or_else(unready) {
                    socket.remove(path);
                }
            }
        }
    }
}
