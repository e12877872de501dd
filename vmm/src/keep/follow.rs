//! The conversation about a save: asked for, followed until it has ended, or called off.
//!
//! The helper answers at once and copies on; how far it is stands in its status, which is asked for again and again. Nothing
//! here waits: who has other things to do as well says when the channel has something ([`Follow::hear`]) and when time has
//! passed ([`Follow::tend`]).

use super::headway::Headway;
use crate::channel::{Channel, ChannelError, ORDER_PATIENCE, answer};
use protocol::control::{Answer, Command, Reply, SaveFormat, SaveRequest, SaveState, SaveStatus};
use std::fs::File;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// The first time between two questions, which doubles up to the last: small disks are saved in milliseconds, and nobody looks
/// more often than five times a second.
const FIRST: Duration = Duration::from_millis(5);
const LAST: Duration = Duration::from_millis(200);

/// How a save ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SaveEnd {
    /// The file is whole.
    Done(SaveStatus),
    /// The helper did not begin.
    Refused(String),
    /// It could not be done; or does not get on, and is at work still.
    Failed(String),
    /// It was called off.
    Cancelled,
}

/// A save under way.
#[derive(Debug)]
pub(crate) struct Follow {
    format: SaveFormat,
    /// The question that is not answered yet, and since when.
    open: Option<(u64, Instant)>,
    /// The request to call it off.
    cancelling: Option<u64>,
    /// The save's number, once the helper has begun.
    save: Option<u64>,
    /// When to ask again.
    next: Instant,
    pause: Duration,
    progress: Option<SaveStatus>,
    headway: Headway,
}

impl Follow {
    /// Asks the helper to save into `output`.
    ///
    /// # Errors
    /// It cannot be reached.
    pub(crate) fn begin(channel: &mut Channel, request: SaveRequest, output: &File) -> Result<Self, ChannelError> {
        let format = request.format;
        let number = channel.ask(Command::Save(request), Some(output.as_fd()))?;
        let now = Instant::now();
        Ok(Self {
            format,
            open: Some((number, now)),
            cancelling: None,
            save: None,
            next: now,
            pause: FIRST,
            progress: None,
            headway: Headway::begin(now),
        })
    }

    /// How far it is, as far as is known.
    pub(crate) const fn progress(&self) -> Option<&SaveStatus> {
        self.progress.as_ref()
    }

    /// How long [`Self::tend`] has nothing to do.
    pub(crate) fn wait(&self) -> Duration {
        let until = self.open.map_or(self.next, |(_, since)| since + ORDER_PATIENCE);
        until.saturating_duration_since(Instant::now())
    }

    /// Asks how far it is, if that is due.
    ///
    /// # Errors
    /// The helper does not answer any more.
    pub(crate) fn tend(&mut self, channel: &mut Channel) -> Result<(), ChannelError> {
        let now = Instant::now();
        match self.open {
            Some((_, since)) if now.saturating_duration_since(since) >= ORDER_PATIENCE => {
                Err(ChannelError::Silent(ORDER_PATIENCE))
            }
            None if now >= self.next => {
                self.open = Some((channel.ask(Command::Status, None)?, now));
                Ok(())
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Calls it off. It has ended when [`Self::hear`] says so.
    ///
    /// # Errors
    /// The helper cannot be reached, which ends it too.
    pub(crate) fn cancel(&mut self, channel: &mut Channel) -> Result<(), ChannelError> {
        if self.cancelling.is_none() {
            self.cancelling = Some(channel.ask(Command::CancelSave, None)?);
        }
        Ok(())
    }

    /// Whether that was asked for, and is not answered yet.
    pub(crate) const fn is_being_cancelled(&self) -> bool {
        self.cancelling.is_some()
    }

    /// Hears a reply of the helper's; how the save into `output` ended, if it has.
    ///
    /// # Errors
    /// The reply makes no sense here.
    pub(crate) fn hear(&mut self, reply: Reply, output: &File) -> Result<Option<SaveEnd>, ChannelError> {
        if reply.id.is_some() && reply.id == self.cancelling {
            self.cancelling = None;
            // If it is refused the save had ended: the status says how.
            return Ok(matches!(answer(reply), Ok(Answer::Cancelled)).then_some(SaveEnd::Cancelled));
        }
        let Some((number, _)) = self.open else {
            return Ok(None);
        };
        if reply.id != Some(number) {
            return Ok(None);
        }
        self.open = None;
        self.next = Instant::now() + self.pause;
        self.pause = LAST.min(self.pause.saturating_mul(2));
        match (self.save, answer(reply)) {
            (None, Ok(Answer::Saving { number })) => {
                self.save = Some(number);
                Ok(None)
            }
            (None, Err(ChannelError::Refused(why))) => Ok(Some(SaveEnd::Refused(why))),
            (Some(number), Ok(Answer::Status(status))) => {
                let saves = [status.save, status.previous_save];
                // Another one may have begun since ours ended.
                let ours = saves.into_iter().flatten().find(|save| save.number == number);
                Ok(self.learn(ours, output))
            }
            (_, Err(error)) => Err(error),
            (_, Ok(_)) => Err(ChannelError::Other),
        }
    }

    fn learn(&mut self, save: Option<SaveStatus>, output: &File) -> Option<SaveEnd> {
        let Some(save) = save else {
            return Some(SaveEnd::Failed("the helper knows nothing of this save any more".into()));
        };
        let end = match &save.state {
            SaveState::Running => {
                let noted = self
                    .headway
                    .note(save.done_bytes, Some(save.total_bytes), Instant::now());
                noted.err().map(|stuck| SaveEnd::Failed(stuck.to_string()))
            }
            SaveState::Done => Some(self.done(&save, output)),
            SaveState::Cancelled => Some(SaveEnd::Cancelled),
            SaveState::Failed(why) => Some(SaveEnd::Failed(why.clone())),
        };
        self.progress = Some(save);
        end
    }

    /// The helper says that it is done, and is not believed where the file cannot be a disk: it may have been taken over.
    fn done(&self, save: &SaveStatus, output: &File) -> SaveEnd {
        let length = match output.metadata() {
            Ok(info) => info.len(),
            Err(error) => return SaveEnd::Failed(format!("it is done, and its file cannot be looked at: {error}")),
        };
        let can_be = match self.format {
            SaveFormat::Raw => length == save.total_bytes,
            SaveFormat::Qcow2Delta => length > 0,
        };
        if can_be {
            SaveEnd::Done(save.clone())
        } else {
            let disk = save.total_bytes;
            SaveEnd::Failed(format!(
                "the helper calls a disk of {disk} bytes done, and its file has {length}"
            ))
        }
    }
}

#[cfg(test)]
mod tests;
