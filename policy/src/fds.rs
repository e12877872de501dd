//! Descriptors: closing those nobody named, and proving at the end that what is open is exactly what is listed.
//!
//! It does not know what a descriptor is for; whoever opened it says so in [`Descriptor::what`].

use nix::fcntl::{OFlag, open};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::stat::Mode;
use serde::Serialize;
use std::collections::BTreeSet;
use std::os::fd::RawFd;
use thiserror::Error;

use crate::error::StepError;
use crate::sys;

/// The most descriptor numbers that are looked at one by one. A guess: about 0.1 s of system calls; a helper's limit is some
/// hundreds, and only where lowering it is forbidden does this number matter.
const SCAN_LIMIT: u64 = 1 << 20;

/// One open descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Descriptor {
    /// Its number.
    pub number: RawFd,
    /// What it is, for an operator: "overlay, nameless, read-write".
    pub what: String,
}

/// Whatever owns descriptors and can list them.
pub trait Descriptors {
    /// Everything that may be open besides 0, 1 and 2.
    fn descriptors(&self) -> Vec<Descriptor>;
}

/// The open descriptors are not the listed ones.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum DescriptorsError {
    /// Open, but nobody listed them.
    #[error("open but not listed: {0:?}")]
    Unlisted(Vec<RawFd>),
    /// Listed, but not open.
    #[error("listed but not open: {0:?}")]
    NotOpen(Vec<RawFd>),
    /// So many numbers are possible that they cannot be looked at one by one.
    #[error("RLIMIT_NOFILE is {0}, too many numbers to look at one by one; start with a limit of at most {SCAN_LIMIT}")]
    TooMany(u64),
}

/// Makes standard input read nothing: a terminal behind it could be typed into (TIOCSTI).
pub(crate) fn stdin_from_null() -> Result<(), StepError> {
    let null = open("/dev/null", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(StepError::system("open /dev/null as standard input"))?;
    nix::unistd::dup2_stdin(&null).map_err(StepError::system("replace standard input"))
}

/// Closes every descriptor but 0, 1, 2 and those in `keep`, which must be open.
pub(crate) fn close_all_but(keep: &[RawFd]) -> Result<(), StepError> {
    let mut first = 3_u32;
    for &number in &keep.iter().copied().collect::<BTreeSet<_>>() {
        let kept = u32::try_from(number)
            .ok()
            .filter(|kept| *kept >= first && sys::is_open(number))
            .ok_or(StepError::NotKept(number))?;
        close_from(first, kept.checked_sub(1))?;
        first = kept.saturating_add(1);
    }
    close_from(first, Some(u32::MAX))
}

/// Closes `first` to `last`, when that is not nothing.
fn close_from(first: u32, last: Option<u32>) -> Result<(), StepError> {
    match last {
        Some(last) if last >= first => {
            sys::close_range(first, last).map_err(StepError::system("close inherited descriptors"))
        }
        Some(_) | None => Ok(()),
    }
}

/// Proves that exactly 0, 1, 2 and `listed` are open, by asking for every number that can be.
///
/// By number and not through `/proc`, which is out of reach by then. Numbers at or above the limit can only be ones that were
/// inherited, and `kept` names those.
pub(crate) fn verify(listed: &[Descriptor], kept: &[RawFd]) -> Result<(), DescriptorsError> {
    let allowed: BTreeSet<RawFd> = [0, 1, 2]
        .into_iter()
        .chain(listed.iter().map(|descriptor| descriptor.number))
        .collect();
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
    let end = RawFd::try_from(limit)
        .ok()
        .filter(|_| limit <= SCAN_LIMIT)
        .ok_or(DescriptorsError::TooMany(limit))?;

    let unlisted: Vec<RawFd> = (0..end)
        .chain(kept.iter().copied().filter(|number| *number >= end))
        .filter(|number| !allowed.contains(number) && sys::is_open(*number))
        .collect();
    if !unlisted.is_empty() {
        return Err(DescriptorsError::Unlisted(unlisted));
    }
    let closed: Vec<RawFd> = allowed.into_iter().filter(|number| !sys::is_open(*number)).collect();
    if closed.is_empty() {
        Ok(())
    } else {
        Err(DescriptorsError::NotOpen(closed))
    }
}

/// The standard streams, for the report.
pub(crate) fn standard_streams() -> [Descriptor; 3] {
    ["standard input, /dev/null", "standard output", "standard error"]
        .map(str::to_owned)
        .into_iter()
        .zip(0..)
        .map(|(what, number)| Descriptor { number, what })
        .collect::<Vec<_>>()
        .try_into()
        .expect("three names make three descriptors")
}
