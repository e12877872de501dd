//! Two overlay files: one in use, and a spare one that is empty, so that a reset need not wait until a file system has taken back
//! what the first one holds.

use super::store::OverlayFile;
use nix::unistd::ftruncate;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The pair. To most it is the file in use.
#[derive(Debug)]
pub(super) struct FilePair {
    files: [OverlayFile; 2],
    in_use: AtomicUsize,
    /// Whether the other one is empty.
    spare_is_ready: AtomicBool,
}

impl FilePair {
    pub(super) fn new(files: [OverlayFile; 2]) -> Self {
        Self {
            files,
            in_use: AtomicUsize::new(0),
            spare_is_ready: AtomicBool::new(true),
        }
    }

    /// Both.
    pub(super) fn both(&self) -> &[OverlayFile; 2] {
        &self.files
    }

    /// Whether there is an empty one to turn to.
    pub(super) fn can_turn(&self) -> bool {
        self.spare_is_ready.load(Ordering::Acquire)
    }

    /// Turns to the other one; the first is then to be emptied. Nobody may be using it.
    pub(super) fn turn(&self) {
        self.spare_is_ready.store(false, Ordering::Release);
        self.in_use.fetch_xor(1, Ordering::AcqRel);
    }

    /// Empties the one that is not in use, however long that takes.
    ///
    /// # Errors
    /// What the kernel says. There is nothing to turn to then.
    pub(super) fn empty_spare(&self) -> io::Result<()> {
        let [first, second] = &self.files;
        let spare = if self.in_use.load(Ordering::Acquire) == 0 {
            second
        } else {
            first
        };
        ftruncate(spare, 0)?;
        self.spare_is_ready.store(true, Ordering::Release);
        Ok(())
    }
}

impl Deref for FilePair {
    type Target = OverlayFile;

    fn deref(&self) -> &OverlayFile {
        let [first, second] = &self.files;
        if self.in_use.load(Ordering::Relaxed) == 0 {
            first
        } else {
            second
        }
    }
}

impl AsFd for FilePair {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.deref().as_fd()
    }
}
