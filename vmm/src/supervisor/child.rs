//! A process that was started: its log lines, its READY, its end. Nothing here waits.

use super::relay::Relay;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitStatus;
use std::time::Instant;

/// The longest READY line: a report with a few hundred threads, each with its evidence, is a quarter of that.
const READY_MAX: usize = 512 << 10;

/// A process.
#[derive(Debug)]
pub(crate) struct Child {
    /// What the operator knows it by.
    name: String,
    process: std::process::Child,
    /// Readable once it has ended.
    pidfd: OwnedFd,
    log: Relay,
    ready: Ready,
    started: Instant,
    ended: Option<ExitStatus>,
}

/// What is known of its being ready.
#[derive(Debug)]
enum Ready {
    /// It has not said so; what came until now.
    Awaited(OwnedFd, Vec<u8>),
    /// It said so.
    Said(String),
    /// It says nothing, and is ready as soon as it lives.
    Silent,
    /// It closed its standard output without a line, or said too much.
    Failed,
}

impl Child {
    /// Takes over a process with the read ends of its pipes.
    ///
    /// # Errors
    /// Something about a descriptor; the process is killed.
    pub(super) fn new(
        name: String,
        mut process: std::process::Child,
        log: OwnedFd,
        ready: Option<OwnedFd>,
    ) -> Result<Self, Errno> {
        let number = i32::try_from(process.id()).expect("pid_max is below 2^22");
        let prepared = policy::pidfd(Pid::from_raw(number)).and_then(|pidfd| {
            unblock(&log)?;
            ready.as_ref().map_or(Ok(()), unblock)?;
            Ok(pidfd)
        });
        match prepared {
            Ok(pidfd) => Ok(Self {
                log: Relay::new(log),
                ready: ready.map_or(Ready::Silent, |pipe| Ready::Awaited(pipe, Vec::new())),
                started: Instant::now(),
                ended: None,
                name,
                process,
                pidfd,
            }),
            Err(errno) => {
                // Fails only for a process that ended.
                let _ = process.kill();
                let _ = process.wait();
                Err(errno)
            }
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    pub(crate) const fn started(&self) -> Instant {
        self.started
    }

    /// How it ended, if that was noticed.
    pub(crate) const fn ended(&self) -> Option<ExitStatus> {
        self.ended
    }

    /// Readable once it has ended; nothing when that was noticed.
    pub(crate) fn exit_event(&self) -> Option<BorrowedFd<'_>> {
        self.ended.is_none().then(|| self.pidfd.as_fd())
    }

    /// Readable when there is more to read on the way to READY.
    pub(crate) fn ready_event(&self) -> Option<BorrowedFd<'_>> {
        match &self.ready {
            Ready::Awaited(pipe, _) => Some(pipe.as_fd()),
            Ready::Said(_) | Ready::Silent | Ready::Failed => None,
        }
    }

    /// Its log lines.
    pub(crate) const fn log(&self) -> &Relay {
        &self.log
    }

    /// Passes on what it logged.
    pub(crate) fn relay(&mut self, verbose: bool) {
        self.log.pass_on(&self.name, verbose);
    }

    /// Reads on towards READY.
    pub(crate) fn read_ready(&mut self) {
        let Ready::Awaited(pipe, line) = &mut self.ready else {
            return;
        };
        let mut piece = [0; 4096];
        let next = match read(&*pipe, &mut piece) {
            Err(Errno::EAGAIN | Errno::EINTR) => return,
            Err(_) | Ok(0) => Ready::Failed,
            Ok(count) => {
                line.extend(piece.get(..count).unwrap_or_default());
                match line.iter().position(|byte| *byte == b'\n') {
                    Some(end) => Ready::Said(String::from_utf8_lossy(line.get(..end).unwrap_or_default()).into_owned()),
                    None if line.len() > READY_MAX => Ready::Failed,
                    None => return,
                }
            }
        };
        self.ready = next;
    }

    /// Whether it is ready; `None` while that is open.
    pub(crate) const fn is_ready(&self) -> Option<bool> {
        match self.ready {
            Ready::Awaited(..) => None,
            Ready::Said(_) | Ready::Silent => Some(true),
            Ready::Failed => Some(false),
        }
    }

    /// Whether there is no hope that it will be ready, or serve: it ended, unless it had said before that it was ready.
    pub(crate) const fn has_failed(&self) -> bool {
        match self.ready {
            Ready::Failed => true,
            Ready::Awaited(..) | Ready::Silent => self.ended.is_some(),
            Ready::Said(_) => false,
        }
    }

    /// The line it said at READY.
    pub(crate) fn report(&self) -> Option<&str> {
        match &self.ready {
            Ready::Said(line) => Some(line),
            Ready::Awaited(..) | Ready::Silent | Ready::Failed => None,
        }
    }

    /// Takes in all that is left of what it said, for a process that ended.
    pub(crate) fn hear_rest(&mut self, verbose: bool) {
        // A pipe's worth at most. It may have become ready in the moment in which it ended.
        const PIPE_PIECES: usize = 16;
        (0..PIPE_PIECES).for_each(|_| self.read_ready());
        self.log.finish(&self.name, verbose);
    }

    /// Looks whether it has ended.
    pub(crate) fn look(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            // It fails only for a process that somebody else waited for, which nobody does.
            self.ended = self.process.try_wait().ok().flatten();
        }
        self.ended
    }

    /// Sends it a signal, unless it has ended.
    pub(crate) fn signal(&self, signal: Signal) {
        if self.ended.is_none() {
            let number = i32::try_from(self.process.id()).expect("pid_max is below 2^22");
            // It was not waited for, so the number is still its own.
            let _ = kill(Pid::from_raw(number), signal);
        }
    }
}

impl Drop for Child {
    /// Does not wait for its end: one that the kernel holds would hold us too. Who wants to see the end looks for it before, with
    /// a bound.
    fn drop(&mut self) {
        if self.look().is_none() {
            self.signal(Signal::SIGKILL);
        }
    }
}

/// Makes reads from a pipe's end of ours return at once. The flag belongs to this end alone.
pub(super) fn unblock(end: &OwnedFd) -> Result<(), Errno> {
    fcntl(end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map(drop)
}
