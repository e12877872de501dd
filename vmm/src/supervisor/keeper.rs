//! Keeping one disk: a save or a commit that is under way, with the file that the supervisor has opened for it.
//!
//! What can be known of its end is known before its beginning: [`rehearse`] does what [`Keeping::begin`] does, up to the helper,
//! but removes nothing.

use super::control::{Control, PATIENCE};
use super::fate::Fate;
use super::plan::{Backend, PlannedDisk};
use crate::channel::ChannelError;
use crate::keep::commit::{Commit, CommitError};
use crate::keep::follow::{Follow, SaveEnd};
use crate::keep::fresh::{Fresh, FreshError, PRIVATE, Place};
use protocol::control::{BaseStatus, Reply, SaveFormat, SaveRequest, SaveStatus};
use protocol::size::show;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
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

impl KeepError {
    /// Whether the helper would do later what it does not do now.
    pub(crate) fn is_busy(&self) -> bool {
        matches!(self, Self::Channel(error) if error.is_busy())
    }
}

/// Where the disk goes.
#[derive(Debug)]
enum Target {
    File(Fresh, PathBuf),
    Base(Box<Commit>),
}

impl Target {
    /// Opens it, with all that can speak against it; `served` is the file that the disk was started from. None, if the disk
    /// is to burn or is not ours.
    fn open(
        fate: &Fate,
        disk: &PlannedDisk,
        served: impl FnOnce() -> Result<BaseStatus, KeepError>,
    ) -> Result<Option<Self>, KeepError> {
        let Backend::Helper { image, .. } = &disk.backend else {
            return Ok(None);
        };
        match fate {
            Fate::Burn => Ok(None),
            Fate::Save(out) => {
                let fresh = Fresh::create_new(Place::open(out)?, PRIVATE)?;
                Ok(Some(Self::File(fresh, out.clone())))
            }
            Fate::Commit if disk.is_imported => Err(KeepError::Imported),
            Fate::Commit => {
                let commit = Commit::prepare(image, &served()?, false)?;
                Ok(Some(Self::Base(Box::new(commit))))
            }
        }
    }

    /// What the helper writes.
    const fn output(&self) -> &File {
        match self {
            Self::File(fresh, _) => fresh.file(),
            Self::Base(commit) => commit.output(),
        }
    }
}

/// Whether the disk could meet this fate, as things are: does all that comes before a helper is asked, and undoes it.
///
/// # Errors
/// [`KeepError`]: what would come of it.
pub(crate) fn rehearse(fate: &Fate, disk: &PlannedDisk) -> Result<(), KeepError> {
    let Backend::Helper { image, .. } = &disk.backend else {
        return Ok(());
    };
    match fate {
        Fate::Burn => {}
        Fate::Save(out) => {
            let fresh = Fresh::try_new(Place::open(out)?, PRIVATE)?;
            // What --import will make may not be there yet.
            if let (Some(fresh), Ok(base)) = (fresh, as_it_is(image)) {
                fresh.try_length(base.bytes)?;
            }
        }
        // Which may be about a file that is not there yet.
        Fate::Commit if disk.is_imported => return Err(KeepError::Imported),
        Fate::Commit => Commit::rehearse(image, &as_it_is(image)?)?,
    }
    Ok(())
}

/// What a helper that was started now would serve.
///
/// # Errors
/// There is no such file.
pub(crate) fn as_it_is(image: &Path) -> Result<BaseStatus, CommitError> {
    let info = image.metadata().map_err(|source| CommitError::Find {
        path: image.to_owned(),
        source,
    })?;
    Ok(BaseStatus {
        device: info.dev(),
        inode: info.ino(),
        bytes: info.len(),
    })
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
    /// Begins. Nothing, if there is nothing to do.
    ///
    /// # Errors
    /// [`KeepError`]; nothing has changed then.
    pub(crate) fn begin(
        index: usize,
        disk: &PlannedDisk,
        control: &mut Control,
        fate: &Fate,
    ) -> Result<Option<Self>, KeepError> {
        let served = || {
            let question = control.ask_status()?;
            Ok(control.status(question, Instant::now() + PATIENCE)?.base)
        };
        let Some(target) = Target::open(fate, disk, served)? else {
            return Ok(None);
        };
        let request = SaveRequest {
            format: SaveFormat::Raw,
            backing: None,
        };
        let follow = Follow::begin(control.channel(), request, target.output())?;
        Ok(Some(Self {
            disk: index,
            follow,
            target,
        }))
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

    /// Whether that was asked for, and is not answered yet.
    pub(crate) const fn is_being_called_off(&self) -> bool {
        self.follow.is_being_cancelled()
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
