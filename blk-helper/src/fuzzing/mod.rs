//! The ways in for the fuzz targets (`tests/fuzz`), and compiled only for them: a disk with one queue, the vhost-user side, and the
//! control thread, in a process that is not confined.

mod frontend;
mod queue;

pub use crate::serve::fuzzing::Operators;
pub use frontend::Frontends;
pub use queue::{Guest, Layout};

use crate::base::{Base, BaseSource};
use crate::cipher::Cipher;
use crate::disk::{Disk, Medium};
use crate::events::Events;
use crate::overlay::{Limits, Overlay, OverlayDir, OverlayFile, Scratch};
use crate::shortage::Shortage;
use crate::throttle::Throttle;
use nix::sys::memfd::{MFdFlags, memfd_create};
use policy::{CapabilitySets, StepError, ThreadEvidence};
use protocol::control::{AtLimit, Rate};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// What every disk calls itself.
pub const SERIAL: [u8; 20] = *b"fuzzed disk\0\0\0\0\0\0\0\0\0";

/// Which disk.
#[derive(Clone, Copy, Debug)]
pub struct DiskSpec<'a> {
    /// The base.
    pub base: &'a [u8],
    /// Whether there is no overlay.
    pub read_only: bool,
    /// Whether the overlay is encrypted.
    pub encrypted: bool,
    /// Most bytes of the overlay.
    pub overlay_bytes: u64,
}

impl DiskSpec<'_> {
    pub(crate) fn disk(&self) -> (Disk, Arc<Events>) {
        let base = Base::open(BaseSource::Descriptor(reading(self.base).into()), true).expect("it is a file");
        let medium = if self.read_only {
            Medium::ReadOnly(base)
        } else {
            let dir = OverlayDir {
                path: std::env::temp_dir(),
                named: true,
            };
            let file = || OverlayFile::create(&dir).expect("there is a directory for temporary files");
            let limits = Limits {
                overlay_bytes: self.overlay_bytes,
                map_bytes: u64::MAX,
                keep_free_bytes: 0,
            };
            Medium::Burning(Overlay::new(base, [file(), file()], limits).expect("there is address space"))
        };
        let events = Arc::new(Events::new().expect("there are descriptors"));
        let shortage = Shortage::new(AtLimit::Error, Arc::clone(&events));
        let throttle = Throttle::new(Rate::UNLIMITED, Rate::UNLIMITED);
        (Disk::new(medium, SERIAL, throttle, shortage), events)
    }
}

/// A file with this content that can only be read.
fn reading(content: &[u8]) -> File {
    let file: File = memfd_create(c"base", MFdFlags::MFD_CLOEXEC)
        .expect("there are descriptors")
        .into();
    file.write_all_at(content, 0).expect("there is memory");
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).expect("there is /proc")
}

/// What `count` threads have of their own.
pub(crate) fn scratches(count: usize, encrypted: bool) -> Vec<Scratch> {
    if encrypted {
        let (ciphers, _) = Cipher::with_new_key(count).expect("memory can be locked");
        ciphers.into_iter().map(|cipher| Scratch::new(Some(cipher))).collect()
    } else {
        (0..count).map(|_| Scratch::new(None)).collect()
    }
}

/// In the place of [`policy::read_back_thread`]: a fuzz target is not confined.
#[expect(clippy::unnecessary_wraps, reason = "it stands for a function that fails")]
pub(crate) fn read_back_thread(name: &str) -> Result<ThreadEvidence, StepError> {
    Ok(ThreadEvidence {
        name: name.to_owned(),
        no_new_privs: false,
        seccomp_mode: 0,
        own_filter: false,
        capabilities: CapabilitySets {
            effective: 0,
            permitted: 0,
            inheritable: 0,
            ambient: 0,
            bounding: 0,
        },
        dumpable: true,
        opens_denied: false,
    })
}
