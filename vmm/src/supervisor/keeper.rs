//! Keeping one disk: a save or a commit that is under way, with the file that the supervisor has opened for it.

use super::control::{Control, PATIENCE};
use super::fate::Fate;
use crate::channel::ChannelError;
use crate::keep::commit::{Commit, CommitError};
use crate::keep::follow::{Follow, SaveEnd};
use crate::keep::fresh::{Fresh, FreshError, PRIVATE, Place};
use protocol::control::{Reply, SaveFormat, SaveRequest, SaveStatus};
use protocol::size::show;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use thiserror::Error;

/// Why a disk is not kept.
#[derive(Debug, Error)]
pub(crate) enum KeepError {
    #[error(transparent)]
    File(#[from] FreshError),
    #[error("{}", .0.effect())]
    Commit(#[from] CommitError),
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error("the helper could not save it: {0}")]
    Failed(String),
    #[error("called off")]
    CalledOff,
    #[error(
        "its base is what --import made of another image, for other runs too, and is not committed to; save the disk, or import \
         the image to a file of your own"
    )]
    Imported,
}

/// Where the disk goes.
#[derive(Debug)]
enum Target {
    File(Fresh, PathBuf),
    Base(Box<Commit>),
}

impl Target {
    /// What the helper writes.
    const fn output(&self) -> &File {
        match self {
            Self::File(fresh, _) => fresh.file(),
            Self::Base(commit) => commit.output(),
        }
    }
}

/// A disk on its way.
#[derive(Debug)]
pub(crate) struct Keeping {
    /// Which one.
    pub(crate) disk: usize,
    follow: Follow,
    target: Target,
}

impl Keeping {
    /// Begins; `image` is what the disk was started from. Nothing, if it is to burn.
    ///
    /// # Errors
    /// [`KeepError`]; nothing has changed then.
    pub(crate) fn begin(
        disk: usize,
        control: &mut Control,
        fate: &Fate,
        image: &Path,
    ) -> Result<Option<Self>, KeepError> {
        let target = match fate {
            Fate::Burn => return Ok(None),
            Fate::Save(out) => Target::File(Fresh::create_new(Place::open(out)?, PRIVATE)?, out.clone()),
            Fate::Commit => {
                let question = control.ask_status()?;
                let served = control.status(question, Instant::now() + PATIENCE)?.base;
                Target::Base(Box::new(Commit::prepare(image, &served, false)?))
            }
        };
        let request = SaveRequest {
            format: SaveFormat::Raw,
            backing: None,
        };
        let follow = Follow::begin(control.channel(), request, target.output())?;
        Ok(Some(Self { disk, follow, target }))
    }

    /// How far it is, as far as is known.
    pub(crate) const fn progress(&self) -> Option<&SaveStatus> {
        self.follow.progress()
    }

    /// How long [`Self::tend`] has nothing to do.
    pub(crate) fn wait(&self) -> Duration {
        self.follow.wait()
    }

    /// Asks how far it is, if that is due.
    ///
    /// # Errors
    /// The helper does not answer any more.
    pub(crate) fn tend(&mut self, control: &mut Control) -> Result<(), KeepError> {
        Ok(self.follow.tend(control.channel())?)
    }

    /// Calls it off.
    ///
    /// # Errors
    /// The helper cannot be reached, which ends it too.
    pub(crate) fn cancel(&mut self, control: &mut Control) -> Result<(), KeepError> {
        Ok(self.follow.cancel(control.channel())?)
    }

    /// Hears a reply; how it ended, if it has.
    pub(crate) fn hear(&mut self, reply: Reply) -> Option<Result<SaveStatus, KeepError>> {
        match self.follow.hear(reply, self.target.output()) {
            Ok(None) => None,
            Ok(Some(SaveEnd::Done(status))) => Some(Ok(status)),
            Ok(Some(SaveEnd::Refused(why))) => Some(Err(ChannelError::Refused(why).into())),
            Ok(Some(SaveEnd::Failed(why))) => Some(Err(KeepError::Failed(why))),
            Ok(Some(SaveEnd::Cancelled)) => Some(Err(KeepError::CalledOff)),
            Err(error) => Some(Err(error.into())),
        }
    }

    /// The helper has written the whole disk: gives it its name. What is to be said of it.
    ///
    /// # Errors
    /// [`KeepError`].
    pub(crate) fn finish(self, status: &SaveStatus) -> Result<String, KeepError> {
        let size = show(status.total_bytes);
        match self.target {
            Target::File(fresh, out) => {
                fresh.publish_new()?;
                Ok(format!("saved to {} ({size})", out.display()))
            }
            Target::Base(commit) => {
                let done = commit.finish()?;
                done.warn();
                Ok(format!("committed: {} is its new base ({size})", done.path.display()))
            }
        }
    }
}
