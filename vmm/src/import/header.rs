//! A qcow2 header: what it says, and what of that is refused by name. Reads the file's first cluster and nothing else.

use super::error::ImportError;
use super::file::ImageFile;
use protocol::formats::QCOW2_MAGIC;
use protocol::size::show;

/// Length of a version 2 header, and where version 3's additions begin.
const V2_BYTES: usize = 72;

/// Least length of a version 3 header.
const V3_BYTES: usize = 104;

/// Cluster sizes as powers of two: the specification's least, QEMU's largest.
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;

/// The largest L1 table, in entries: QEMU's limit (32 MiB).
const L1_ENTRIES_MAX: u64 = (32 << 20) / 8;

/// The longest name of a backing file.
const NAME_MAX: u64 = 1023;

/// Header extensions: the end, the backing file's format, what an encrypted image has.
const EXT_END: u32 = 0;
const EXT_BACKING_FORMAT: u32 = 0xe279_2aca;
const EXT_ENCRYPTION: u32 = 0x0537_be77;

/// How compressed clusters are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    Deflate,
    Zstd,
}

/// What an image is based on, in its own words, which are for people only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Recorded {
    pub(super) name: String,
    pub(super) format: Option<String>,
}

/// A header that makes sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) cluster_bits: u32,
    /// Size of the disk: whole sectors, at least one.
    pub(super) disk_bytes: u64,
    pub(super) l1_at: u64,
    pub(super) compression: Compression,
    pub(super) backing: Option<Recorded>,
}

/// Numbers at offsets, all big-endian.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn bytes<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.0.get(at..at.checked_add(N)?)?.try_into().ok()
    }

    /// The number at `at`; 0 behind the end, where the specification has 0 for what a shorter header does not say.
    fn u32(&self, at: usize) -> u32 {
        self.bytes(at).map_or(0, u32::from_be_bytes)
    }

    fn u64(&self, at: usize) -> u64 {
        self.bytes(at).map_or(0, u64::from_be_bytes)
    }
}

impl Header {
    /// Reads and judges the header of `file`; the disk may have `bytes_max` bytes.
    ///
    /// # Errors
    /// It is no qcow2 image, or one that is not converted, or cannot be read.
    pub(super) fn read(file: &ImageFile, bytes_max: u64) -> Result<Self, ImportError> {
        let refuse = |what: String| Err(file.which.refused(what));
        let mut start = [0; V3_BYTES + 8];
        if file.length() > 0 {
            file.read("the header", 0, &mut start)?;
        }
        let fields = Fields(&start);
        if fields.bytes(0) != Some(QCOW2_MAGIC) {
            return refuse("is not a qcow2 image".to_owned());
        }
        let version = fields.u32(4);
        if !(2..=3).contains(&version) {
            return refuse(format!("has qcow2 version {version}; versions 2 and 3 are known"));
        }
        let cluster_bits = fields.u32(20);
        if !CLUSTER_BITS.contains(&cluster_bits) {
            return refuse(format!("is damaged: it says that a cluster has 2^{cluster_bits} bytes"));
        }
        match fields.u32(32) {
            0 => {}
            1 => return refuse("is encrypted (AES), and is not converted without its key".to_owned()),
            2 => return refuse("is encrypted (LUKS), and is not converted without its key".to_owned()),
            other => return refuse(format!("is encrypted in an unknown way ({other})")),
        }
        let length = if version == 2 { 72 } else { fields.u32(100) };
        let compression = if version == 2 {
            Compression::Deflate
        } else {
            judge_features(fields.u64(72)).map_err(|what| file.which.refused(what))?;
            check_v3(&fields, length, cluster_bits).map_err(|what| file.which.refused(what))?
        };
        let header = Self {
            version,
            cluster_bits,
            disk_bytes: fields.u64(24),
            l1_at: fields.u64(40),
            compression,
            backing: None,
        };
        header
            .check_disk(u64::from(fields.u32(36)), file.length(), bytes_max)
            .map_err(|what| file.which.refused(what))?;
        let backing = header.backing(file, length, (fields.u64(8), u64::from(fields.u32(16))))?;
        Ok(Self { backing, ..header })
    }

    /// How many bytes of the disk one L2 table describes, as a power of two.
    pub(super) const fn l2_reach_bits(&self) -> u32 {
        // An entry has 8 bytes, and both are at most 21.
        self.cluster_bits.saturating_add(self.cluster_bits.saturating_sub(3))
    }

    fn check_disk(&self, l1_entries: u64, file_bytes: u64, bytes_max: u64) -> Result<(), String> {
        let bytes = self.disk_bytes;
        if bytes == 0 || !bytes.is_multiple_of(512) {
            return Err(format!("is damaged: its disk has {bytes} bytes, which are no sectors"));
        }
        if bytes > bytes_max {
            return Err(format!(
                "has a disk of {}, and {} are allowed; give a larger --max-size if you trust it",
                show(bytes),
                show(bytes_max)
            ));
        }
        if l1_entries > L1_ENTRIES_MAX {
            return Err(format!("is damaged: its first table has {l1_entries} entries"));
        }
        let needed = bytes.div_ceil(1 << self.l2_reach_bits());
        if l1_entries < needed {
            return Err(format!(
                "is damaged: its first table has {l1_entries} entries, and the disk needs {needed}"
            ));
        }
        let l1_end = l1_entries.saturating_mul(8).checked_add(self.l1_at);
        if !self.l1_at.is_multiple_of(1 << self.cluster_bits) || l1_end.is_none_or(|end| end > file_bytes) {
            return Err("is damaged or cut off: its first table does not lie within the file".to_owned());
        }
        Ok(())
    }

