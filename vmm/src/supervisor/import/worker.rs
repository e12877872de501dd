//! A `mayfly-import` at work: started with its files, listened to, and ended when it says nothing or nonsense, or somebody asks.

use crate::contract::import::{Format, ImageSpec, ImportExit, ImportSpec, SAID_MAX, Said};
use crate::keep::headway::{Headway, IDLE_MAX, Stuck};
use crate::progress::Progress;
use crate::signals::Signals;
use crate::supervisor::child::{Child, unblock};
use crate::supervisor::end::import_ended;
use crate::supervisor::plan::{Job, Role};
use crate::supervisor::relay::readable;
use crate::supervisor::spawn::{SpawnError, spawn};
use crate::supervisor::words::User;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::unistd::{pipe2, read};
use protocol::size::show;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::process::ExitStatus;
use std::time::Instant;
use thiserror::Error;

/// An image for it.
pub(super) struct Opened {
    pub(super) file: OwnedFd,
    pub(super) format: Format,
}

/// What it shall do.
pub(super) struct Order<'a> {
    pub(super) program: &'a Path,
    /// What the operator calls the image.
    pub(super) name: String,
    /// The image first, then what it is based on.
    pub(super) images: Vec<Opened>,
    pub(super) bytes_max: u64,
    pub(super) user: User,
    pub(super) verbose: bool,
}

/// Why it did not.
#[derive(Debug, Error)]
pub(crate) enum WorkerError {
    #[error(transparent)]
    Spawn(SpawnError),
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Failed(String),
    #[error("the process that reads the image ended: {0}")]
    Ended(String),
    #[error("the process that reads the image ended: {0}")]
    Unconfined(String),
    #[error("the process that reads the image says what makes no sense, and was killed")]
    Nonsense,
    #[error("the process that reads the image got no further for {} seconds, and was killed", IDLE_MAX.as_secs())]
    Stalled,
    #[error("ended by {0}")]
    Told(Signal),
    #[error("cannot {doing}")]
    System {
        doing: String,
        #[source]
        source: io::Error,
    },
}

/// Has `order` done, into the empty `output`.
///
/// # Errors
/// [`WorkerError`]. The process has ended, or was killed.
pub(super) fn convert(order: Order<'_>, output: &File, signals: &Signals) -> Result<(), WorkerError> {
    let system = |doing: &str| {
        let doing = doing.to_owned();
        move |source: io::Error| WorkerError::System { doing, source }
    };
    let (heard, said) = pipe2(OFlag::O_CLOEXEC).map_err(|errno| system("make a pipe")(errno.into()))?;
    unblock(&heard).map_err(|errno| system("prepare a pipe")(errno.into()))?;
    let mut progress = Progress::new(format!("importing {}", readable(order.name.as_bytes())), true);
    let mut talk = Talk::new(order.bytes_max);
    let verbose = order.verbose;
    let writable = output.try_clone().map_err(system("hand the output over"))?;
    let mut child = start(order, writable.into(), said)?;
    let status = listen(&mut child, heard, signals, verbose, |piece| {
        let before = talk.disk;
        talk.take(piece)?;
        if let (None, Some(bytes)) = (before, talk.disk) {
            output
                .set_len(bytes)
                .map_err(|source| system(&format!("give the output its {}", show(bytes)))(source))?;
        }
        progress.show(talk.done, talk.disk.unwrap_or(0));
        Ok(())
    })?;
    talk.judge(status)
}

/// Starts the process with its descriptors.
fn start(order: Order<'_>, output: OwnedFd, said: OwnedFd) -> Result<Child, WorkerError> {
    let numbers = (3..).zip(&order.images);
    let images: Vec<ImageSpec> = numbers
        .map(|(image, opened)| ImageSpec {
            image,
            format: opened.format,
        })
        .collect();
    let output_number = images
        .iter()
        .map(|spec| spec.image)
        .fold(2, RawFd::max)
        .saturating_add(1);
    let spec = ImportSpec {
        images,
        output: output_number,
        bytes_max: order.bytes_max,
        user: (order.user.uid, order.user.gid),
        verbose: order.verbose,
    };
    let roles = (0..order.images.len()).map(Role::Image);
    let mut table: Vec<(RawFd, Role)> = (3..).zip(roles).collect();
    table.extend([(output_number, Role::Output), (1, Role::Progress)]);
    let images = order.images.into_iter().enumerate();
    let mut handed: HashMap<Role, OwnedFd> = images
        .map(|(index, opened)| (Role::Image(index), opened.file))
        .collect();
    handed.extend([(Role::Output, output), (Role::Progress, said)]);
    let job = Job {
        name: "import".to_owned(),
        program: order.program.to_owned(),
        args: spec.to_args().into_iter().map(Into::into).collect(),
        table,
        user: None,
    };
    let take = |role| handed.remove(&role).expect("the table has each of these roles once");
    spawn(&job, take).map_err(WorkerError::Spawn)
}

