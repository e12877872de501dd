//! A qcow2 file with what the guest changed, over the base: version 3, with clusters as large as ours, so that a change never has
//! to be completed with what the base has.
//!
//! It is written in one go, in the order in which the disk is read: clusters of data, and behind those of 2 MiB of the disk the
//! table that says where they are (L2). The table of these tables (L1) lies at the beginning and is written page by page.
//! Every cluster of the file is used exactly once, so the reference counts, at the end, are all 1. The header comes last: until
//! then the file is no qcow2 file, whatever happens.
//!
//! Format: QEMU's docs/interop/qcow2.txt. Numbers are big-endian.

use super::output::Output;
use super::{SaveError, SaveRefusal, Sink};
use crate::overlay::{CLUSTER, CLUSTER_BYTES, Frozen, FrozenRun};
use protocol::formats::QCOW2_MAGIC;
use std::io;

/// Entries of a table that fills a cluster.
const ENTRIES: u64 = CLUSTER_BYTES / 8;

/// Bytes of the disk that an L2 table describes.
const TABLE_COVERS: u64 = ENTRIES * CLUSTER_BYTES;

/// The largest disk: QEMU reads at most 32 MiB of L1 table.
const MOST_BYTES: u64 = (32 << 20) / 8 * TABLE_COVERS;

/// References that a cluster of counts (16 bits each) is about.
const COUNTS: u64 = CLUSTER_BYTES / 2;

/// The longest name of a backing file.
const MOST_NAME_BYTES: usize = 1023;

/// The cluster that is referred to is used nowhere else.
const COPIED: u64 = 1 << 63;

/// In an L2 table: reads as zeros, whatever the backing file has.
const READS_ZERO: u64 = 1;

/// A table, or a page of one, that is being filled.
struct Table {
    bytes: Box<[u8; CLUSTER]>,
    is_empty: bool,
}

impl Table {
    fn new() -> Self {
        Self {
            bytes: Box::new([0; CLUSTER]),
            is_empty: true,
        }
    }

    /// Sets the entry `index`, counted from anywhere: tables follow each other.
    fn set(&mut self, index: u64, entry: u64) {
        let at = usize::try_from(index % ENTRIES * 8).unwrap_or(0);
        if let Some(place) = self.bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
            *place = entry.to_be_bytes();
            self.is_empty = false;
        }
    }

    /// What it holds, if that is something; it is empty afterwards.
    fn take(&mut self) -> Option<Self> {
        (!self.is_empty).then(|| std::mem::replace(self, Self::new()))
    }
}

/// A file that is being written.
pub(super) struct Delta<'a> {
    output: &'a Output,
    backing: &'a str,
    disk_bytes: u64,
    /// Clusters of the file that are used.
    used: u64,
    l2: Table,
    /// Which L2 table that is.
    l2_index: u64,
    l1: Table,
    /// Which page of the L1 table that is.
    l1_page: u64,
}

impl<'a> Delta<'a> {
    /// A file for a disk of `disk_bytes` over the file that is called `backing`.
    pub(super) fn begin(output: &'a Output, backing: &'a str, disk_bytes: u64) -> Self {
        let l1_clusters = disk_bytes.div_ceil(TABLE_COVERS).div_ceil(ENTRIES);
        Self {
            output,
            backing,
            disk_bytes,
            // The header, and the L1 table.
            used: l1_clusters.saturating_add(1),
            l2: Table::new(),
            l2_index: 0,
            l1: Table::new(),
            l1_page: 0,
        }
    }

    /// Appends clusters and says where they are.
    fn append(&mut self, content: &[u8]) -> io::Result<u64> {
        let at = self.used.saturating_mul(CLUSTER_BYTES);
        self.output.write(at, content)?;
        let clusters = u64::try_from(content.len()).unwrap_or(u64::MAX).div_ceil(CLUSTER_BYTES);
        self.used = self.used.saturating_add(clusters);
        Ok(at)
    }

    /// Sets entries for the disk from `start` on, one for each that `entries` gives. All are for one L2 table.
    fn map(&mut self, start: u64, entries: impl Iterator<Item = u64>) -> io::Result<()> {
        if start / TABLE_COVERS != self.l2_index {
            self.end_l2()?;
            self.l2_index = start / TABLE_COVERS;
        }
        for (index, entry) in (start / CLUSTER_BYTES..).zip(entries) {
            self.l2.set(index, entry);
        }
        Ok(())
    }

    /// Writes the L2 table, if there is something in it.
    fn end_l2(&mut self) -> io::Result<()> {
        let Some(table) = self.l2.take() else {
            return Ok(());
        };
        let at = self.append(&table.bytes[..])?;
        if self.l2_index / ENTRIES != self.l1_page {
            self.end_l1_page()?;
            self.l1_page = self.l2_index / ENTRIES;
        }
        self.l1.set(self.l2_index, at | COPIED);
        Ok(())
    }

    fn end_l1_page(&mut self) -> io::Result<()> {
        let at = self.l1_page.saturating_add(1).saturating_mul(CLUSTER_BYTES);
        match self.l1.take() {
            None => Ok(()),
            Some(page) => self.output.write(at, &page.bytes[..]),
        }
    }

