//! What is asked of a disk, and what comes back, in the words of a guest.
//!
//! Plain values: nothing here knows rings or sockets.

/// How long the buffer of the simple calls is.
pub const SCRATCH_LEN: u64 = 2 << 20;

/// What to ask of the device.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// How many virtqueues.
    pub queues: usize,
    /// How many descriptors each has.
    pub queue_size: u16,
    /// Whether to ack `VIRTIO_RING_F_EVENT_IDX`.
    pub event_idx: bool,
    /// Guest memory after the first [`SCRATCH_LEN`] bytes, for the caller's own requests.
    pub memory: u64,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            queues: 1,
            queue_size: 128,
            event_idx: true,
            memory: 0,
        }
    }
}

/// A piece of guest memory.
#[derive(Clone, Copy, Debug)]
pub struct Buffer {
    /// Where in guest memory.
    pub at: u64,
    /// How long.
    pub len: usize,
}

/// What to do to the disk; offsets and lengths in bytes, multiples of 512.
#[derive(Clone, Debug)]
pub enum Request {
    /// From the disk into the buffers.
    Read {
        /// Where on the disk.
        offset: u64,
        /// Where to.
        buffers: Vec<Buffer>,
    },
    /// From the buffers onto the disk.
    Write {
        /// Where on the disk.
        offset: u64,
        /// Where from.
        buffers: Vec<Buffer>,
    },
    /// The content is of no use any more.
    Discard {
        /// Where on the disk.
        offset: u64,
        /// How much.
        len: u64,
    },
    /// Zeros, exactly there.
    WriteZeroes {
        /// Where on the disk.
        offset: u64,
        /// How much.
        len: u64,
        /// Whether the space may be given back.
        unmap: bool,
    },
    /// The barrier.
    Flush,
}

impl Request {
    /// How many descriptors it takes: a header, a status byte, and what is between.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        match self {
            Self::Read { buffers, .. } | Self::Write { buffers, .. } => 2 + buffers.len(),
            Self::Discard { .. } | Self::WriteZeroes { .. } => 3,
            Self::Flush => 2,
        }
    }
}

/// A request that the device has answered.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// What the caller called it.
    pub token: u64,
    /// 0, or a negative `errno`: `EIO`, `ENOTSUP`, or `EPROTO` for a status that does not exist.
    pub result: i32,
}
