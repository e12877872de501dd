//! What the buffers of a chain ask for: a [`Request`], or [`Malformed`] with the reason.
//!
//! Total, and without I/O: the header is copied once, lengths and directions are checked, nothing is executed. Whether
//! sectors lie on the disk is not known here.

use crate::chain::{Malformed, Walk};
use crate::stats::{Account, Kind};
use crate::transfer::Buffers;
use protocol::blk::{HEADER_BYTES, Header, RequestType, SEGMENT_BYTES, ZeroSegment};
use protocol::units::{SECTOR_BYTES, Sector, SectorCount};

/// Most segments in a discard or write-zeroes request, as the device tells drivers. 16 lets a driver merge the ranges of
/// one fstrim; that more would not help is a guess.
pub(crate) const MAX_ZERO_SEGMENTS: u32 = 16;

/// Room for them.
const MAX_ZERO_BYTES: usize = 16 * SEGMENT_BYTES;

/// One request of a guest.
#[derive(Debug)]
pub(crate) enum Request<'a> {
    /// Fill `into` from `sector` on.
    Read {
        sector: Sector,
        count: SectorCount,
        into: Buffers<'a>,
    },
    /// Store `from` at `sector` and behind.
    Write {
        sector: Sector,
        count: SectorCount,
        from: Buffers<'a>,
    },
    /// Make what was written durable.
    Flush,
    /// Tell the serial number.
    GetId { into: Buffers<'a> },
    /// Forget these sectors.
    Discard(ZeroSegments),
    /// Zero these sectors.
    WriteZeroes(ZeroSegments),
    /// Something this device does not do.
    Unsupported,
}

/// The segments of a discard or write-zeroes request, copied out of guest memory.
#[derive(Debug)]
pub(crate) struct ZeroSegments {
    bytes: [u8; MAX_ZERO_BYTES],
    used: usize,
}

impl ZeroSegments {
    fn read(from: Buffers<'_>) -> Result<Self, Malformed> {
        let used = from.len();
        if used == 0 || used > MAX_ZERO_BYTES || !used.is_multiple_of(SEGMENT_BYTES) {
            return Err(Malformed::Shape);
        }
        let mut bytes = [0; MAX_ZERO_BYTES];
        from.copy_to(&mut bytes);
        Ok(Self { bytes, used })
    }

    /// Bytes of the disk that they are about.
    fn bytes(&self) -> u64 {
        let bytes = |segment: ZeroSegment| segment.count.0.saturating_mul(SECTOR_BYTES);
        self.iter().map(bytes).fold(0, u64::saturating_add)
    }

    /// The segments, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = ZeroSegment> {
        let (segments, _) = self.bytes.as_chunks::<SEGMENT_BYTES>();
        let count = self.used.checked_div(SEGMENT_BYTES).unwrap_or(0);
        segments.iter().take(count).map(|bytes| ZeroSegment::decode(*bytes))
    }
}

fn length(buffers: Buffers<'_>) -> u64 {
    u64::try_from(buffers.len()).unwrap_or(u64::MAX)
}

impl<'a> Request<'a> {
    /// How it is counted.
    pub(crate) fn account(&self) -> Account {
        let (kind, bytes) = match self {
            Self::Read { into, .. } => (Kind::Read, length(*into)),
            Self::Write { from, .. } => (Kind::Write, length(*from)),
            Self::Flush => (Kind::Flush, 0),
            Self::GetId { into } => (Kind::GetId, length(*into)),
            Self::Discard(segments) => (Kind::Discard, segments.bytes()),
            Self::WriteZeroes(segments) => (Kind::WriteZeroes, segments.bytes()),
            Self::Unsupported => (Kind::Malformed, 0),
        };
        Account { kind, bytes }
    }

    /// Bytes that it moves between disk and guest.
    pub(crate) fn moved(&self) -> u64 {
        match self {
            Self::Read { into: buffers, .. } | Self::Write { from: buffers, .. } => length(*buffers),
            Self::Flush | Self::GetId { .. } | Self::Discard(_) | Self::WriteZeroes(_) | Self::Unsupported => 0,
        }
    }

    /// Whether it may need space.
    pub(crate) fn may_grow(&self) -> bool {
        match self {
            Self::Write { .. } | Self::Discard(_) | Self::WriteZeroes(_) => true,
            Self::Read { .. } | Self::Flush | Self::GetId { .. } | Self::Unsupported => false,
        }
    }

    /// Reads the request in a walked chain.
    ///
    /// # Errors
    /// [`Malformed::Shape`].
    pub(crate) fn parse(walk: &'a Walk<'_>) -> Result<Self, Malformed> {
        let readable = walk.readable();
        let into = walk.writable();
        if readable.len() < HEADER_BYTES {
            return Err(Malformed::Shape);
        }
        let mut bytes = [0; HEADER_BYTES];
        readable.copy_to(&mut bytes);
        let header = Header::decode(bytes);
        let (_, from) = readable.split_at(u64::try_from(HEADER_BYTES).unwrap_or(u64::MAX));

        match header.request {
            RequestType::In if from.len() == 0 => Ok(Self::Read {
                sector: header.sector,
                count: sectors(into)?,
                into,
            }),
            RequestType::Out if into.len() == 0 => Ok(Self::Write {
                sector: header.sector,
                count: sectors(from)?,
                from,
            }),
            RequestType::Discard if into.len() == 0 => ZeroSegments::read(from).map(Self::Discard),
            RequestType::WriteZeroes if into.len() == 0 => ZeroSegments::read(from).map(Self::WriteZeroes),
            RequestType::Flush => Ok(Self::Flush),
            RequestType::GetId => Ok(Self::GetId { into }),
            RequestType::Other(_) => Ok(Self::Unsupported),
            // Data in the wrong direction.
            RequestType::In | RequestType::Out | RequestType::Discard | RequestType::WriteZeroes => {
                Err(Malformed::Shape)
            }
        }
    }
}

fn sectors(data: Buffers<'_>) -> Result<SectorCount, Malformed> {
    u64::try_from(data.len())
        .ok()
        .and_then(SectorCount::from_bytes)
        .ok_or(Malformed::Shape)
}
