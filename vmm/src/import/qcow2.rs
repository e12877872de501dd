//! One qcow2 image: what lies where on its disk, and the bytes of it. Knows nothing of other images.
//!
//! Two levels of tables lead from the disk to the file. One L2 table is held at a time, and a window of the L1 table; a
//! compressed cluster is kept unpacked until another one is needed, because who reads may take it in small pieces.

use super::error::ImportError;
use super::file::ImageFile;
use super::header::Header;
use super::packed::Unpacker;

/// Where an entry of either table points to.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

/// An L2 entry: a compressed cluster; one that reads as zeros.
const COMPRESSED: u64 = 1 << 62;
const ZERO: u64 = 1;

/// Bytes of the L1 table that are read at a time.
const L1_WINDOW: u64 = 64 << 10;

/// At most this many bytes are said to be the same at once (a larger cluster is, and what has no table): so that looking for
/// more of the same never costs more than the step that it makes possible.
const EXTENT_MAX: u64 = 1 << 20;

/// What some bytes of the disk are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// Nothing of this image: what it is based on shows through.
    Below,
    /// Zeros.
    Zero,
    /// They are in the file, from here.
    Data(u64),
    /// They are in a compressed cluster: its number, and its entry in the table.
    Packed { cluster: u64, entry: u64 },
}

/// Some bytes of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) what: What,
    pub(super) bytes: u64,
}

/// An image.
#[derive(Debug)]
pub(super) struct Qcow2 {
    file: ImageFile,
    pub(super) header: Header,
    l1: Held,
    l2: Held,
    /// The compressed cluster that is held unpacked.
    unpacked: Option<u64>,
    cluster: Vec<u8>,
    packed: Vec<u8>,
    unpacker: Unpacker,
}

/// Part of a table.
#[derive(Debug, Default)]
struct Held {
    at: Option<u64>,
    bytes: Vec<u8>,
}

impl Held {
    /// Makes sure that what lies at `at` of the file is held.
    fn hold(&mut self, file: &ImageFile, what: &str, at: u64, bytes: u64) -> Result<(), ImportError> {
        if self.at != Some(at) {
            self.at = None;
            self.bytes.resize(to_index(bytes), 0);
            file.read(what, at, &mut self.bytes)?;
            self.at = Some(at);
        }
        Ok(())
    }

    /// The entry with this number; there is none behind the end.
    fn entry(&self, index: u64) -> u64 {
        let at = to_index(index.saturating_mul(8));
        let entry = self.bytes.get(at..).and_then(|rest| rest.first_chunk());
        entry.copied().map_or(0, u64::from_be_bytes)
    }
}

