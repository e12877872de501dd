//! File systems of a test's own: small, and quiet enough that every block that comes and goes is the test's.
//!
//! They need root; an ordinary user's tests use `/dev/shm` or a mount namespace of the helper's instead.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statvfs::statvfs;
use nix::unistd::syncfs;

/// How long an unmounting waits for a process that is just ending.
const BUSY: Duration = Duration::from_secs(10);

/// A file system with files on a medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Blocks are overwritten in place; a journal for names and sizes.
    Ext4,
    /// As ext4, and files can share blocks.
    Xfs,
    /// Nothing is overwritten in place, and files can share blocks.
    Btrfs,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ext4, Self::Xfs, Self::Btrfs];

    /// What makes one, and with which options.
    const fn maker(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::Ext4 => ("mkfs.ext4", &["-q", "-E", "lazy_itable_init=0"]),
            Self::Xfs => ("mkfs.xfs", &["-q"]),
            Self::Btrfs => ("mkfs.btrfs", &["-q"]),
        }
    }

    /// Makes one in the new file `image`, sparse; 320 MiB is the least that they all agree to.
    ///
    /// # Panics
    ///
    /// If the image cannot be written, or the program is missing (make deps).
    pub fn make(self, image: &Path, mebibytes: u64) {
        fs::File::create_new(image)
            .and_then(|file| file.set_len(mebibytes << 20))
            .expect("the image can be written");
        let (program, options) = self.maker();
        let made = Command::new(program).args(options).arg(image).output();
        let made = made.unwrap_or_else(|error| panic!("{program} (make deps installs it): {error}"));
        assert!(made.status.success(), "{program}: {made:?}");
    }
}

/// From here on, what this thread (and what it starts) mounts is mounted for nobody else, and is gone when they are, whatever
/// ends them. So no process of another test keeps such a file system busy.
///
/// # Panics
///
/// If the caller is not root.
pub fn for_this_thread_only() {
    unshare(CloneFlags::CLONE_NEWNS).expect("root may have mounts of its own");
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )
    .expect("root may keep mounts to itself");
}

/// A mounted file system, unmounted at the end.
#[derive(Debug)]
pub struct Mounted {
    at: PathBuf,
}

impl Mounted {
    /// A tmpfs of `size` (as mount's option) over the directory `at`.
    ///
    /// # Panics
    ///
    /// If the caller is not root.
    #[must_use]
    pub fn tmpfs(at: &Path, size: &str) -> Self {
        let options = format!("size={size},mode=777");
        mount(
            Some("none"),
            at,
            Some("tmpfs"),
            MsFlags::empty(),
            Some(options.as_str()),
        )
        .expect("root may mount a tmpfs");
        Self { at: at.to_owned() }
    }

    /// An ext4 of `mebibytes` in the file `image`, over the directory `at`; none where there are no loop devices.
    ///
    /// # Panics
    ///
    /// If the image cannot be written.
    #[must_use]
    pub fn ext4(image: &Path, mebibytes: u64, at: &Path) -> Option<Self> {
        Kind::Ext4.make(image, mebibytes);
        Self::image(image, at)
    }

    /// The file system in the file `image`, over the directory `at`; none where there are no loop devices. What is freed in it
    /// keeps its bytes: nothing tells the medium.
    ///
    /// # Panics
    ///
    /// If its mode cannot be set.
    #[must_use]
    pub fn image(image: &Path, at: &Path) -> Option<Self> {
        let mounted = Command::new("mount")
            .args(["-o", "loop,nodiscard"])
            .arg(image)
            .arg(at)
            .output()
            .ok()?;
        if !mounted.status.success() {
            return None;
        }
        // Whoever the helper becomes; it opens the overlay before, but the directory need not depend on that.
        fs::set_permissions(at, fs::Permissions::from_mode(0o777)).expect("root may set modes");
        Some(Self { at: at.to_owned() })
    }

    /// Puts on the medium whatever is in memory only.
    ///
    /// # Panics
    ///
    /// If the medium fails.
    pub fn sync(&self) {
        fs::File::open(&self.at)
            .and_then(|dir| Ok(syncfs(dir)?))
            .expect("a mounted file system can be synced");
    }

    /// Unmounts it, for real: when this returns, the image is all there is.
    ///
    /// # Panics
    ///
    /// If somebody keeps it busy.
    pub fn unmount(self) {
        let begun = Instant::now();
        while let Err(errno) = umount2(&self.at, MntFlags::empty()) {
            assert!(errno == Errno::EBUSY && begun.elapsed() < BUSY, "unmounting: {errno}");
            std::thread::sleep(Duration::from_millis(5));
        }
        std::mem::drop(self);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Detached: a helper that is just ending may still hold its overlay. Fails where `unmount` did it.
        let _ = umount2(&self.at, MntFlags::MNT_DETACH);
    }
}

/// Bytes that are free in the file system of `path`.
///
/// # Panics
///
/// If there is none.
#[must_use]
pub fn free_bytes(path: &Path) -> u64 {
    let info = statvfs(path).expect("a directory of ours");
    info.blocks_free() * info.fragment_size()
}
