//! Orders that take time: a save, a commit, events, watching. Each ends with a signal at the latest.

use super::args::{Format, Save};
use super::{Client, CtlError, print, show};
use crate::channel::ChannelError;
use crate::keep::commit::Commit;
use crate::keep::follow::{Follow, SaveEnd};
use crate::keep::fresh::{Fresh, PRIVATE, Place};
use crate::progress::Progress;
use crate::signals::Signals;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use protocol::control::{Answer, Command, Heard, SaveFormat, SaveRequest, SaveStatus};
use serde::Serialize;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// Between two lines of `stats --watch`.
const SECOND: Duration = Duration::from_secs(1);

/// Lines of `stats --watch` below one heading.
const A_SCREEN: u32 = 20;

/// How long a helper may take to call a save off.
const CALLED_OFF: Duration = Duration::from_secs(5);

/// What is said of a save in JSON.
#[derive(Serialize)]
struct Saved<'a> {
    saved: &'a Path,
    disk_bytes: u64,
    pause_us: u64,
}

/// What is said of a commit in JSON.
#[derive(Serialize)]
struct Committed<'a> {
    committed: &'a Path,
    disk_bytes: u64,
    pause_us: u64,
    looks_like: Option<&'a str>,
}

impl Client {
    /// Saves the disk.
    pub(super) fn save(&mut self, save: &Save, signals: &Signals) -> Result<(), CtlError> {
        let fresh = Fresh::create_new(Place::open(&save.out)?, PRIVATE)?;
        let request = SaveRequest {
            format: match save.format {
                Format::Raw => SaveFormat::Raw,
                Format::Qcow2 => SaveFormat::Qcow2Delta,
            },
            backing: save.backing.clone(),
        };
        let what = format!("saving to {}", save.out.display());
        let status = self.follow(request, fresh.file(), what, signals)?;
        fresh.publish_new()?;
        let (saved, disk_bytes, pause_us) = (save.out.as_path(), status.total_bytes, status.pause_us);
        let line = Saved {
            saved,
            disk_bytes,
            pause_us,
        };
        self.tell(&line, || {
            format!("saved to {}: {}\n", saved.display(), show::saved(&status))
        })
    }

    /// Commits the disk.
    pub(super) fn commit(&mut self, base: &Path, new_owner: bool, signals: &Signals) -> Result<(), CtlError> {
        let served = self.status()?.base;
        let commit = Commit::prepare(base, &served, new_owner).map_err(CtlError::Commit)?;
        let request = SaveRequest {
            format: SaveFormat::Raw,
            backing: None,
        };
        let what = format!("committing to {}", base.display());
        let status = self.follow(request, commit.output(), what, signals)?;
        let done = commit.finish().map_err(CtlError::Commit)?;
        done.warn();
        let line = Committed {
            committed: &done.path,
            disk_bytes: status.total_bytes,
            pause_us: status.pause_us,
            looks_like: done.looks_like,
        };
        self.tell(&line, || {
            format!(
                "committed to {}: {}; this guest goes on with the old base\n",
                done.path.display(),
                show::saved(&status)
            )
        })
    }

    /// Lets the helper save into `output`, until that has ended in one way or another.
    fn follow(
        &mut self,
        request: SaveRequest,
        output: &File,
        what: String,
        signals: &Signals,
    ) -> Result<SaveStatus, CtlError> {
        let begun = Follow::begin(&mut self.channel, request, output);
        let mut follow = begun.map_err(|source| self.lost(source))?;
        let mut progress = Progress::new(what, !self.json);
        loop {
            follow.tend(&mut self.channel).map_err(|source| self.lost(source))?;
            if let Some(signal) = self.wait(signals, follow.wait())? {
                self.call_off(follow, output);
                return Err(CtlError::Told(signal));
            }
            let heard = self.channel.hear().map_err(|source| self.lost(source))?;
            let Some(Heard::Reply(reply)) = heard else {
                continue;
            };
            let end = follow.hear(reply, output).map_err(|source| self.lost(source))?;
            if let Some(status) = follow.progress() {
                progress.show(status.done_bytes, status.total_bytes);
            }
            match end {
                None => {}
                Some(SaveEnd::Done(status)) => return Ok(status),
                Some(SaveEnd::Refused(why)) => return Err(self.lost(ChannelError::Refused(why))),
                Some(SaveEnd::Failed(why)) => return Err(CtlError::Save(why)),
                Some(SaveEnd::Cancelled) => return Err(CtlError::Save("it was called off".into())),
            }
        }
    }

