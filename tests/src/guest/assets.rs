//! Where the guests' kernel, initramfs and disk are: made by `make images`, kept outside of the source tree.
//!
//! Knows the layout that `tests/guest/lib.sh` writes: one link per image in the cache directory.

use std::env;
use std::path::PathBuf;

use super::GuestError;

/// What guests boot from.
#[derive(Debug, Clone)]
pub struct Assets {
    /// Debian's stock cloud kernel.
    pub kernel: PathBuf,
    /// Busybox and the disk's modules; takes `root=DEVICE`, else gives a shell.
    pub initramfs: PathBuf,
    /// A raw ext4 disk with Debian and systemd. Never to be written: tests copy it or put an overlay over it.
    pub debian: PathBuf,
}

impl Assets {
    /// Finds them in `$MAYFLY_CACHE`, else `$XDG_CACHE_HOME/mayfly`, else `$HOME/.cache/mayfly`.
    ///
    /// # Errors
    ///
    /// If one is missing; the message says what to do.
    pub fn find() -> Result<Self, GuestError> {
        Ok(Self {
            kernel: cached("kernel/vmlinuz")?,
            initramfs: cached("initramfs/initramfs.cpio")?,
            debian: cached("debian/debian.raw")?,
        })
    }
}

/// The real path of a file in the cache, so that a running test keeps its version when a newer one is made.
///
/// # Errors
///
/// If it is not there.
pub(crate) fn cached(name: &str) -> Result<PathBuf, GuestError> {
    let path = cache_dir().join(name);
    path.canonicalize().map_err(|_| GuestError::NoAsset { path })
}

fn cache_dir() -> PathBuf {
    let from = |variable: &str| {
        env::var_os(variable)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    from("MAYFLY_CACHE").unwrap_or_else(|| {
        let home = || from("HOME").unwrap_or_default().join(".cache");
        from("XDG_CACHE_HOME").unwrap_or_else(home).join("mayfly")
    })
}
