//! Where the demo happens: a directory on a disk, with an overlay directory in it and a place for loot, and the base.
//!
//! The base is the Debian image that `make images` keeps, used where it lies: that nobody writes to it is the point.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use tests::guest::Assets;

use crate::failure::Failure;

/// The size of an image to be committed to.
const GOLDEN_BYTES: u64 = 64 << 20;

/// The directories and files of one run.
#[derive(Debug, Clone)]
pub(crate) struct Workshop {
    dir: PathBuf,
    assets: Assets,
}

impl Workshop {
    /// Makes the directory, in `$TMPDIR` or else `/var/tmp`.
    pub(crate) fn open() -> Result<Self, Failure> {
        let assets = Assets::find().map_err(Failure::Guest)?;
        let parent = std::env::var_os("TMPDIR")
            .filter(|dir| !dir.is_empty())
            .map_or("/var/tmp".into(), PathBuf::from);
        let found = statfs(&parent).map_err(Failure::while_doing(format!("look at {}", parent.display())))?;
        if found.filesystem_type() == TMPFS_MAGIC {
            return Err(Failure::InMemory { dir: parent });
        }
        let moment = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |time| time.subsec_nanos());
        let dir = parent.join(format!("mayfly-demo-{}-{moment}", std::process::id()));
        let workshop = Self { dir, assets };
        for dir in [workshop.dir.clone(), workshop.overlay_dir(), workshop.loot()] {
            let made = DirBuilder::new().mode(0o755).create(&dir);
            made.map_err(Failure::while_doing(format!("make {}", dir.display())))?;
        }
        let golden = File::create_new(workshop.golden()).and_then(|golden| golden.set_len(GOLDEN_BYTES));
        golden.map_err(Failure::while_doing("make golden.raw"))?;
        // The thief is another user than we are when we are root, and must not fail for want of a place to put things.
        let open = fs::set_permissions(workshop.loot(), fs::Permissions::from_mode(0o777));
        open.map_err(Failure::while_doing("open the loot directory to everybody"))?;
        Ok(workshop)
    }

    /// What guests boot from.
    pub(crate) fn assets(&self) -> &Assets {
        &self.assets
    }

    /// What the disk begins with.
    pub(crate) fn base(&self) -> &Path {
        &self.assets.debian
    }

    /// Where overlays are made.
    pub(crate) fn overlay_dir(&self) -> PathBuf {
        self.dir.join("overlay")
    }

    /// Where a thief may write.
    pub(crate) fn loot(&self) -> PathBuf {
        self.dir.join("loot")
    }

    /// The directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A file in it.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// An image of the demo's own, which may be committed to.
    pub(crate) fn golden(&self) -> PathBuf {
        self.file("golden.raw")
    }

    /// Its device and inode.
    pub(crate) fn golden_identity(&self) -> Result<(u64, u64), Failure> {
        identity(&self.golden())
    }

    /// Where the helper of that disk takes orders.
    pub(crate) fn control(&self) -> PathBuf {
        self.file("vdb.ctl")
    }

    /// Where `mayfly run` writes what its processes report.
    pub(crate) fn report(&self) -> PathBuf {
        self.dir.join("report")
    }

    /// The names in the overlay directory.
    pub(crate) fn overlay_names(&self) -> Result<Vec<String>, Failure> {
        let dir = self.overlay_dir();
        let list = || -> std::io::Result<Vec<String>> {
            fs::read_dir(&dir)?
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect()
        };
        list().map_err(Failure::while_doing(format!("list {}", dir.display())))
    }

    /// What `sha256sum` says of the base, and when the base was changed last (seconds, nanoseconds).
    pub(crate) fn base_stamp(&self) -> Result<(String, (i64, i64)), Failure> {
        // It ends with us: it reads for seconds, and nobody would want its answer any more.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "sha256sum", "--"])
            .arg(self.base());
        let output = command.output();
        let output = output.map_err(Failure::while_doing("run sha256sum"))?;
        let said = String::from_utf8_lossy(&output.stdout);
        let (true, Some(sum)) = (output.status.success(), said.split_whitespace().next()) else {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(Failure::Program {
                program: "sha256sum",
                said,
            });
        };
        let metadata = metadata(self.base())?;
        Ok((sum.to_owned(), (metadata.mtime(), metadata.mtime_nsec())))
    }

    /// The base's length and the bytes that it occupies.
    pub(crate) fn base_size(&self) -> Result<(u64, u64), Failure> {
        let metadata = metadata(self.base())?;
        Ok((metadata.len(), metadata.blocks().saturating_mul(512)))
    }

    /// The base's device and inode.
    pub(crate) fn base_identity(&self) -> Result<(u64, u64), Failure> {
        identity(self.base())
    }

    /// The same of the kernel and its initial RAM disk.
    pub(crate) fn boot_identities(&self) -> Result<[(u64, u64); 2], Failure> {
        Ok([identity(&self.assets.kernel)?, identity(&self.assets.initramfs)?])
    }

    /// Removes the directory.
    pub(crate) fn clear(&self) {
        // What cannot be removed has no data in it, and the demo has said all it had to say.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn metadata(path: &Path) -> Result<fs::Metadata, Failure> {
    let metadata = fs::metadata(path);
    metadata.map_err(Failure::while_doing(format!("look at {}", path.display())))
}

fn identity(path: &Path) -> Result<(u64, u64), Failure> {
    let metadata = metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}
