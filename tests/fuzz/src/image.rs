//! qcow2 images: sound ones with the disk that they hold, and from there any damage.

use arbitrary::Arbitrary;

/// The largest disk.
pub const BYTES_MAX: u64 = 1 << 20;

const COMPRESSED: u64 = 1 << 62;
const COPIED: u64 = 1 << 63;

/// An image, as a fuzzer thinks of one.
#[derive(Arbitrary, Clone, Debug)]
pub struct Image {
    old: bool,
    zstd: bool,
    bits: u8,
    sectors: u16,
    clusters: Vec<Cluster>,
    extensions: Vec<(Extension, Vec<u8>)>,
    backing: Option<Vec<u8>>,
    damage: Vec<Damage>,
    cut: Option<u16>,
}

/// A cluster of the disk.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Cluster {
    Absent,
    Zero,
    Data(u8),
    Packed(u8),
    /// Whatever entry of the table this is.
    Odd(u64),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Extension {
    BackingFormat,
    Encryption,
    Other(u32),
}

/// A field, or anything, that is not what it was.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Damage {
    Header(u8, u32),
    Byte(u16, u8),
    Entry(u16, u64),
}

/// What the cluster with this seed holds.
fn content(seed: u8, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| seed ^ (at / 64 % 251) as u8).collect()
}

/// One stored block of deflate, or one raw block of zstd: compressed data that is easy to write.
fn packed(content: &[u8], zstd: bool) -> Vec<u8> {
    let length = content.len() as u32;
    let mut bytes = Vec::new();
    if zstd {
        // A frame of one segment that says its size in four bytes; a last, raw block.
        bytes.extend([0x28, 0xb5, 0x2f, 0xfd, 0xa0]);
        bytes.extend(length.to_le_bytes());
        bytes.extend(&(length << 3 | 1).to_le_bytes()[..3]);
    } else {
        bytes.push(1);
        bytes.extend((length as u16).to_le_bytes());
        bytes.extend((!(length as u16)).to_le_bytes());
    }
    bytes.extend(content);
    bytes
}

fn put(image: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if image.len() < at + bytes.len() {
        image.resize(at + bytes.len(), 0);
    }
    image[at..at + bytes.len()].copy_from_slice(bytes);
}

impl Image {
    fn cluster_bits(&self) -> u32 {
        9 + u32::from(self.bits % 5)
    }

    fn zstd(&self) -> bool {
        self.zstd && !self.old
    }

    fn disk_bytes(&self) -> usize {
        (1 + usize::from(self.sectors % 2048)) * 512
    }

    /// Whether nothing is wrong with it, so that [`Image::disk`] is what it holds.
    pub fn is_sound(&self) -> bool {
        let odd =
            |cluster: &Cluster| matches!(cluster, Cluster::Odd(_)) || self.old && matches!(cluster, Cluster::Zero);
        self.damage.is_empty()
            && self.cut.is_none()
            && self.extensions.is_empty()
            && self.backing.is_none()
            && !self.clusters.iter().any(odd)
    }

    /// The disk over `below`, which reads as zeros behind its end.
    pub fn disk(&self, below: &[u8]) -> Vec<u8> {
        let cluster = 1 << self.cluster_bits();
        let mut disk = below.to_vec();
        disk.resize(self.disk_bytes(), 0);
        for (place, what) in disk.chunks_mut(cluster).zip(&self.clusters) {
            match *what {
                Cluster::Zero => place.fill(0),
                Cluster::Data(seed) | Cluster::Packed(seed) => {
                    place.copy_from_slice(&content(seed, cluster)[..place.len()]);
                }
                Cluster::Absent | Cluster::Odd(_) => {}
            }
        }
        disk
    }

