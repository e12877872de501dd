//! A control socket as its helper made it, to be told from what has its name later: whoever finds a dead socket there replaces it
//! with one of his own, which is not ours to remove.

use crate::channel::{Channel, ChannelError};
use nix::errno::Errno;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// A socket with a name. The time is that of its making, which neither a connection nor a change of mode or owner moves: an inode
/// alone may be given out again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SocketIdentity {
    device: u64,
    inode: u64,
    made: (i64, i64),
}

impl SocketIdentity {
    /// The socket at `path`, if there is one.
    pub(crate) fn at(path: &Path) -> Option<Self> {
        let info = path.symlink_metadata().ok()?;
        info.file_type().is_socket().then(|| Self {
            device: info.dev(),
            inode: info.ino(),
            made: (info.mtime(), info.mtime_nsec()),
        })
    }

    /// The socket at `path`, if it was not there `before` and nobody serves it.
    pub(crate) fn left_at(path: &Path, before: Option<Self>) -> Option<Self> {
        let there = Self::at(path).filter(|there| Some(*there) != before)?;
        let reached = Channel::connect(path, None);
        matches!(reached, Err(ChannelError::Unreachable(Errno::ECONNREFUSED))).then_some(there)
    }

    /// Removes the name, if it leads to this socket still.
    pub(crate) fn remove(self, path: &Path) {
        if Self::at(path) == Some(self) {
            // Where it fails, the next one replaces it.
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;

    #[test]
    fn only_the_socket_that_was_made_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ctl");
        assert_eq!(SocketIdentity::at(&path), None);
        let first = UnixListener::bind(&path).unwrap();
        let bound = SocketIdentity::at(&path).unwrap();

        fs::set_permissions(&path, fs::Permissions::from_mode(0o660)).unwrap();
        bound.remove(&path);
        assert!(!path.exists());

        // The first inode is in use no more, so that this one may get its number.
        drop(first);
        let _second = UnixListener::bind(&path).unwrap();
        // Both may have been made within one tick of the file system's clock.
        let later = Timespec {
            tv_sec: bound.made.0 + 1,
            tv_nsec: bound.made.1,
        };
        let times = Timestamps {
            last_access: later,
            last_modification: later,
        };
        utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        bound.remove(&path);
        assert!(path.exists(), "somebody else's");
        fs::remove_file(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        bound.remove(&path);
        assert_eq!(SocketIdentity::at(&path), None);
        assert!(path.exists(), "somebody's file");
    }
}
