//! What the supervisor and `mayfly-import` agree on: its command line, its descriptors, what it says and how it ends.
//!
//! It opens nothing. Standard output takes lines of JSON, one [`Said`] each; standard error takes log lines.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::os::fd::RawFd;
use std::str::FromStr;

/// The longest line that it says, in bytes: a reason with the longest name that an image can hold, escaped.
pub const SAID_MAX: usize = 16 << 10;

/// The most images that one conversion reads: the image itself and what it is based on.
pub const IMAGES_MAX: usize = 8;

/// How the content of a file is to be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// As a qcow2 image.
    Qcow2,
    /// As it is.
    Raw,
    /// As the image that is based on it says.
    AsRecorded,
}

impl fmt::Display for Format {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
            Self::AsRecorded => "as-recorded",
        })
    }
}

impl FromStr for Format {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Qcow2, Self::Raw, Self::AsRecorded]
            .into_iter()
            .find(|format| format.to_string() == text)
            .ok_or("the formats are qcow2 and raw")
    }
}

/// One of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageSpec {
    /// It, open and read-only.
    pub image: RawFd,
    /// How to understand it.
    pub format: Format,
}

/// A conversion, as the supervisor orders it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportSpec {
    /// The image first, then what it is based on, and so on.
    pub images: Vec<ImageSpec>,
    /// An empty regular file, open for writing.
    pub output: RawFd,
    /// The largest disk that is wanted.
    pub bytes_max: u64,
    /// Whom a process that was started by root becomes: uid and gid.
    pub user: (u32, u32),
    /// Log at debug level too.
    pub verbose: bool,
}

impl ImportSpec {
    /// The command line that says all this, as `import::args` reads it.
    #[must_use]
    pub fn to_args(&self) -> Vec<String> {
        let images = self
            .images
            .iter()
            .map(|ImageSpec { image, format }| format!("--image={image},{format}"));
        let (uid, gid) = self.user;
        let mut args: Vec<_> = images.collect();
        args.push(format!("--output={}", self.output));
        args.push(format!("--max-size={}", self.bytes_max));
        args.push(format!("--user={uid}:{gid}"));
        if self.verbose {
            args.push("--verbose".to_owned());
        }
        args
    }

    /// Every descriptor that the process inherits.
    #[must_use]
    pub fn descriptors(&self) -> Vec<RawFd> {
        let images = self.images.iter().map(|spec| spec.image);
        images.chain([self.output]).collect()
    }
}

/// What it says while it works. Who hears it must not believe it: the image may have taken the process over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Said {
    /// First of all: how many bytes the disk has.
    Disk(u64),
    /// So many of them are done.
    Done(u64),
    /// The image is not converted: why. The text may quote the image.
    Refused(String),
    /// A file could not be read or written: why.
    Failed(String),
}

protocol::exit_codes! {
    /// How a `mayfly-import` ended. The number is the process's exit code.
    pub enum ImportExit {
        /// The whole disk is in the output.
        Done = 0 => "the disk is converted",
        /// It could not start: a descriptor is missing.
        CannotStart = 1 => "could not start: a descriptor is not what it should be",
        /// The command line made no sense.
        Usage = 2 => "wrong usage",
        /// A required layer of confinement could not be put in place or did not read back.
        NotConfined = 3 => "a required layer of confinement failed",
        /// A forbidden act was possible (`--check-confinement` only).
        ForbiddenActPossible = 4 => "--check-confinement: a forbidden act was possible",
        /// The supervisor was gone before the kernel could be asked for SIGKILL then.
        ParentGone = 8 => "the supervisor died during the start; later that is SIGKILL",
        /// A bug: the process panicked.
        Panicked = 9 => "a bug: the process panicked",
        /// A file could not be read or written.
        Failed = 10 => "a file could not be read or written",
        /// The image is not one that is converted.
        Refused = 20 => "the image is refused",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_has_every_exit_code() {
        let documentation = include_str!("../../../docs/sandbox.md");
        let (_, table) = documentation.split_once("| what happens to an import |").unwrap();

        for exit in ImportExit::ALL {
            assert!(table.contains(&format!(" | {} |\n", exit.number())), "{exit:?}");
        }
    }

    #[test]
    fn the_longest_reason_fits() {
        let worst = "\u{1}".repeat(1023);
        let line = serde_json::to_vec(&Said::Refused(format!("{worst}{}", "x".repeat(1000)))).unwrap();

        assert!(line.len() < SAID_MAX, "{}", line.len());
    }
}
