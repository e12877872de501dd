//! The virtio block device's requests and answers, decoded from bytes (virtio 1.2, 5.2.6).
//!
//! Every decoder takes a byte array and is total: there is no bit pattern it does not have an answer for. Nothing here
//! depends on the host's byte order or on how a structure lies in memory.
//!
//! Knows nothing of descriptors, rings or disks.

use crate::units::{Sector, SectorCount};

/// Bytes of a request header: type, reserved, sector.
pub const HEADER_BYTES: usize = 16;

/// Bytes of one segment of a discard or write-zeroes request.
pub const SEGMENT_BYTES: usize = 16;

/// Bytes that GET_ID answers with: the serial number, padded with NULs (5.2.6: "up to 20").
pub const ID_BYTES: usize = 20;

/// Feature bits of the virtio block device and of virtio itself that this project speaks of.
pub mod feature {
    /// `seg_max` is valid.
    pub const SEG_MAX: u64 = 1 << 2;
    /// The device is read-only.
    pub const RO: u64 = 1 << 5;
    /// `blk_size` is valid.
    pub const BLK_SIZE: u64 = 1 << 6;
    /// Cache flush is supported.
    pub const FLUSH: u64 = 1 << 9;
    /// The topology fields are valid.
    pub const TOPOLOGY: u64 = 1 << 10;
    /// More than one request queue.
    pub const MQ: u64 = 1 << 12;
    /// Discard is supported.
    pub const DISCARD: u64 = 1 << 13;
    /// Write-zeroes is supported.
    pub const WRITE_ZEROES: u64 = 1 << 14;
    /// Descriptors may point to tables of descriptors.
    pub const INDIRECT_DESC: u64 = 1 << 28;
    /// Both sides may ask to be told only at a given index.
    pub const EVENT_IDX: u64 = 1 << 29;
    /// vhost-user: there are protocol features to negotiate.
    pub const PROTOCOL_FEATURES: u64 = 1 << 30;
    /// The device follows virtio 1.0 or later.
    pub const VERSION_1: u64 = 1 << 32;
}

/// What a device offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OfferedFeatures(u64);

/// What a driver accepted: never more than was offered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AckedFeatures(u64);

impl OfferedFeatures {
    /// The features of a disk that is `read_only`, or one that burns.
    #[must_use]
    pub fn of_disk(read_only: bool) -> Self {
        use feature::{
            BLK_SIZE, DISCARD, EVENT_IDX, FLUSH, INDIRECT_DESC, MQ, PROTOCOL_FEATURES, RO, SEG_MAX, TOPOLOGY,
            VERSION_1, WRITE_ZEROES,
        };
        let always =
            SEG_MAX | BLK_SIZE | FLUSH | TOPOLOGY | MQ | INDIRECT_DESC | EVENT_IDX | PROTOCOL_FEATURES | VERSION_1;
        Self(always | if read_only { RO } else { DISCARD | WRITE_ZEROES })
    }

    /// The feature word as it goes over the wire.
    #[must_use]
    pub fn bits(self) -> u64 {
        self.0
    }

    /// Accepts a driver's choice, or says which bits were never offered.
    ///
    /// # Errors
    /// The bits outside the offer.
    pub fn ack(self, bits: u64) -> Result<AckedFeatures, u64> {
        match bits & !self.0 {
            0 => Ok(AckedFeatures(bits)),
            beyond => Err(beyond),
        }
    }
}

impl AckedFeatures {
    /// Whether every bit of `feature` was accepted.
    #[must_use]
    pub fn has(self, feature: u64) -> bool {
        self.0 & feature == feature
    }
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestType {
    /// Read sectors.
    In,
    /// Write sectors.
    Out,
    /// Make what was written durable.
    Flush,
    /// Tell the serial number.
    GetId,
    /// These sectors are not needed any more.
    Discard,
    /// These sectors read as zeros from now on.
    WriteZeroes,
    /// Anything else, with its number.
    Other(u32),
}

/// The first sixteen bytes of every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What is asked.
    pub request: RequestType,
    /// Where, for `In` and `Out`.
    pub sector: Sector,
}

