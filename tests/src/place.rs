//! A place to run helpers in: a directory with a base image, an overlay directory and a socket path.
//!
//! Its end is part of every test: when a place is dropped, the base must have the bytes and the modification time it
//! began with, and the overlay directory must be empty. It knows files, not processes.

use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::helper::HelperBuilder;
use crate::rng::Rng;

/// What must not change about a base.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    digest: u64,
    len: u64,
    inode: u64,
    modified: (i64, i64),
    mode: u32,
}

/// A directory of its own, removed at the end.
#[derive(Debug)]
pub struct Place {
    dir: PathBuf,
    content: Vec<u8>,
    before: Stamp,
}

impl Place {
    /// A place whose base has these bytes.
    ///
    /// # Panics
    ///
    /// If the temporary directory cannot be written.
    #[must_use]
    pub fn with_base(content: &[u8]) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("mayfly-test-{}-{number}", std::process::id()));
        fs::create_dir(&dir).expect("the temporary directory can be written");
        fs::create_dir(dir.join("overlay")).expect("a fresh directory can be written");
        let base = dir.join("base.raw");
        fs::write(&base, content).expect("a fresh directory can be written");
        let before = stamp(&base);
        Self {
            dir,
            content: content.to_vec(),
            before,
        }
    }

    /// A place whose base is `len` bytes of noise, the same for the same seed.
    #[must_use]
    pub fn with_noise(len: usize, seed: u64) -> Self {
        Self::with_base(&Rng::new(seed).bytes(len))
    }

    /// A helper on this place, not started yet.
    #[must_use]
    pub fn helper(&self) -> HelperBuilder<'_> {
        HelperBuilder::new(self)
    }

    /// What the base contains.
    #[must_use]
    pub fn content(&self) -> &[u8] {
        &self.content
    }

    /// The directory of the place itself.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The base image.
    #[must_use]
    pub fn base(&self) -> PathBuf {
        self.dir.join("base.raw")
    }

    /// Where overlays are made.
    #[must_use]
    pub fn overlay_dir(&self) -> PathBuf {
        self.dir.join("overlay")
    }

    /// Where the helper listens.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.join("socket")
    }

    /// Where the helper takes orders, if it is told to.
    #[must_use]
    pub fn control(&self) -> PathBuf {
        self.dir.join("control")
    }

    /// Checks that nobody wrote to the base.
    ///
    /// # Panics
    ///
    /// If its bytes, length, mode, modification time or identity changed.
    pub fn assert_base_unchanged(&self) {
        assert_eq!(stamp(&self.base()), self.before, "the base image was changed");
    }

    /// Checks that no overlay has, or left, a name.
    ///
    /// # Panics
    ///
    /// If there is a file in the overlay directory.
    pub fn assert_nothing_left(&self) {
        let left: Vec<_> = fs::read_dir(self.overlay_dir())
            .expect("the overlay directory outlives its helpers")
            .map(|entry| entry.expect("a directory of ours can be listed").file_name())
            .collect();
        assert!(left.is_empty(), "files left in the overlay directory: {left:?}");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // A test that failed says why; a second panic here would only abort it.
        if !std::thread::panicking() {
            self.assert_base_unchanged();
            self.assert_nothing_left();
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn stamp(path: &Path) -> Stamp {
    let metadata = fs::metadata(path).expect("the base exists as long as its place");
    let bytes = fs::read(path).expect("the base can be read");
    let mut hasher = DefaultHasher::new();
    hasher.write(&bytes);
    Stamp {
        digest: hasher.finish(),
        len: metadata.len(),
        inode: metadata.ino(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        mode: metadata.mode(),
    }
}
