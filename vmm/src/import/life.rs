//! The life of an import, one screen: take over the descriptors, confine the process, and only then look at what is in them.

use super::args::Config;
use super::chain::Chain;
use super::check::{self, AttemptError};
use super::copy::copy;
use super::error::{ImportError, Which};
use super::file::ImageFile;
use crate::contract::import::{Format, IMAGES_MAX, ImageSpec, ImportExit, ImportSpec, Said};
use log::error;
use nix::sys::signal::Signal;
use policy::logging::{self, chain};
use policy::seccomp::import::{ImportDescriptors, import_filter};
use policy::{
    Confined, Descriptor, Descriptors, EnterSpec, ParentDeath, PrepareSpec, Prepared, SealError, StepError, User, adopt,
};
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Write};
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, RawFd};
use thiserror::Error;

/// Address space of the process: its program takes a few MiB, the tables and clusters of [`IMAGES_MAX`] images 64.
const MEMORY_MAX: u64 = 256 << 20;

/// Descriptors that may be open at a time: the files, and the few that a start needs.
const DESCRIPTORS_MAX: u64 = 64;

/// Why nothing is converted.
#[derive(Debug, Error)]
pub(super) enum StartError {
    #[error("cannot take over descriptor {number}")]
    Adopt {
        number: RawFd,
        #[source]
        source: io::Error,
    },
    #[error("there are more than {IMAGES_MAX} images, or one descriptor is named twice")]
    Descriptors,
    #[error("cannot prepare the confinement")]
    Prepare(#[source] StepError),
    #[error("cannot confine the process")]
    Enter(#[source] StepError),
    #[error("cannot seal the process")]
    Seal(#[source] SealError<Infallible>),
}

impl StartError {
    /// What it means for whoever started the process.
    pub(super) const fn exit(&self) -> ImportExit {
        match self {
            Self::Prepare(StepError::ParentGone) | Self::Enter(StepError::ParentGone) => ImportExit::ParentGone,
            Self::Adopt { .. } | Self::Descriptors => ImportExit::CannotStart,
            Self::Prepare(_) | Self::Enter(_) | Self::Seal(_) => ImportExit::NotConfined,
        }
    }
}

/// The files.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) images: Vec<(ImageFile, Format)>,
    /// Never closed, as the images.
    pub(super) output: ManuallyDrop<File>,
}

impl Files {
    /// Takes them over. Nothing is read.
    fn adopt(_prepared: &Prepared, spec: &ImportSpec) -> Result<Self, StartError> {
        let take = |number| {
            let failed = |source| StartError::Adopt { number, source };
            adopt(number).map(File::from).map_err(|errno| failed(errno.into()))
        };
        let mut images = Vec::new();
        for (index, &ImageSpec { image, format }) in spec.images.iter().enumerate() {
            let file = ImageFile::new(Which::Image(index), take(image)?);
            let file = file.map_err(|source| StartError::Adopt { number: image, source })?;
            images.push((file, format));
        }
        let output = ManuallyDrop::new(take(spec.output)?);
        Ok(Self { images, output })
    }

    /// The descriptors that the filter names.
    pub(super) fn named(&self) -> ImportDescriptors {
        ImportDescriptors {
            images: self.images.iter().map(|(file, _)| file.number()).collect(),
            output: self.output.as_raw_fd(),
        }
    }
}

impl Descriptors for Files {
    fn descriptors(&self) -> Vec<Descriptor> {
        let ImportDescriptors { images, output } = self.named();
        let listed = |number, what: &str| Descriptor {
            number,
            what: what.to_owned(),
        };
        let images = images.into_iter().map(|number| listed(number, "image, read-only"));
        images.chain([listed(output, "output")]).collect()
    }
}

/// The program `mayfly-import`.
pub fn main() -> ! {
    let config = Config::from_command_line();
    logging::start("mayfly-import", &["vmm", "mayfly_import", "policy"], config.verbose);
    std::panic::set_hook(Box::new(|panic| {
        error!("a bug: {panic}; the import is given up");
        policy::signals::exit_now(ImportExit::Panicked.number());
    }));
    let exit = match (config.spec(), &config.attempt) {
        (Some(spec), _) => live(&spec),
        (None, Some(attempt)) => match check::attempt(attempt, &config) {
            Err(AttemptError::Start(error)) => refuse(&error),
            Err(AttemptError::Unknown) => ImportExit::Usage,
        },
        (None, None) => check::run().unwrap_or_else(|error| {
            error!("cannot check the confinement: {error}");
            ImportExit::CannotStart
        }),
    };
    policy::signals::exit_now(exit.number())
}

/// One conversion.
fn live(spec: &ImportSpec) -> ImportExit {
    match confine(spec) {
        Ok(confined) => convert(confined.into_parts().0, spec.bytes_max),
        Err(error) => refuse(&error),
    }
}

fn refuse(error: &StartError) -> ImportExit {
    error!("{}", chain(error));
    error.exit()
}

/// Confines the process with the files of `spec` inside.
///
/// # Errors
/// [`StartError`].
pub(super) fn confine(spec: &ImportSpec) -> Result<Confined<Files>, StartError> {
    let numbers = spec.descriptors();
    let distinct: BTreeSet<_> = numbers.iter().collect();
    if distinct.len() != numbers.len() || spec.images.len() > IMAGES_MAX {
        return Err(StartError::Descriptors);
    }
    let prepared = policy::prepare(&PrepareSpec {
        keep: numbers,
        max_descriptors: DESCRIPTORS_MAX,
        die_with_parent: Some(ParentDeath {
            signal: Signal::SIGKILL,
        }),
    })
    .map_err(StartError::Prepare)?
    .limit_memory(MEMORY_MAX);
    let files = Files::adopt(&prepared, spec)?;
    let (uid, gid) = spec.user;
    let enter = EnterSpec {
        user: User { uid, gid },
        file_size_limit: Some(spec.bytes_max.max(logging::room_for_log())),
        no_new_processes: true,
    };
    prepared
        .enter(files, &enter)
        .map_err(StartError::Enter)?
        .seal(|files, _| Ok(files), |files| import_filter(&files.named()))
        .map_err(StartError::Seal)
}

/// Converts, and says how far it is and what went wrong.
fn convert(files: Files, bytes_max: u64) -> ImportExit {
    let Files { images, output } = files;
    let result = Chain::open(images, bytes_max).and_then(|mut disk| {
        say(&Said::Disk(disk.disk_bytes()));
        copy(&mut disk, &output, |done| say(&Said::Done(done)))
    });
    let Err(error) = result else {
        return ImportExit::Done;
    };
    let text = chain(&error);
    match error {
        ImportError::Refused { .. } => {
            say(&Said::Refused(text));
            ImportExit::Refused
        }
        ImportError::Failed { .. } => {
            say(&Said::Failed(text));
            ImportExit::Failed
        }
    }
}

/// Says it. Where nobody hears it there is nothing to do: this process ends with its parent.
fn say(said: &Said) {
    let _ = tell(said);
}

fn tell(said: &Said) -> io::Result<()> {
    let mut line = serde_json::to_vec(said)?;
    line.push(b'\n');
    let mut out = io::stdout().lock();
    out.write_all(&line)?;
    out.flush()
}