    /// Appends the counts of all clusters, their own included, behind the table of them; says where that is, and how long.
    fn count(&mut self) -> io::Result<(u64, u64)> {
        let (mut blocks, mut tables) = (0, 0);
        loop {
            let all = self.used.saturating_add(blocks).saturating_add(tables);
            let needed = (all.div_ceil(COUNTS), all.div_ceil(COUNTS).div_ceil(ENTRIES));
            if needed == (blocks, tables) {
                break;
            }
            (blocks, tables) = needed;
        }
        let table_at = self.used.saturating_mul(CLUSTER_BYTES);
        let all = self.used.saturating_add(blocks).saturating_add(tables);
        let first_block = self.used.saturating_add(tables);
        for page in 0..tables {
            let mut table = Table::new();
            for block in (page * ENTRIES..blocks).take(CLUSTER / 8) {
                table.set(block, first_block.saturating_add(block).saturating_mul(CLUSTER_BYTES));
            }
            self.append(&table.bytes[..])?;
        }
        for block in 0..blocks {
            let counted = all.saturating_sub(block * COUNTS).min(COUNTS);
            let mut counts = 1u16.to_be_bytes().repeat(usize::try_from(counted).unwrap_or(0));
            counts.resize(CLUSTER, 0);
            self.append(&counts)?;
        }
        Ok((table_at, tables))
    }

    fn header(&self, (counts_at, counts_clusters): (u64, u64)) -> Vec<u8> {
        /// Bytes of the header proper.
        const LENGTH: u32 = 104;
        const BACKING_FORMAT: u32 = 0xe279_2aca;
        /// Where the backing file's name is: behind the header, its format ("raw", filled up to 8 bytes) and the end mark.
        const NAME_AT: u64 = 104 + 16 + 8;
        let l1_entries = self.disk_bytes.div_ceil(TABLE_COVERS);
        let short = |number: u64| u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes();
        let name_bytes = u64::try_from(self.backing.len()).unwrap_or(u64::MAX);
        let parts: [&[u8]; 23] = [
            &QCOW2_MAGIC,
            &3u32.to_be_bytes(),
            &NAME_AT.to_be_bytes(),
            &short(name_bytes),
            &CLUSTER_BYTES.trailing_zeros().to_be_bytes(),
            &self.disk_bytes.to_be_bytes(),
            // Not encrypted.
            &[0; 4],
            &short(l1_entries),
            &CLUSTER_BYTES.to_be_bytes(),
            &counts_at.to_be_bytes(),
            &short(counts_clusters),
            // No snapshots inside; no features, of three kinds.
            &[0; 4],
            &[0; 8],
            &[0; 24],
            // Counts of 2^4 bits.
            &4u32.to_be_bytes(),
            &LENGTH.to_be_bytes(),
            &BACKING_FORMAT.to_be_bytes(),
            &3u32.to_be_bytes(),
            b"raw",
            &[0; 5],
            &[0; 4],
            &[0; 4],
            self.backing.as_bytes(),
        ];
        parts.concat()
    }
}

/// Why there can be no such file.
pub(super) fn check(backing: &str, disk_bytes: u64) -> Result<(), SaveRefusal> {
    if backing.is_empty() || backing.len() > MOST_NAME_BYTES {
        return Err(SaveRefusal::Name);
    }
    if disk_bytes > MOST_BYTES {
        return Err(SaveRefusal::TooLarge);
    }
    Ok(())
}

impl Sink for Delta<'_> {
    fn wants(&mut self, run: &FrozenRun) -> bool {
        matches!(run.holds, Frozen::Dirty(_))
    }

    fn take(&mut self, run: &FrozenRun, content: &mut [u8]) -> Result<(), SaveError> {
        let start = run.part.start();
        let at = self.append(content).map_err(SaveError::Write)?;
        let clusters = content.len().div_ceil(CLUSTER);
        let entries = (0u64..).map(|index| (at + index * CLUSTER_BYTES) | COPIED);
        self.map(start, entries.take(clusters)).map_err(SaveError::Write)
    }

    fn pass(&mut self, run: &FrozenRun) -> Result<(), SaveError> {
        if run.holds != Frozen::Zero {
            return Ok(());
        }
        let clusters = usize::try_from(run.part.len().div_ceil(CLUSTER_BYTES)).unwrap_or(0);
        self.map(run.part.start(), std::iter::repeat_n(READS_ZERO, clusters))
            .map_err(SaveError::Write)
    }

    fn finish(&mut self) -> Result<u64, SaveError> {
        let mut finish = || {
            self.end_l2()?;
            self.end_l1_page()?;
            let counts = self.count()?;
            // The last cluster is whole, also where the disk's is not: readers ask the file for whole clusters.
            let length = self.used.saturating_mul(CLUSTER_BYTES);
            self.output.set_length(length)?;
            self.output.write(0, &self.header(counts))?;
            Ok(length)
        };
        finish().map_err(SaveError::Write)
    }
}
