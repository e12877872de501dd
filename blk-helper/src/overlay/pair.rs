//! Two overlay files: one in use, and a spare one that is empty, so that a reset need not wait until a file system has taken back
//! what the first one holds.
//!
//! Taking back can last minutes (ext4 mounted with `discard` and without a journal waits for each extent). A reset that comes in
//! the meantime stays with the file in use: what is in its slots is of no meaning any more, since no cluster names them, and a slot
//! is written whole before one does.

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

    /// Turns to the other one, if that is empty; the first is then to be emptied. Nobody may be using it.
    pub(super) fn turn_if_ready(&self) {
        if self.spare_is_ready.swap(false, Ordering::AcqRel) {
            self.in_use.fetch_xor(1, Ordering::AcqRel);
        }
    }

    /// Empties the one that is not in use, however long that takes.
    ///
    /// # Errors
    /// What the kernel says. There is nothing to turn to then, until this is tried again with success.
    pub(super) fn empty_spare(&self) -> io::Result<()> {
        if self.spare_is_ready.load(Ordering::Acquire) {
            // Nothing to do; and it might be in use at any moment.
            return Ok(());
        }
        // From here to the end nobody turns, so that what is spare remains so.
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

#[cfg(test)]
mod tests {
    use super::super::OverlayDir;
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn it_turns_only_to_an_empty_file_and_never_empties_the_one_in_use() {
        let dir = OverlayDir {
            path: "/var/tmp".into(),
            named: true,
        };
        let pair = FilePair::new([(); 2].map(|()| OverlayFile::create(&dir).unwrap()));
        let in_use = || pair.as_fd().as_raw_fd();
        let length = || nix::sys::stat::fstat(&pair).unwrap().st_size;
        let first = in_use();
        ftruncate(&pair, 4096).unwrap();

        pair.turn_if_ready();
        let second = in_use();
        ftruncate(&pair, 8192).unwrap();
        pair.turn_if_ready();
        assert_eq!((in_use(), first == second), (second, false));

        pair.empty_spare().unwrap();
        pair.empty_spare().unwrap();
        assert_eq!(length(), 8192);
        pair.turn_if_ready();
        assert_eq!((in_use(), length()), (first, 0));
    }
}
