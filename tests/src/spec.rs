//! The words of the virtio specification that tests write by hand: descriptors, request headers, segments, statuses.
//!
//! Plain little-endian encodings, and no opinion on whether what they say is allowed.

use crate::memory::GUEST_BASE;

/// What tests put where the status byte belongs, so that an answer can be told from none.
pub const UNTOUCHED: u8 = 0xee;
/// `VIRTIO_BLK_S_OK`.
pub const OK: u8 = 0;
/// `VIRTIO_BLK_S_IOERR`.
pub const IOERR: u8 = 1;
/// `VIRTIO_BLK_S_UNSUPP`.
pub const UNSUPP: u8 = 2;

/// `VIRTIO_BLK_T_IN`.
pub const IN: u32 = 0;
/// `VIRTIO_BLK_T_OUT`.
pub const OUT: u32 = 1;
/// `VIRTIO_BLK_T_FLUSH`.
pub const FLUSH: u32 = 4;
/// `VIRTIO_BLK_T_GET_ID`.
pub const GET_ID: u32 = 8;
/// `VIRTIO_BLK_T_DISCARD`.
pub const DISCARD: u32 = 11;
/// `VIRTIO_BLK_T_WRITE_ZEROES`.
pub const WRITE_ZEROES: u32 = 13;

/// The descriptor goes on at its `next`.
pub const NEXT: u16 = 1;
/// The device writes here.
pub const WRITE: u16 = 2;
/// Here is a table of descriptors.
pub const INDIRECT: u16 = 4;

/// `VHOST_USER_F_PROTOCOL_FEATURES`.
pub const PROTOCOL_FEATURES: u64 = 1 << 30;
/// `VHOST_USER_PROTOCOL_F_*`: MQ, REPLY_ACK, BACKEND_REQ, CONFIG, RESET_DEVICE, CONFIGURE_MEM_SLOTS.
pub const PROTOCOL: u64 = 1 | 1 << 3 | 1 << 5 | 1 << 9 | 1 << 13 | 1 << 15;

/// One entry of a descriptor table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Desc {
    /// Guest address.
    pub addr: u64,
    /// Bytes.
    pub len: u32,
    /// [`NEXT`], [`WRITE`], [`INDIRECT`].
    pub flags: u16,
    /// Where it goes on.
    pub next: u16,
}

impl Desc {
    /// A buffer that the device reads, at an offset of guest memory.
    #[must_use]
    pub const fn readable(at: u64, len: u32) -> Self {
        Self {
            addr: GUEST_BASE + at,
            len,
            flags: 0,
            next: 0,
        }
    }

    /// A buffer that the device writes, at an offset of guest memory.
    #[must_use]
    pub const fn writable(at: u64, len: u32) -> Self {
        Self {
            addr: GUEST_BASE + at,
            len,
            flags: WRITE,
            next: 0,
        }
    }

    /// A table of `entries` descriptors, at an offset of guest memory.
    #[must_use]
    pub const fn indirect(at: u64, entries: u32) -> Self {
        Self {
            addr: GUEST_BASE + at,
            len: entries * 16,
            flags: INDIRECT,
            next: 0,
        }
    }

    /// Its sixteen bytes.
    #[must_use]
    pub fn bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.addr.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&self.next.to_le_bytes());
        bytes
    }
}

/// Descriptors linked one after the other, beginning at entry 0 of whatever table they are put into.
#[must_use]
pub fn linked(descs: &[Desc]) -> Vec<Desc> {
    let last = descs.len().saturating_sub(1);
    let link = |(index, desc): (usize, &Desc)| {
        let next = u16::try_from(index + 1).expect("tables have at most 65535 entries");
        if index == last {
            *desc
        } else {
            Desc {
                flags: desc.flags | NEXT,
                next,
                ..*desc
            }
        }
    };
    descs.iter().enumerate().map(link).collect()
}

/// The sixteen bytes before each request.
#[must_use]
pub fn request_header(kind: u32, sector: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&kind.to_le_bytes());
    bytes[8..].copy_from_slice(&sector.to_le_bytes());
    bytes
}

/// One segment of a discard or write-zeroes request.
#[must_use]
pub fn zero_segment(sector: u64, sectors: u32, flags: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&sector.to_le_bytes());
    bytes[8..12].copy_from_slice(&sectors.to_le_bytes());
    bytes[12..].copy_from_slice(&flags.to_le_bytes());
    bytes
}