/// A number of bytes that was bounded before: by a cluster, or a table.
fn to_index(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

impl Qcow2 {
    /// Reads the header of `file`; the disk may have `bytes_max` bytes.
    ///
    /// # Errors
    /// Those of [`Header::read`].
    pub(super) fn open(file: ImageFile, bytes_max: u64) -> Result<Self, ImportError> {
        let header = Header::read(&file, bytes_max)?;
        Ok(Self {
            file,
            header,
            l1: Held::default(),
            l2: Held::default(),
            unpacked: None,
            cluster: Vec::new(),
            packed: Vec::new(),
            unpacker: Unpacker::new(),
        })
    }

    fn cluster_bytes(&self) -> u64 {
        1 << self.header.cluster_bits
    }

    fn damaged(&self, what: &str) -> ImportError {
        self.file.which.refused(format!("is damaged: {what}"))
    }

    /// What lies at `at` of the disk, and for how many bytes, `most` at most.
    ///
    /// # Errors
    /// A table cannot be read or makes no sense.
    pub(super) fn extent(&mut self, at: u64, most: u64) -> Result<Extent, ImportError> {
        let reach = self.header.l2_reach_bits();
        let in_reach = at & !(u64::MAX << reach);
        let most = most.min((1 << reach) - in_reach);
        let l2_at = self.l1_entry(at >> reach)? & OFFSET;
        if l2_at == 0 {
            return Ok(Extent {
                what: What::Below,
                bytes: most,
            });
        }
        if !l2_at.is_multiple_of(self.cluster_bytes()) {
            return Err(self.damaged("a table does not begin where a cluster does"));
        }
        let bytes = self.cluster_bytes();
        self.l2.hold(&self.file, "a table", l2_at, bytes)?;

        let first = self.at_cluster(at)?;
        let mut extent = first;
        let most_alike = most.min(EXTENT_MAX);
        while extent.bytes < most_alike {
            let next = self.at_cluster(at.saturating_add(extent.bytes))?;
            let follows = match (first.what, next.what) {
                (What::Data(host), What::Data(next)) => host.saturating_add(extent.bytes) == next,
                (What::Below, What::Below) | (What::Zero, What::Zero) => true,
                (What::Data(_) | What::Below | What::Zero | What::Packed { .. }, _) => false,
            };
            if !follows {
                break;
            }
            extent.bytes = extent.bytes.saturating_add(next.bytes);
        }
        extent.bytes = extent.bytes.min(most);
        Ok(extent)
    }

    fn l1_entry(&mut self, index: u64) -> Result<u64, ImportError> {
        let at = index.saturating_mul(8);
        let window = at - at % L1_WINDOW;
        let from = self.header.l1_at.saturating_add(window);
        self.l1.hold(&self.file, "the first table", from, L1_WINDOW)?;
        Ok(self.l1.entry((at - window) / 8))
    }

    /// What the held L2 table says of the cluster at `at` of the disk, from there to its end.
    fn at_cluster(&self, at: u64) -> Result<Extent, ImportError> {
        let cluster_bytes = self.cluster_bytes();
        let inside = at % cluster_bytes;
        let cluster = at >> self.header.cluster_bits;
        let entry = self.l2.entry(cluster % (cluster_bytes / 8));
        let host = entry & OFFSET;
        let what = if entry & COMPRESSED != 0 {
            What::Packed { cluster, entry }
        } else if entry & ZERO != 0 && self.header.version == 2 {
            return Err(self.damaged("it has a cluster of zeros, which version 2 does not know"));
        } else if entry & ZERO != 0 {
            What::Zero
        } else if host == 0 {
            What::Below
        } else if host.is_multiple_of(cluster_bytes) {
            // Each of those that are read at once: only of the last one QEMU itself may leave out zeros at the end.
            self.file.reaches("data", host)?;
            What::Data(host.saturating_add(inside))
        } else {
            return Err(self.damaged("data does not begin where a cluster does"));
        };
        Ok(Extent {
            what,
            bytes: cluster_bytes - inside,
        })
    }

    /// Reads what [`Qcow2::extent`] found at `at` of the disk.
    ///
    /// # Errors
    /// It lies outside of the file, cannot be read, or does not decompress.
    pub(super) fn read(&mut self, what: What, at: u64, into: &mut [u8]) -> Result<(), ImportError> {
        match what {
            What::Below | What::Zero => into.fill(0),
            What::Data(host) => self.file.read("data", host, into)?,
            What::Packed { cluster, entry } => {
                if self.unpacked != Some(cluster) {
                    self.unpack(cluster, entry)?;
                }
                let from = to_index(at % self.cluster_bytes());
                let bytes = self.cluster.get(from..).and_then(|rest| rest.get(..into.len()));
                into.copy_from_slice(bytes.expect("an extent ends where its cluster does"));
            }
        }
        Ok(())
    }

    /// Unpacks a cluster. The entry says where it begins, to the byte, and in which 512-byte sector of the file it ends, which
    /// the file need not fill. Nothing is made up for what it lacks: zeros may happen to make sense.
    fn unpack(&mut self, cluster: u64, entry: u64) -> Result<(), ImportError> {
        let bits = self.header.cluster_bits;
        let offset_bits = 62_u32.saturating_sub(bits.saturating_sub(8));
        let begin = entry & !(u64::MAX << offset_bits);
        let more_sectors = (entry >> offset_bits) & !(u64::MAX << bits.saturating_sub(8));
        let bytes = (more_sectors.saturating_add(1) << 9) - (begin & 511);
        self.unpacked = None;
        let there = self.file.length().saturating_sub(begin);
        self.packed.resize(to_index(bytes.min(there)), 0);
        self.cluster.resize(to_index(self.cluster_bytes()), 0);
        self.file.read("compressed data", begin, &mut self.packed)?;
        self.unpacker
            .unpack(self.header.compression, &self.packed, &mut self.cluster)
            .map_err(|why| self.damaged(&format!("the compressed data at byte {begin} does not unpack: {why}")))?;
        self.unpacked = Some(cluster);
        Ok(())
    }
}
