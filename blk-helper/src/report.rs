//! The report at READY: what is served, within which limits, and what confines the process, as the kernel says.

use crate::args::ReportFormat;
use crate::disk::Disk;
use crate::key_memory::KeyMemoryFacts;
use crate::overlay::{Limits, map_bytes, most_bytes};
use policy::Report;
use protocol::size::show;
use serde::Serialize;
use std::fmt;
use std::io::{self, Write};
use std::path::Path;

/// What holds for the overlay.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct OverlayFacts {
    directory: String,
    limit_bytes: u64,
    map_limit_bytes: u64,
    /// What the disk can grow to.
    disk_bytes_at_most: u64,
    /// What the map takes if every part of the disk is touched.
    map_worst_bytes: u64,
    encrypted: bool,
    /// Where the key is.
    key_memory: Option<KeyMemoryFacts>,
}

impl OverlayFacts {
    /// The facts of an overlay in `dir` within `limits`, for a disk of `disk_bytes`; encrypted if there is memory for a key.
    pub(crate) fn new(dir: &Path, limits: Limits, disk_bytes: u64, key_memory: Option<KeyMemoryFacts>) -> Self {
        Self {
            directory: dir.display().to_string(),
            limit_bytes: limits.overlay_bytes,
            map_limit_bytes: limits.map_bytes,
            map_worst_bytes: map_bytes(disk_bytes),
            disk_bytes_at_most: most_bytes(disk_bytes),
            encrypted: key_memory.is_some(),
            key_memory,
        }
    }

    /// The longest that a file can become: that of the overlay, which during a save has two slots for a cluster, of the largest
    /// disk there can be. What is saved of it is shorter.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.disk_bytes_at_most.saturating_mul(2)
    }
}

/// What holds for the disk.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct DiskFacts {
    bytes: u64,
    read_only: bool,
    /// Whether programs that take QEMU's image locks are kept from writing the base.
    base_locked: bool,
    queues: u16,
    queue_size: u16,
    workers: usize,
    overlay: Option<OverlayFacts>,
}

impl DiskFacts {
    /// The facts of `disk`, served by `workers` threads.
    pub(crate) fn new(
        disk: &Disk,
        overlay: Option<OverlayFacts>,
        (queues, queue_size): (u16, u16),
        workers: usize,
    ) -> Self {
        Self {
            bytes: disk.capacity().bytes(),
            read_only: disk.is_read_only(),
            base_locked: disk.medium().base().is_locked(),
            queues,
            queue_size,
            workers,
            overlay,
        }
    }

    /// Whether the overlay, if there is one, is encrypted.
    pub(crate) fn is_encrypted(&self) -> bool {
        self.overlay.as_ref().is_some_and(|overlay| overlay.encrypted)
    }
}

impl fmt::Display for DiskFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, {} queues, {} workers",
            show(self.bytes),
            self.queues,
            self.workers
        )?;
        let locked = if self.base_locked { "locked" } else { "NOT LOCKED" };
        write!(f, ", base {locked} against QEMU's writers")?;
        match &self.overlay {
            None => write!(f, ", read-only"),
            Some(overlay) => write!(
                f,
                ", overlay in {} up to {}, {}, map up to {}",
                overlay.directory,
                show(overlay.limit_bytes),
                match &overlay.key_memory {
                    None => "NOT ENCRYPTED".to_owned(),
                    Some(facts) => facts.to_string(),
                },
                show(overlay.map_limit_bytes)
            ),
        }
    }
}

/// The whole report.
#[derive(Debug, Serialize)]
pub(crate) struct HelperReport<'a> {
    pub(crate) version: &'static str,
    pub(crate) pid: u32,
    pub(crate) disk: &'a DiskFacts,
    pub(crate) confinement: &'a Report,
}

impl HelperReport<'_> {
    /// Prints it on standard output.
    ///
    /// # Errors
    /// When standard output does not take it.
    pub(crate) fn print(&self, format: ReportFormat) -> io::Result<()> {
        let mut text = match format {
            ReportFormat::Json => serde_json::to_string(self)?,
            ReportFormat::Text => format!("disk: {}\n{}", self.disk, self.confinement),
        };
        text.push('\n');
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()
    }
}
