//! An empty, read-only root: a tmpfs of one inode becomes `/`, and everything that was mounted before is let go.
//!
//! Proved by listing `/` and by asking whether it is writable. Needs the mount namespace; without it nothing here is tried,
//! because the mounts would be the host's.

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{chdir, pivot_root};
use std::path::Path;

use crate::report::Layer;

/// Directories of which every system has one; the tmpfs covers it for a moment.
const MOUNT_POINTS: [&str; 5] = ["/tmp", "/var", "/usr", "/proc", "/dev"];

/// One inode, the root directory itself, and nothing to write to.
const OPTIONS: &str = "size=4k,nr_inodes=1,mode=0555";

/// Enters the empty root and says what `/` is afterwards.
pub(crate) fn enter(own_mounts: bool) -> Layer {
    let result = if own_mounts {
        pivot()
            .map_err(|(doing, errno)| format!("not permitted to {doing}: {errno}"))
            .and_then(|()| read_back())
    } else {
        Err("needs the mount namespace".to_owned())
    };
    Layer::where_permitted("empty root", result)
}

/// A failed system call and what it was for.
type Failure = (&'static str, Errno);

/// Mounts the tmpfs, makes it the root and lets go of the old one.
fn pivot() -> Result<(), Failure> {
    let point = MOUNT_POINTS
        .into_iter()
        .find(|path| Path::new(path).is_dir())
        .ok_or(("find a directory to mount on", Errno::ENOENT))?;
    let still = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY;

    // Nothing that we mount may travel back to the host.
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
        .map_err(|errno| ("make the mounts private", errno))?;
    mount(Some("none"), point, Some("tmpfs"), still, Some(OPTIONS))
        .map_err(|errno| ("mount an empty file system", errno))?;
    chdir(point).map_err(|errno| ("enter the empty file system", errno))?;
    // The old root lands on top of the new one, at the same place, so no directory is needed to put it in.
    pivot_root(".", ".").map_err(|errno| ("change the root", errno))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(|errno| ("let go of the old root", errno))?;
    chdir("/").map_err(|errno| ("enter the new root", errno))
}

/// What `/` is now.
fn read_back() -> Result<String, String> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut root =
        Dir::open("/", flags, Mode::empty()).map_err(|errno| format!("cannot list the new root: {errno}"))?;
    let entries = root
        .iter()
        .flatten()
        .filter(|entry| !matches!(entry.file_name().to_bytes(), b"." | b".."))
        .count();
    let read_only = statvfs("/")
        .map_err(|errno| format!("cannot examine the new root: {errno}"))?
        .flags()
        .contains(FsFlags::ST_RDONLY);
    if entries == 0 && read_only {
        Ok("/ has no entries and is read-only".to_owned())
    } else {
        Err(format!("/ has {entries} entries, read-only: {read_only}"))
    }
}