    /// The file; it says that it is based on another one if it is given with `based`.
    pub fn file(&self, based: bool) -> Vec<u8> {
        let bits = self.cluster_bits();
        let cluster = 1 << bits;
        let reach = cluster / 8 * cluster;
        let tables = self.disk_bytes().div_ceil(reach);
        let l1_at = cluster;
        let l2_at = l1_at + (tables * 8).next_multiple_of(cluster);
        let mut image = self.header(based, bits, tables, l1_at);
        image.resize(l2_at + tables * cluster, 0);
        for table in 0..tables {
            put(
                &mut image,
                l1_at + table * 8,
                &(COPIED | (l2_at + table * cluster) as u64).to_be_bytes(),
            );
        }
        let clusters = self.disk_bytes().div_ceil(cluster);
        for (index, what) in self.clusters.iter().take(clusters).enumerate() {
            let entry = self.place(&mut image, *what, bits);
            // The tables lie one behind the other.
            put(&mut image, l2_at + index * 8, &entry.to_be_bytes());
        }
        image.resize(image.len().next_multiple_of(512), 0);
        self.damage(&mut image, l1_at);
        image
    }

    fn header(&self, based: bool, bits: u32, tables: usize, l1_at: usize) -> Vec<u8> {
        let mut image = vec![0; 1 << bits];
        put(&mut image, 0, b"QFI\xfb");
        put(&mut image, 4, &(if self.old { 2_u32 } else { 3 }).to_be_bytes());
        put(&mut image, 20, &bits.to_be_bytes());
        put(&mut image, 24, &(self.disk_bytes() as u64).to_be_bytes());
        put(&mut image, 36, &(tables as u32).to_be_bytes());
        put(&mut image, 40, &(l1_at as u64).to_be_bytes());
        let mut end = 72;
        if !self.old {
            end = 112;
            put(&mut image, 72, &(u64::from(self.zstd()) << 3).to_be_bytes());
            put(&mut image, 96, &4_u32.to_be_bytes());
            put(&mut image, 100, &112_u32.to_be_bytes());
            put(&mut image, 104, &[u8::from(self.zstd())]);
        }
        for (kind, data) in &self.extensions {
            let kind = match kind {
                Extension::BackingFormat => 0xe279_2aca_u32,
                Extension::Encryption => 0x0537_be77,
                Extension::Other(kind) => *kind,
            };
            put(&mut image, end, &kind.to_be_bytes());
            put(&mut image, end + 4, &(data.len() as u32).to_be_bytes());
            put(&mut image, end + 8, data);
            end += 8 + data.len().next_multiple_of(8);
        }
        let name = self.backing.as_deref().or(based.then_some(b"below"));
        if let Some(name) = name {
            put(&mut image, end + 8, name);
            put(&mut image, 8, &(end as u64 + 8).to_be_bytes());
            put(&mut image, 16, &(name.len() as u32).to_be_bytes());
        }
        // What is too long for the header lies in the tables, which are written over it.
        image
    }

    /// Puts a cluster behind the end of the file; its entry in the table.
    fn place(&self, image: &mut Vec<u8>, what: Cluster, bits: u32) -> u64 {
        let cluster = 1 << bits;
        match what {
            Cluster::Absent => 0,
            Cluster::Zero => 1,
            Cluster::Odd(entry) => entry,
            Cluster::Data(seed) => {
                let at = image.len().next_multiple_of(cluster);
                put(image, at, &content(seed, cluster));
                COPIED | at as u64
            }
            Cluster::Packed(seed) => {
                let packed = packed(&content(seed, cluster), self.zstd());
                let more = |at: usize| ((at + packed.len() - 1) / 512 - at / 512) as u64;
                // The entry of a small cluster has few bits for the sectors it is in.
                let fits = more(image.len()) < 1 << (bits - 8);
                let at = if fits {
                    image.len()
                } else {
                    image.len().next_multiple_of(512)
                };
                put(image, at, &packed);
                let more = more(at);
                COMPRESSED | more << (62 - (bits - 8)) | at as u64
            }
        }
    }

    fn damage(&self, image: &mut Vec<u8>, tables: usize) {
        for damage in self.damage.iter().take(8) {
            match *damage {
                Damage::Header(at, value) => put(image, usize::from(at % 32) * 4, &value.to_be_bytes()),
                Damage::Byte(at, value) => {
                    let at = usize::from(at) % image.len();
                    image[at] ^= value;
                }
                Damage::Entry(at, value) => put(image, tables + usize::from(at % 512) * 8, &value.to_be_bytes()),
            }
        }
        if let Some(cut) = self.cut {
            image.truncate(usize::from(cut) * 4);
        }
    }
}
