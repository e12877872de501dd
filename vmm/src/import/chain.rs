//! An image and what it is based on, as one disk. Every file was given by whoever started the process; what the images say about
//! each other is only compared with that.

use super::error::{ImportError, Which};
use super::file::ImageFile;
use super::header::Recorded;
use super::qcow2::{Extent, Qcow2, What};
use crate::contract::import::Format;

/// The disk that a chain of images makes.
#[derive(Debug)]
pub(super) struct Chain {
    /// The image itself first.
    layers: Vec<Layer>,
}

/// One file.
#[derive(Debug)]
enum Layer {
    Qcow2(Box<Qcow2>),
    Raw(ImageFile),
}

/// What some bytes of the disk are, and in which layer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    layer: usize,
    what: What,
    pub(super) bytes: u64,
}

impl Found {
    /// Whether they are zeros, as far as the tables say.
    pub(super) const fn is_zero(&self) -> bool {
        matches!(self.what, What::Below | What::Zero)
    }
}

impl Layer {
    fn open(file: ImageFile, format: Format, recorded: Option<&Recorded>, bytes_max: u64) -> Result<Self, ImportError> {
        let which = file.which;
        match settle(format, recorded).map_err(|what| which.refused(what))? {
            Format::Raw if file.length() == 0 => Err(which.refused("is empty")),
            Format::Raw => Ok(Self::Raw(file)),
            Format::Qcow2 | Format::AsRecorded => Ok(Self::Qcow2(Box::new(Qcow2::open(file, bytes_max)?))),
        }
    }

    fn disk_bytes(&self) -> u64 {
        match self {
            Self::Qcow2(image) => image.header.disk_bytes,
            Self::Raw(file) => file.length(),
        }
    }

    /// What the image says it is based on.
    fn recorded(&self) -> Option<Recorded> {
        match self {
            Self::Qcow2(image) => image.header.backing.clone(),
            Self::Raw(_) => None,
        }
    }

    fn extent(&mut self, at: u64, most: u64) -> Result<Extent, ImportError> {
        match self {
            Self::Qcow2(image) => image.extent(at, most),
            Self::Raw(file) => {
                let (hole, bytes) = file.hole(at)?;
                Ok(Extent {
                    what: if hole { What::Zero } else { What::Data(at) },
                    bytes: bytes.min(most),
                })
            }
        }
    }
}

/// The format of a file: what the caller says, or else what the image above it recorded. Both must agree, for one of the two may
/// be a mistake, and a wrong disk would come of it.
fn settle(said: Format, recorded: Option<&Recorded>) -> Result<Format, String> {
    let recorded = recorded.and_then(|recorded| recorded.format.as_deref());
    let known = match recorded {
        Some("qcow2") => Some(Format::Qcow2),
        Some("raw" | "file" | "host_device") => Some(Format::Raw),
        Some(_) | None => None,
    };
    match (said, known, recorded) {
        (Format::AsRecorded, Some(format), _) => Ok(format),
        (Format::AsRecorded, None, Some(other)) => {
            Err(format!("is said to be {other:?}, and only qcow2 and raw are read"))
        }
        (Format::AsRecorded, None, None) => Err("has a format that the image above it does not record; \
             say which: --backing FILE,format=qcow2 or --backing FILE,format=raw"
            .to_owned()),
        (said, Some(format), _) if said != format => Err(format!(
            "is recorded as {format} in the image above it, and was given as {said}"
        )),
        (said, _, _) => Ok(said),
    }
}

impl Chain {
    /// Reads the headers, from the image down, and makes sure that the chain is whole: nothing is missing, nothing too much.
    ///
    /// # Errors
    /// A file is refused or cannot be read, or the chain is not what the images say.
    pub(super) fn open(files: Vec<(ImageFile, Format)>, bytes_max: u64) -> Result<Self, ImportError> {
        let mut layers: Vec<Layer> = Vec::new();
        for (file, format) in files {
            let above = layers.last().map(Layer::recorded);
            if let Some(None) = above {
                return Err(file
                    .which
                    .refused("was given with --backing, but the image above it is based on nothing; leave it out"));
            }
            let recorded = above.flatten();
            layers.push(Layer::open(file, format, recorded.as_ref(), bytes_max)?);
        }
        let last = Which::Image(layers.len().saturating_sub(1));
        if let Some(Recorded { name, .. }) = layers.last().and_then(Layer::recorded) {
            return Err(last.refused(format!(
                "is based on another file, \"{name}\", which is not opened unless you name it: \
                 --backing FILE{}",
                if layers.len() > 1 { ", after the others" } else { "" }
            )));
        }
        Ok(Self { layers })
    }

    /// Size of the disk: the image's own.
    pub(super) fn disk_bytes(&self) -> u64 {
        self.layers.first().map_or(0, Layer::disk_bytes)
    }

    /// What lies at `at` of the disk, and for how many bytes, `most` at most and one at least.
    ///
    /// # Errors
    /// Those of the images.
    pub(super) fn find(&mut self, at: u64, mut most: u64) -> Result<Found, ImportError> {
        let zero = |bytes| Found {
            layer: 0,
            what: What::Zero,
            bytes,
        };
        for (layer, image) in self.layers.iter_mut().enumerate() {
            let left = image.disk_bytes().saturating_sub(at);
            if left == 0 {
                // Behind the end of a shorter image its disk is zeros, whatever that one is based on.
                return Ok(zero(most));
            }
            let Extent { what, bytes } = image.extent(at, most.min(left))?;
            most = bytes;
            match what {
                What::Below => {}
                What::Zero | What::Data(_) | What::Packed { .. } => return Ok(Found { layer, what, bytes }),
            }
        }
        Ok(zero(most))
    }

    /// Reads what was found at `at` of the disk.
    ///
    /// # Errors
    /// Those of the images.
    pub(super) fn read(&mut self, found: Found, at: u64, into: &mut [u8]) -> Result<(), ImportError> {
        match (self.layers.get_mut(found.layer), found.what) {
            (Some(Layer::Qcow2(image)), what) => image.read(what, at, into),
            (Some(Layer::Raw(file)), What::Data(from)) => file.read("data", from, into),
            (Some(Layer::Raw(_)) | None, _) => {
                into.fill(0);
                Ok(())
            }
        }
    }
}