    /// The backing file that the image names, at `(offset, length)`, behind the extensions that follow on `header_bytes`.
    fn backing(
        &self,
        file: &ImageFile,
        header_bytes: u32,
        (name_at, name_bytes): (u64, u64),
    ) -> Result<Option<Recorded>, ImportError> {
        let cluster_bytes = 1_u64 << self.cluster_bits;
        let fits = name_at.checked_add(name_bytes).is_some_and(|end| end <= cluster_bytes);
        if name_at != 0 && (!fits || name_bytes > NAME_MAX) {
            return Err(file
                .which
                .refused("is damaged: the name of its backing file does not lie in the header"));
        }
        let mut cluster = vec![0; 1 << self.cluster_bits];
        file.read("the header", 0, &mut cluster)?;
        let within = |at: u64, bytes: u64| {
            let at = usize::try_from(at).ok()?;
            let end = at.checked_add(usize::try_from(bytes).ok()?)?;
            cluster.get(at..end)
        };
        let extensions_end = if name_at == 0 { cluster_bytes } else { name_at };
        let start = u64::from(header_bytes);
        let area = within(start, extensions_end.saturating_sub(start)).unwrap_or_default();
        let format = backing_format(area).map_err(|what| file.which.refused(what))?;
        let name = within(name_at, name_bytes).filter(|name| name_at != 0 && !name.is_empty());
        Ok(name.map(|name| Recorded {
            name: String::from_utf8_lossy(name).into_owned(),
            format,
        }))
    }
}

/// Refuses what the image may not need from its reader.
fn judge_features(bits: u64) -> Result<(), String> {
    const KNOWN: [&str; 5] = [
        "was not closed properly (it is marked dirty); repair it with qemu-img check -r all",
        "is marked as corrupt; repair it with qemu-img check -r all",
        "keeps its data in another file (external data file), which is not opened; qemu-img convert puts both into one",
        // The compression type: looked at later.
        "",
        "has extended L2 entries (subclusters), which are not supported; qemu-img convert -O raw converts it",
    ];
    for (bit, what) in KNOWN.into_iter().enumerate() {
        if bits & (1 << bit) != 0 && !what.is_empty() {
            return Err(what.to_owned());
        }
    }
    let unknown: Vec<_> = (KNOWN.len()..64)
        .filter(|bit| bits & (1 << bit) != 0)
        .map(|bit| bit.to_string())
        .collect();
    if unknown.is_empty() {
        Ok(())
    } else {
        Err(format!(
            "needs features that are not known here (incompatible feature bits {})",
            unknown.join(", ")
        ))
    }
}

/// What only version 3 says: `length` is its header's.
fn check_v3(fields: &Fields<'_>, length: u32, cluster_bits: u32) -> Result<Compression, String> {
    const COMPRESSION_BIT: u64 = 1 << 3;
    let bytes = usize::try_from(length).unwrap_or(usize::MAX);
    if bytes < V3_BYTES || !bytes.is_multiple_of(8) || bytes > 1 << cluster_bits {
        return Err(format!("is damaged: it says that its header has {length} bytes"));
    }
    let order = fields.u32(96);
    if order > 6 {
        return Err(format!("is damaged: it says that a reference count has 2^{order} bits"));
    }
    let kind = fields.bytes(V3_BYTES).map_or(0, |[kind]| kind);
    let kind = if bytes > V3_BYTES { kind } else { 0 };
    match (fields.u64(V2_BYTES) & COMPRESSION_BIT != 0, kind) {
        (false, 0) => Ok(Compression::Deflate),
        (true, 1) => Ok(Compression::Zstd),
        (_, other) => Err(format!("is compressed in a way that is not known here ({other})")),
    }
}

/// The format that the header extensions in `area` record for the backing file.
fn backing_format(mut area: &[u8]) -> Result<Option<String>, String> {
    let mut format = None;
    while area.len() >= 8 {
        let fields = Fields(area);
        let (kind, length) = (fields.u32(0), fields.u32(4));
        if kind == EXT_END {
            break;
        }
        if kind == EXT_ENCRYPTION {
            return Err("is encrypted (LUKS), and is not converted without its key".to_owned());
        }
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let data = area.get(8..).and_then(|rest| rest.get(..length));
        let data = data.ok_or("is damaged: a header extension is longer than the header")?;
        if kind == EXT_BACKING_FORMAT {
            format = Some(String::from_utf8_lossy(data.get(..64).unwrap_or(data)).into_owned());
        }
        let next = length.next_multiple_of(8).saturating_add(8);
        area = area.get(next..).unwrap_or_default();
    }
    Ok(format)
}
