//! The place where everything is measured: a directory, and a base image whose pages are kept in memory or thrown out.
//!
//! Machines drop clean pages that nobody maps; so this program maps the base and touches it all, and `fincore` (which asks
//! `mincore`) must say that it is there, or nothing is measured.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering;

use ::tests::rng::Rng;
use rustix::fs::{Advice, fadvise};
use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory};

use crate::failure::Failure;

/// `PROT_READ` and `MAP_SHARED`, which vm-memory takes as numbers.
const READ: i32 = 1;
const SHARED: i32 = 1;

/// A directory and what is in it.
#[derive(Debug)]
pub(crate) struct Rig {
    dir: PathBuf,
}

impl Rig {
    /// A new directory in `parent`.
    pub(crate) fn new(parent: &Path) -> Result<Self, Failure> {
        let dir = parent.join(format!("mayfly-bench-{}", std::process::id()));
        fs::create_dir(&dir).map_err(Failure::while_doing(format!("make {}", dir.display())))?;
        Ok(Self { dir })
    }

    /// Where overlays go.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A file of `len` bytes of noise, on the medium.
    pub(crate) fn noise(&self, name: &str, len: u64) -> Result<PathBuf, Failure> {
        let path = self.dir.join(name);
        let doing = || format!("write {}", path.display());
        let mut file = File::create(&path).map_err(Failure::while_doing(doing()))?;
        // Each mebibyte is the same noise with another number in it: making gibibytes of noise takes long.
        let mut block = Rng::new(len).bytes(1 << 20);
        for number in 0..len >> 20 {
            block[..8].copy_from_slice(&number.to_le_bytes());
            file.write_all(&block).map_err(Failure::while_doing(doing()))?;
        }
        file.sync_all().map_err(Failure::while_doing(doing()))?;
        Ok(path)
    }

    /// A file of `len` bytes of nothing.
    pub(crate) fn sparse(&self, name: &str, len: u64) -> Result<PathBuf, Failure> {
        let path = self.dir.join(name);
        File::create(&path)
            .and_then(|file| file.set_len(len))
            .map_err(Failure::while_doing(format!("make {}", path.display())))?;
        Ok(path)
    }

    /// Removes all of it.
    pub(crate) fn clear(&self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A file held in the page cache.
#[derive(Debug)]
pub(crate) struct Warm {
    path: PathBuf,
    len: u64,
    mapping: MmapRegion<()>,
}

impl Warm {
    /// Maps all of it.
    pub(crate) fn hold(path: &Path) -> Result<Self, Failure> {
        let doing = || format!("map {}", path.display());
        let file = File::open(path).map_err(Failure::while_doing(doing()))?;
        let len = file.metadata().map_err(Failure::while_doing(doing()))?.len();
        let size = usize::try_from(len).expect("usize has 64 bits on every supported target");
        let mapping = MmapRegion::build(Some(FileOffset::new(file, 0)), size, READ, SHARED)
            .map_err(|error| Failure::Unfit(format!("cannot {}: {error}", doing())))?;
        let held = Self {
            path: path.to_owned(),
            len,
            mapping,
        };
        held.touch();
        Ok(held)
    }

    fn touch(&self) {
        let all = self.mapping.as_volatile_slice();
        for page in (0..self.mapping.size()).step_by(4096) {
            let byte: Result<u8, _> = all.load(page, Ordering::Relaxed);
            std::hint::black_box(byte.is_ok());
        }
    }

    /// Makes sure that every page is there.
    pub(crate) fn prove(&self) -> Result<(), Failure> {
        self.touch();
        let there = resident(&self.path)?;
        if there < self.len {
            let path = self.path.display();
            return Err(Failure::Unfit(format!(
                "only {there} of {} bytes of {path} stay in memory: the machine has too little of it",
                self.len
            )));
        }
        Ok(())
    }
}

/// Throws the pages of a file, which nobody may map, out of the page cache.
pub(crate) fn chill(path: &Path) -> Result<(), Failure> {
    let file = File::open(path).map_err(Failure::while_doing(format!("open {}", path.display())))?;
    fadvise(&file, 0, None, Advice::DontNeed).map_err(Failure::while_doing(format!("forget {}", path.display())))?;
    match resident(path)? {
        0 => Ok(()),
        there => Err(Failure::Unfit(format!(
            "{there} bytes of {} cannot be thrown out of memory",
            path.display()
        ))),
    }
}

/// How many bytes of a file are in the page cache.
fn resident(path: &Path) -> Result<u64, Failure> {
    let output = Command::new("fincore")
        .args(["--bytes", "--noheadings", "--output", "RES"])
        .arg(path)
        .output()
        .map_err(Failure::while_doing("run fincore"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    said.trim().parse().map_err(|_| Failure::Program {
        program: "fincore",
        said: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}