/// Waits for the end of the process, and passes on what it says; nothing, too, once in a while.
fn listen(
    child: &mut Child,
    heard: OwnedFd,
    signals: &Signals,
    verbose: bool,
    mut take: impl FnMut(&[u8]) -> Result<(), WorkerError>,
) -> Result<ExitStatus, WorkerError> {
    let mut heard = Some(heard);
    loop {
        wait(&[
            Some(signals.as_fd()),
            heard.as_ref().map(AsFd::as_fd),
            child.log().event(),
            child.exit_event(),
        ]);
        while let Some(signal) = signals.next() {
            if signal != Signal::SIGCONT {
                return Err(WorkerError::Told(signal));
            }
        }
        child.relay(verbose);
        // Looked at first: what it said before its end is in the pipe by then.
        let ended = child.look();
        while let Some(pipe) = &heard {
            let mut piece = [0; 4096];
            match read(pipe, &mut piece) {
                Ok(0) => heard = None,
                Ok(count) => take(piece.get(..count).unwrap_or_default())?,
                Err(Errno::EINTR) => {}
                Err(_) => break,
            }
        }
        if let Some(status) = ended {
            child.hear_rest(verbose);
            return Ok(status);
        }
        take(&[])?;
    }
}

/// Waits until something can be read, or a second has passed.
fn wait(sources: &[Option<BorrowedFd<'_>>]) {
    let mut sources: Vec<_> = sources
        .iter()
        .flatten()
        .map(|source| PollFd::new(*source, PollFlags::POLLIN))
        .collect();
    // Interrupted, it looks at everything once more.
    let _ = poll(&mut sources, PollTimeout::from(1000_u16));
}

/// What it said so far.
struct Talk {
    disk: Option<u64>,
    done: u64,
    verdict: Option<Said>,
    bytes_max: u64,
    begun: Vec<u8>,
    headway: Headway,
}

impl Talk {
    fn new(bytes_max: u64) -> Self {
        Self {
            disk: None,
            done: 0,
            verdict: None,
            bytes_max,
            begun: Vec::new(),
            headway: Headway::begin(Instant::now()),
        }
    }

    fn take(&mut self, piece: &[u8]) -> Result<(), WorkerError> {
        for &byte in piece {
            if byte == b'\n' {
                let line = std::mem::take(&mut self.begun);
                self.hear(serde_json::from_slice(&line).map_err(|_| WorkerError::Nonsense)?)?;
            } else if self.begun.len() < SAID_MAX {
                self.begun.push(byte);
            } else {
                return Err(WorkerError::Nonsense);
            }
        }
        self.get_on()
    }

    /// It says something ten times a second, unless a disk or a server does not answer.
    fn get_on(&mut self) -> Result<(), WorkerError> {
        let noted = self.headway.note(self.done, None, Instant::now());
        noted.map_err(|stuck| match stuck {
            Stuck::Back => WorkerError::Nonsense,
            Stuck::Idle(_) => WorkerError::Stalled,
        })
    }

    fn hear(&mut self, said: Said) -> Result<(), WorkerError> {
        match (said, self.disk, &self.verdict) {
            (Said::Disk(bytes), None, None) if bytes > 0 && bytes <= self.bytes_max => self.disk = Some(bytes),
            (Said::Done(bytes), Some(disk), None) if bytes <= disk => {
                self.done = bytes;
                self.get_on()?;
            }
            (verdict @ (Said::Refused(_) | Said::Failed(_)), _, None) => self.verdict = Some(verdict),
            (Said::Disk(_) | Said::Done(_) | Said::Refused(_) | Said::Failed(_), _, _) => {
                return Err(WorkerError::Nonsense);
            }
        }
        Ok(())
    }

    /// What came of it.
    fn judge(self, status: ExitStatus) -> Result<(), WorkerError> {
        let exit = status.code().and_then(|code| ImportExit::try_from(code).ok());
        match (exit, self.verdict) {
            (Some(ImportExit::Done), None) if self.disk == Some(self.done) => Ok(()),
            (Some(ImportExit::Done), _) => Err(WorkerError::Nonsense),
            (Some(ImportExit::Refused), Some(Said::Refused(text))) => {
                Err(WorkerError::Refused(readable(text.as_bytes())))
            }
            (Some(ImportExit::Failed), Some(Said::Failed(text))) => Err(WorkerError::Failed(readable(text.as_bytes()))),
            (Some(ImportExit::NotConfined), None) => Err(WorkerError::Unconfined(import_ended(status))),
            (_, _) => Err(WorkerError::Ended(import_ended(status))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::time::Duration;

    fn talk(lines: &str) -> Result<Talk, WorkerError> {
        let mut talk = Talk::new(100);
        talk.take(lines.as_bytes())?;
        Ok(talk)
    }

    fn ended(lines: &str, code: i32) -> Result<(), WorkerError> {
        talk(lines)?.judge(ExitStatus::from_raw(code << 8))
    }

    #[test]
    fn a_whole_disk_is_one_that_was_announced_and_done() {
        ended("{\"disk\":100}\n{\"done\":50}\n{\"done\":100}\n", 0).unwrap();
        let reason = ended("{\"refused\":\"is \\u001b[2J\"}\n", 20).unwrap_err();
        assert_eq!(reason.to_string(), "is \\u{1b}[2J");
        let code = ended("{\"disk\":100}\n", 9).unwrap_err();
        assert!(code.to_string().contains("a bug"), "{code}");
        let unconfined = ended("", 3).unwrap_err();
        assert!(matches!(unconfined, WorkerError::Unconfined(_)), "{unconfined}");
        assert!(unconfined.to_string().contains("confinement"), "{unconfined}");
        let liar = ended("{\"refused\":\"\"}\n", 3).unwrap_err();
        assert!(
            matches!(liar, WorkerError::Ended(_)),
            "an image was read by then: {liar}"
        );
    }

    #[test]
    fn who_says_nothing_for_too_long_is_given_up() {
        let (heard, said) = pipe2(OFlag::O_CLOEXEC).unwrap();
        unblock(&heard).unwrap();
        let (log, logged) = pipe2(OFlag::O_CLOEXEC).unwrap();
        // Something happens at once: the log ends.
        drop(logged);
        let process = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let mut child = Child::new("reader".into(), process, log, None).unwrap();
        let signals = Signals::take().unwrap();
        let mut talk = Talk::new(100);
        talk.take(b"{\"disk\":9}\n{\"done\":5}\n").unwrap();
        talk.headway.rest(IDLE_MAX + Duration::from_secs(1));

        let given_up = listen(&mut child, heard, &signals, false, |piece| talk.take(piece));

        assert!(matches!(given_up, Err(WorkerError::Stalled)), "{given_up:?}");
        let process = child.exit_event().unwrap().try_clone_to_owned().unwrap();
        drop((said, child));
        wait(&[Some(process.as_fd())]);
    }

    #[test]
    fn what_makes_no_sense_is_not_believed() {
        for lines in [
            "{\"disk\":101}\n",
            "{\"disk\":0}\n",
            "{\"disk\":1}\n{\"disk\":1}\n",
            "{\"done\":0}\n",
            "{\"disk\":9}\n{\"done\":10}\n",
            "{\"disk\":9}\n{\"done\":5}\n{\"done\":4}\n",
            "{\"disk\":-1}\n",
            "{\"other\":1}\n",
            "\n",
            "{\"refused\":\"\"}\n{\"disk\":9}\n",
        ] {
            assert!(matches!(talk(lines), Err(WorkerError::Nonsense)), "{lines}");
        }
        assert!(matches!(talk(&"x".repeat(SAID_MAX + 1)), Err(WorkerError::Nonsense)));
        for lines in [
            "",
            "{\"disk\":9}\n{\"done\":5}\n",
            "{\"disk\":9}\n{\"done\":9}\n{\"failed\":\"\"}\n",
        ] {
            assert!(matches!(ended(lines, 0), Err(WorkerError::Nonsense)), "{lines}");
        }
    }
}
