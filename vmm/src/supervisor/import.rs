//! `mayfly import`: opens the files, lets a confined `mayfly-import` convert them, and keeps what comes of it, whole or not at all.
//!
//! The image may be an enemy's, and so may the process be that reads it, from then on. So nothing it says is believed: progress
//! that goes back or beyond the end ends it, its words are shown without what steers a terminal, and a file is only kept that
//! was given its length here. (What the file then holds is as little to be trusted as the image was.)

pub(crate) mod cache;
mod worker;

use self::worker::{Opened, Order, WorkerError};
use super::args;
use super::end::{Code, ImportCode};
use super::kit::{KitError, open_image};
use super::run_user;
use crate::contract::import::{Format, IMAGES_MAX};
use crate::keep::fresh::{Fresh, FreshError, PRIVATE, Place};
use crate::signals::{self, Signals};
use crate::sys;
use log::info;
use nix::errno::Errno;
use protocol::formats::QCOW2_MAGIC;
use protocol::size::show;
use rustix::fs::Mode;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// The largest disk if nobody says: the largest file of ext4.
pub(crate) const BYTES_MAX: u64 = 16 << 40;

/// What `st_blocks` counts.
const BLOCK: u64 = 512;

/// Why nothing was imported.
#[derive(Debug, Error)]
pub(crate) enum ImportError {
    #[error(transparent)]
    Open(#[from] KitError),
    #[error("there are more than {} backing files", IMAGES_MAX.saturating_sub(1))]
    ManyFiles,
    #[error("no name for the raw image follows from {}; give one: mayfly import IN OUT", .0.display())]
    NoName(PathBuf),
    #[error(
        "{} is not a qcow2 image; one that is raw needs no import (mayfly run --disk takes it as it is), and others \
         `qemu-img convert -O raw` converts",
        .0.display()
    )]
    NotQcow2(PathBuf),
    #[error("cannot read the image {}", path.display())]
    Look {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Output(#[from] FreshError),
    #[error("cannot import {}", image.display())]
    Worker {
        image: PathBuf,
        #[source]
        source: WorkerError,
    },
    #[error("cannot import {}: {} has changed meanwhile: something writes it", image.display(), changed.display())]
    Changed { image: PathBuf, changed: PathBuf },
    #[error("cannot take over the signals")]
    Signals(#[source] Errno),
    #[error("cannot {doing}")]
    System {
        doing: &'static str,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Cache(#[from] cache::CacheError),
}

impl ImportError {
    /// What `exit` gets.
    pub(crate) fn number(&self) -> u8 {
        match self {
            Self::ManyFiles | Self::NoName(_) => ImportCode::Usage.number(),
            Self::NotQcow2(_) => ImportCode::ImageRefused.number(),
            Self::Worker { source, .. } => match source {
                WorkerError::Told(signal) => signals::code(*signal),
                WorkerError::Unconfined(_) => ImportCode::NotConfined.number(),
                WorkerError::Refused(_) => ImportCode::ImageRefused.number(),
                WorkerError::Ended(_) | WorkerError::Nonsense | WorkerError::Stalled => ImportCode::RunFailed.number(),
                WorkerError::Spawn(_) | WorkerError::Failed(_) | WorkerError::System { .. } => {
                    ImportCode::CannotStart.number()
                }
            },
            Self::Open(_)
            | Self::Look { .. }
            | Self::Output(_)
            | Self::Changed { .. }
            | Self::Signals(_)
            | Self::System { .. }
            | Self::Cache(_) => ImportCode::CannotStart.number(),
        }
    }
}

/// `mayfly import`.
///
/// # Errors
/// [`ImportError`]. There is no output then.
pub(crate) fn run(import: &args::Import, program: &Path) -> Result<Code, ImportError> {
    let pass_nothing_on = sys::pass_nothing_on().map_err(io::Error::from);
    pass_nothing_on.map_err(|source| ImportError::System {
        doing: "keep what was inherited from other processes",
        source,
    })?;
    let files = Files::open(import)?;
    let path = files.output_path(import.output.as_deref())?;
    let output = Fresh::create_new(Place::open(&path)?, files.mode())?;
    let signals = Signals::take().map_err(ImportError::Signals)?;
    files.convert(import, program, output.file(), &signals)?;
    let info = output.publish_new()?;
    info!(
        "imported {} into {}: a disk of {}, which takes {}",
        import.image.display(),
        path.display(),
        show(info.len()),
        show(info.blocks().saturating_mul(BLOCK))
    );
    Ok(Code::Done)
}

/// The files to read, as they were when they were opened.
struct Files {
    opened: Vec<Opened>,
    before: Vec<Metadata>,
    paths: Vec<PathBuf>,
}

impl Files {
    fn open(import: &args::Import) -> Result<Self, ImportError> {
        if import.backing.len() >= IMAGES_MAX {
            return Err(ImportError::ManyFiles);
        }
        let backing = import
            .backing
            .iter()
            .map(|backing| (&backing.file, backing.format.unwrap_or(Format::AsRecorded)));
        let (mut opened, mut before, mut paths) = (Vec::new(), Vec::new(), Vec::new());
        for (path, format) in [(&import.image, Format::Qcow2)].into_iter().chain(backing) {
            let file = open_image(path)?;
            let info = file.metadata().map_err(|source| KitError::Open {
                what: "image",
                path: path.clone(),
                source,
            })?;
            if opened.is_empty() && info.is_file() && !is_qcow2(&file, path)? {
                return Err(ImportError::NotQcow2(path.clone()));
            }
            if !info.is_file() && !info.file_type().is_block_device() {
                return Err(ImportError::Open(KitError::Kind {
                    what: "image",
                    path: path.clone(),
                    kind: "neither a regular file nor a block device",
                    wanted: "a qcow2 image",
                }));
            }
            opened.push(Opened {
                file: file.into(),
                format,
            });
            before.push(info);
            paths.push(path.clone());
        }
        Ok(Self { opened, before, paths })
    }

    /// The image itself.
    fn image(&self) -> PathBuf {
        self.paths.first().cloned().unwrap_or_default()
    }

    /// Where the disk shall be: as said, or beside the image.
    fn output_path(&self, said: Option<&Path>) -> Result<PathBuf, ImportError> {
        let image = self.image();
        // What lies beside a block device is not a place for it.
        let beside = || {
            self.before
                .first()
                .filter(|info| info.is_file())
                .map(|_| image.with_extension("raw"))
        };
        match said
            .map(Path::to_owned)
            .or_else(|| beside().filter(|path| *path != image))
        {
            Some(path) => Ok(path),
            None => Err(ImportError::NoName(image)),
        }
    }

    /// Who may read the image may read the disk, as far as the umask lets them.
    fn mode(&self) -> Mode {
        let mode = self.before.first().map_or(0, Metadata::mode);
        Mode::from_raw_mode(mode & 0o666) | PRIVATE
    }

    /// Converts them, and makes sure that nobody wrote them meanwhile.
    fn convert(
        self,
        import: &args::Import,
        program: &Path,
        output: &File,
        signals: &Signals,
    ) -> Result<(), ImportError> {
        let image = self.image();
        let again = self.opened.iter().map(|opened| opened.file.try_clone());
        let again = again.collect::<Result<Vec<_>, _>>();
        let again = again.map_err(|source| ImportError::System {
            doing: "keep hold of the image",
            source,
        })?;
        let order = Order {
            program,
            name: image
                .file_name()
                .unwrap_or(image.as_os_str())
                .to_string_lossy()
                .into_owned(),
            images: self.opened,
            bytes_max: import.max_size.map_or(BYTES_MAX, |size| size.0),
            user: import.user.unwrap_or_else(run_user::of_this_run),
            verbose: import.verbose,
        };
        let done = worker::convert(order, output, signals);
        done.map_err(|source| ImportError::Worker {
            image: image.clone(),
            source,
        })?;
        for ((file, before), path) in again.into_iter().zip(&self.before).zip(self.paths) {
            let after = File::from(file).metadata().map_err(|source| ImportError::Look {
                path: path.clone(),
                source,
            })?;
            if !is_unchanged(before, &after) {
                return Err(ImportError::Changed { image, changed: path });
            }
        }
        Ok(())
    }
}

/// Whether it begins as one, which is all that is looked at here.
fn is_qcow2(image: &File, path: &Path) -> Result<bool, ImportError> {
    let mut start = [0; 4];
    match image.read_exact_at(&mut start, 0) {
        Ok(()) => Ok(start == QCOW2_MAGIC),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(source) => Err(ImportError::Look {
            path: path.to_owned(),
            source,
        }),
    }
}

fn is_unchanged(before: &Metadata, after: &Metadata) -> bool {
    let facts = |info: &Metadata| (info.len(), info.mtime(), info.mtime_nsec());
    // A block device's times say nothing of what is written to it.
    !before.is_file() || facts(before) == facts(after)
}