    /// Calls a save off, and waits a moment for that: the helper does it in any case once it finds us gone.
    fn call_off(&mut self, mut follow: Follow, output: &File) {
        let end = Instant::now() + CALLED_OFF;
        let mut asked = follow.cancel(&mut self.channel);
        while asked.is_ok() && Instant::now() < end {
            match self.channel.hear() {
                Ok(Some(Heard::Reply(reply))) => match follow.hear(reply, output) {
                    Ok(None) => {}
                    Ok(Some(_)) | Err(_) => return,
                },
                Ok(Some(Heard::Notice(_))) => {}
                Ok(None) => self.channel.wait(end),
                Err(error) => asked = Err(error),
            }
        }
    }

    /// Prints what happens.
    pub(super) fn events(&mut self, signals: &Signals) -> Result<(), CtlError> {
        if self.call(Command::Events)? != Answer::Subscribed {
            return Err(self.lost(ChannelError::Other));
        }
        let mut missed = 0;
        loop {
            if self.wait(signals, Duration::MAX)?.is_some() {
                return Ok(());
            }
            let heard = self.channel.hear().map_err(|source| self.lost(source))?;
            if let Some(Heard::Notice(notice)) = heard {
                self.tell(&notice, || show::event(&notice, missed))?;
                missed = notice.missed;
            }
        }
    }

    /// Prints what was counted, or done, every second.
    pub(super) fn watch(&mut self, signals: &Signals) -> Result<(), CtlError> {
        let mut before = self.stats()?;
        for line in (0..A_SCREEN).cycle() {
            let next = Instant::now() + SECOND;
            while let Some(left) = next
                .checked_duration_since(Instant::now())
                .filter(|left| !left.is_zero())
            {
                if self.wait_for_signal(signals, left)?.is_some() {
                    return Ok(());
                }
            }
            let stats = self.stats()?;
            if line == 0 && !self.json {
                print(show::HEADING)?;
            }
            self.tell(&stats, || show::second(&before, &stats))?;
            before = stats;
        }
        Ok(())
    }

    /// Waits until there is something to hear, a signal that ends us came, or `limit` is over.
    fn wait(&self, signals: &Signals, limit: Duration) -> Result<Option<Signal>, CtlError> {
        let events = [
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.channel.as_fd(), PollFlags::POLLIN),
        ];
        wait(signals, events, limit)
    }

    fn wait_for_signal(&self, signals: &Signals, limit: Duration) -> Result<Option<Signal>, CtlError> {
        wait(signals, [PollFd::new(signals.as_fd(), PollFlags::POLLIN)], limit)
    }
}

fn wait<const N: usize>(
    signals: &Signals,
    mut events: [PollFd<'_>; N],
    limit: Duration,
) -> Result<Option<Signal>, CtlError> {
    // Rounded up: a wait of less than a millisecond would be none, over and over.
    let limit = PollTimeout::try_from(limit.saturating_add(Duration::from_millis(1))).unwrap_or(PollTimeout::MAX);
    match poll(&mut events, limit) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(CtlError::Wait(errno)),
    }
    let ending = std::iter::from_fn(|| signals.next()).find(|signal| *signal != Signal::SIGCONT);
    Ok(ending)
}
