//! A queue that this process serves: pop a chain, copy its bytes in or out, complete it.
//!
//! The guest can change a descriptor at any time, so each is read once, into a list of our own. What is wrong with a chain fails
//! that chain, which is completed with length zero; what is wrong with the ring itself is a [`RingError`], after which its owner
//! does not touch the ring again. Bytes are copied and never borrowed, because they may change under us.
//!
//! virtio-queue's iterator ends silently on a bad link, so that a chain that was cut looks like a short one. Here the last
//! descriptor that was seen must not promise another.
//!
//! Knows nothing of what the bytes mean.

use super::{EVENT_IDX, QueueSetup};
use thiserror::Error;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// Most descriptors in a chain. More than a frame's or a request's fragments; a guess.
const MAX_DESCRIPTORS: usize = 256;

/// Why a ring is not touched, or not any more.
#[derive(Debug, Error)]
pub(super) enum RingError {
    /// It does not lie in guest memory, or not where such a thing may lie.
    #[error("the queue is not in guest memory or not aligned")]
    Layout,
    /// Its indices make no sense.
    #[error("the queue is broken")]
    Broken(#[from] virtio_queue::Error),
    /// It says that there is an entry which cannot be read.
    #[error("an entry of the queue cannot be read")]
    Unreadable,
}

/// A popped head that owes the driver an answer.
#[derive(Debug)]
#[must_use = "a popped chain must be completed"]
pub(super) struct Head(u16);

/// One buffer of a chain.
#[derive(Clone, Copy, Debug)]
struct Segment {
    address: GuestAddress,
    bytes: usize,
}

/// A queue in use.
#[derive(Debug)]
pub(super) struct Ring {
    queue: Queue,
    memory: GuestMemoryMmap,
    readable: Vec<Segment>,
    writable: Vec<Segment>,
}

impl Ring {
    /// The queue that the driver set up, for a device whose driver acked `acked`.
    ///
    /// # Errors
    /// [`RingError::Layout`].
    pub(super) fn new(setup: &QueueSetup, acked: u64, memory: &GuestMemoryMmap) -> Result<Self, RingError> {
        let mut queue = Queue::new(setup.size)?;
        queue
            .try_set_desc_table_address(setup.descriptors)
            .and_then(|()| queue.try_set_avail_ring_address(setup.driver))
            .and_then(|()| queue.try_set_used_ring_address(setup.device))
            .map_err(|_| RingError::Layout)?;
        queue.set_event_idx(acked & EVENT_IDX != 0);
        queue.set_ready(true);
        if !queue.is_valid(memory) {
            return Err(RingError::Layout);
        }
        Ok(Self {
            queue,
            memory: memory.clone(),
            readable: Vec::with_capacity(MAX_DESCRIPTORS),
            writable: Vec::with_capacity(MAX_DESCRIPTORS),
        })
    }

    /// The next chain, whose buffers are then this ring's until the one after; none once the driver knows that it has to kick
    /// for another. A malformed chain has no buffers.
    ///
    /// # Errors
    /// [`RingError`]; the ring must not be touched again.
    pub(super) fn pop(&mut self) -> Result<Option<Head>, RingError> {
        let popped = match self.queue.iter(&self.memory)?.next() {
            Some(chain) => Some(chain),
            None if !self.queue.enable_notification(&self.memory)? => None,
            // Something is available after all, so that a queue which yields nothing now never will.
            None => Some(self.queue.iter(&self.memory)?.next().ok_or(RingError::Unreadable)?),
        };
        Ok(popped.map(|chain| {
            let head = Head(chain.head_index());
            if walk(chain, &mut self.readable, &mut self.writable).is_none() {
                self.readable.clear();
                self.writable.clear();
            }
            head
        }))
    }

    /// Copies what the driver sends to the beginning of `buffer`. How many bytes that was; none where it does not fit, or is not
    /// in guest memory.
    pub(super) fn gather(&self, buffer: &mut [u8]) -> Option<usize> {
        let mut filled = 0_usize;
        for segment in &self.readable {
            let end = filled.checked_add(segment.bytes)?;
            let place = buffer.get_mut(filled..end)?;
            self.memory.read_slice(place, segment.address).ok()?;
            filled = end;
        }
        Some(filled)
    }

    /// Room that the driver offers, in bytes.
    pub(super) fn room(&self) -> usize {
        let sizes = self.writable.iter().map(|segment| segment.bytes);
        sizes.fold(0, usize::saturating_add)
    }

    /// Copies `bytes` to the driver. How many that was; none where there is no room for all, or it is not in guest memory.
    pub(super) fn scatter(&self, mut bytes: &[u8]) -> Option<u32> {
        let written = u32::try_from(bytes.len()).ok()?;
        for segment in &self.writable {
            let (now, later) = bytes.split_at(segment.bytes.min(bytes.len()));
            self.memory.write_slice(now, segment.address).ok()?;
            bytes = later;
        }
        bytes.is_empty().then_some(written)
    }

    /// Answers: so many bytes were written to the chain.
    ///
    /// # Errors
    /// [`RingError`]; the ring must not be touched again.
    pub(super) fn complete(&mut self, head: Head, written: u32) -> Result<(), RingError> {
        Ok(self.queue.add_used(&self.memory, head.0, written)?)
    }

    /// Whether the driver wants to be called about what was completed since it was last asked.
    ///
    /// # Errors
    /// [`RingError`]; the ring must not be touched again.
    pub(super) fn wants_call(&mut self) -> Result<bool, RingError> {
        Ok(self.queue.needs_notification(&self.memory)?)
    }
}

/// Reads the buffers of `chain`; none if it is cut, too long, or has a readable buffer behind a writable one (2.7.4.2).
fn walk(
    chain: DescriptorChain<&GuestMemoryMmap>,
    readable: &mut Vec<Segment>,
    writable: &mut Vec<Segment>,
) -> Option<()> {
    readable.clear();
    writable.clear();
    let mut more = true;
    for descriptor in chain.take(MAX_DESCRIPTORS) {
        more = descriptor.has_next();
        let list = if descriptor.is_write_only() {
            &mut *writable
        } else if writable.is_empty() {
            &mut *readable
        } else {
            return None;
        };
        list.push(Segment {
            address: descriptor.addr(),
            bytes: usize::try_from(descriptor.len()).ok()?,
        });
    }
    (!more).then_some(())
}
