//! File systems of a test's own: small, and quiet enough that every block that comes and goes is the test's.
//!
//! They need root; an ordinary user's tests use `/dev/shm` or a mount namespace of the helper's instead.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statvfs::statvfs;

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
        fs::File::create(image)
            .and_then(|file| file.set_len(mebibytes << 20))
            .expect("the image can be written");
        let made = Command::new("mkfs.ext4")
            .args(["-q", "-E", "lazy_itable_init=0"])
            .arg(image)
            .output()
            .ok()?;
        let mounted = Command::new("mount")
            .args(["-o", "loop"])
            .arg(image)
            .arg(at)
            .output()
            .ok()?;
        if !made.status.success() || !mounted.status.success() {
            return None;
        }
        // Whoever the helper becomes; it opens the overlay before, but the directory need not depend on that.
        fs::set_permissions(at, fs::Permissions::from_mode(0o777)).expect("root may set modes");
        Some(Self { at: at.to_owned() })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Detached: a helper that is just ending may still hold its overlay.
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
