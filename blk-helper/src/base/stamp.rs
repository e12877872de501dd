//! What a file's status says of its content: whether somebody changed it.

use crate::sys::file_status;
use nix::errno::Errno;
use std::os::fd::AsFd;

/// The status at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    size: i64,
    modified: (i64, i64),
    /// When content or anything else of the file changed; nobody can set it back.
    changed: (i64, i64),
    /// What else there is to change: links, mode, owner.
    rest: (u64, u32, u32, u32),
}

impl Stamp {
    /// That of `file` now.
    ///
    /// # Errors
    /// Whatever the kernel says; an open file always answers.
    pub(super) fn of(file: &impl AsFd) -> Result<Self, Errno> {
        let status = file_status(file)?;
        Ok(Self {
            size: status.st_size,
            modified: (status.st_mtime, status.st_mtime_nsec),
            changed: (status.st_ctime, status.st_ctime_nsec),
            rest: (status.st_nlink, status.st_mode, status.st_uid, status.st_gid),
        })
    }

    /// Whether the content may be another than when `before` was taken. That somebody renamed, replaced or gave away the file is no
    /// sign of it; that its status changed and nothing of that explains it is: a time that was set back.
    pub(crate) fn tells_of_change(self, before: Self) -> bool {
        self.size != before.size
            || self.modified != before.modified
            || (self.changed != before.changed && self.rest == before.rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::os::unix::fs::PermissionsExt;
    use std::time::SystemTime;

    const BEFORE: Stamp = Stamp {
        size: 4096,
        modified: (100, 5),
        changed: (100, 5),
        rest: (1, 0o100_644, 0, 0),
    };

    #[test]
    fn what_can_come_with_other_content_tells_of_it() {
        for (after, tells) in [
            (BEFORE, false),
            (Stamp { size: 4097, ..BEFORE }, true),
            (
                Stamp {
                    modified: (100, 6),
                    ..BEFORE
                },
                true,
            ),
            (
                Stamp {
                    changed: (100, 6),
                    ..BEFORE
                },
                true,
            ),
            (
                Stamp {
                    changed: (100, 6),
                    rest: (0, 0o100_644, 0, 0),
                    ..BEFORE
                },
                false,
            ),
        ] {
            assert_eq!(after.tells_of_change(BEFORE), tells, "{after:?}");
        }
    }

    #[test]
    fn a_write_tells_and_so_does_one_whose_time_was_set_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("base");
        fs::write(&path, "old").unwrap();
        let long_ago = SystemTime::UNIX_EPOCH;
        let file = File::options().read(true).write(true).open(&path).unwrap();
        file.set_modified(long_ago).unwrap();
        let before = Stamp::of(&file).unwrap();
        // The kernel's clock for files ticks a few hundred times a second.
        std::thread::sleep(std::time::Duration::from_millis(30));

        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let renamed = Stamp::of(&file).unwrap();
        assert!(!renamed.tells_of_change(before));
        std::thread::sleep(std::time::Duration::from_millis(30));

        fs::write(&path, "new").unwrap();
        file.set_modified(long_ago).unwrap();
        assert!(Stamp::of(&file).unwrap().tells_of_change(renamed));
    }
}
