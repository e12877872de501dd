//! Keeping writers away from a base in use, in the one way that other programs respect: QEMU's image locks.
//!
//! QEMU (and qemu-img, and libvirt through them) locks single bytes of an image with open-file-description locks: byte
//! 100 + p while it uses permission p, byte 200 + p while it does not let others use p. Readers hold no byte that
//! conflicts with ours, so any number of them share a base with us; a writer is refused, on either side, whoever comes
//! first. It is advice: a program that does not ask is not stopped.

use nix::fcntl::{FcntlArg, fcntl};
use std::fs::File;

/// QEMU's permission numbers (include/block/block-common.h, BLK_PERM_*).
const WRITE: libc::off_t = 1;
const RESIZE: libc::off_t = 3;
const USED: libc::off_t = 100;
const UNSHARED: libc::off_t = 200;

/// What came of it.
pub(super) enum Lock {
    /// Writers that ask are refused until the descriptor is closed.
    Held,
    /// The file system has no such locks.
    Unavailable,
    /// Somebody writes it now.
    WriterPresent,
}

/// Tells writers to stay away, unless one is there already.
pub(super) fn keep_writers_out(base: &File) -> Lock {
    for permission in [WRITE, RESIZE] {
        let mine = byte(libc::F_RDLCK, UNSHARED + permission);
        if fcntl(base, FcntlArg::F_OFD_SETLK(&mine)).is_err() {
            return Lock::Unavailable;
        }
        let mut theirs = byte(libc::F_WRLCK, USED + permission);
        match fcntl(base, FcntlArg::F_OFD_GETLK(&mut theirs)) {
            Ok(_) if i32::from(theirs.l_type) == libc::F_UNLCK => {}
            Ok(_) => return Lock::WriterPresent,
            Err(_) => return Lock::Unavailable,
        }
    }
    Lock::Held
}

fn byte(kind: libc::c_int, offset: libc::off_t) -> libc::flock {
    libc::flock {
        l_type: libc::c_short::try_from(kind).unwrap_or_default(),
        l_whence: libc::c_short::try_from(libc::SEEK_SET).unwrap_or_default(),
        l_start: offset,
        l_len: 1,
        // Open-file-description locks demand that this is zero.
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_takes_no_lock_is_told_from_one_that_does() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let readable = File::open(file.path()).unwrap();
        assert!(matches!(keep_writers_out(&readable), Lock::Held));
        // The kernel gives a reader's lock only to who can read.
        let unreadable = File::options().write(true).open(file.path()).unwrap();
        assert!(matches!(keep_writers_out(&unreadable), Lock::Unavailable));
    }
}