impl Header {
    /// Decodes a header; the four reserved bytes are ignored, as the specification demands of a device.
    #[must_use]
    pub fn decode(bytes: [u8; HEADER_BYTES]) -> Self {
        let [t0, t1, t2, t3, _, _, _, _, sector @ ..] = bytes;
        Self {
            request: match u32::from_le_bytes([t0, t1, t2, t3]) {
                0 => RequestType::In,
                1 => RequestType::Out,
                4 => RequestType::Flush,
                8 => RequestType::GetId,
                11 => RequestType::Discard,
                13 => RequestType::WriteZeroes,
                other => RequestType::Other(other),
            },
            sector: Sector(u64::from_le_bytes(sector)),
        }
    }
}

/// One segment of a discard or write-zeroes request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZeroSegment {
    /// First sector.
    pub sector: Sector,
    /// How many.
    pub count: SectorCount,
    /// Flags as given.
    flags: u32,
}

impl ZeroSegment {
    /// The one flag that exists: the device may give the space back (write-zeroes only).
    const UNMAP: u32 = 1;

    /// Decodes a segment.
    #[must_use]
    pub fn decode(bytes: [u8; SEGMENT_BYTES]) -> Self {
        let [s0, s1, s2, s3, s4, s5, s6, s7, c0, c1, c2, c3, flags @ ..] = bytes;
        Self {
            sector: Sector(u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7])),
            count: SectorCount(u64::from(u32::from_le_bytes([c0, c1, c2, c3]))),
            flags: u32::from_le_bytes(flags),
        }
    }

    /// Whether the flags are ones that `request` may carry: none for discard, UNMAP for write-zeroes (5.2.6.2).
    #[must_use]
    pub fn has_known_flags(&self, request: RequestType) -> bool {
        let known = if request == RequestType::WriteZeroes {
            Self::UNMAP
        } else {
            0
        };
        self.flags & !known == 0
    }
}

/// The byte that ends every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// It failed, or could not be understood.
    IoError = 1,
    /// The device does not do this.
    Unsupported = 2,
}

impl Status {
    /// The byte itself.
    #[must_use]
    pub const fn byte(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::IoError => 1,
            Self::Unsupported => 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_decoded_little_endian() {
        let bytes = [1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 8, 7, 6, 5, 4, 3, 2, 1];

        let header = Header::decode(bytes);

        assert_eq!(header.request, RequestType::Out);
        assert_eq!(header.sector, Sector(0x0102_0304_0506_0708));
    }

    #[test]
    fn an_unknown_type_keeps_its_number() {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&2u32.to_le_bytes());
        assert_eq!(Header::decode(bytes).request, RequestType::Other(2));
    }

    #[test]
    fn a_feature_that_was_not_offered_cannot_be_acked() {
        let offered = OfferedFeatures::of_disk(true);
        assert_eq!(offered.ack(offered.bits() | feature::DISCARD), Err(feature::DISCARD));
        assert!(offered.ack(feature::VERSION_1).unwrap().has(feature::VERSION_1));
    }

    #[test]
    fn a_read_only_disk_says_so_and_offers_no_way_to_change_it() {
        let bits = OfferedFeatures::of_disk(true).bits();
        assert_ne!(bits & feature::RO, 0);
        assert_eq!(bits & (feature::DISCARD | feature::WRITE_ZEROES), 0);
        assert_eq!(OfferedFeatures::of_disk(false).bits() & feature::RO, 0);
    }

    #[test]
    fn unmap_belongs_to_write_zeroes_alone() {
        let mut bytes = [0; 16];
        bytes[12] = 1;
        let segment = ZeroSegment::decode(bytes);
        assert!(segment.has_known_flags(RequestType::WriteZeroes));
        assert!(!segment.has_known_flags(RequestType::Discard));
        bytes[12] = 2;
        assert!(!ZeroSegment::decode(bytes).has_known_flags(RequestType::WriteZeroes));
    }
}
