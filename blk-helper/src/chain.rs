//! A descriptor chain, walked exactly once.
//!
//! The guest can change the descriptor table at any time, so it is read once, into a list this process owns, and never
//! looked at again. The last device-writable byte, where the status belongs, is set aside before anything else happens:
//! whatever goes wrong later, there is one place for it and no way to put it elsewhere.
//!
//! virtio-queue's iterator ends silently on a bad link, an unreadable descriptor, a nested indirect table or a loop, so a
//! chain that was cut looks like a short one. Here it is an error: the last descriptor still promised another.
//!
//! Knows nothing of what a request means.

use crate::guest_memory::{Memory, MemoryGuard};
use crate::transfer::{Buffers, GuestSlice};
use std::ops::Deref;
use thiserror::Error;
use virtio_queue::DescriptorChain;
use vm_memory::GuestMemoryBackend;

/// Most data segments in a request, as the device tells drivers (`seg_max`): 254, what QEMU says for a ring of 256.
pub(crate) const SEG_MAX: u32 = 254;

/// Most descriptors accepted: the data segments, the header and the status.
const MAX_DESCRIPTORS: usize = 256;

/// A chain that keeps the guest memory it lies in.
pub(crate) type HeldChain = DescriptorChain<MemoryGuard>;

/// Why a chain, or the request in it, cannot be read.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// The chain ends before its last descriptor.
    #[error("the chain is cut")]
    Cut,
    /// More descriptors than a request may have.
    #[error("too many descriptors")]
    TooLong,
    /// A device-readable buffer behind a device-writable one (virtio 1.2, 2.7.4.2).
    #[error("a readable buffer follows a writable one")]
    Order,
    /// A buffer that is not guest memory.
    #[error("a buffer is not in guest memory")]
    Address,
    /// No byte for the status.
    #[error("no place for the status")]
    NoStatus,
    /// Less than a header, or data of an impossible length or direction.
    #[error("data of the wrong length or direction")]
    Shape,
}

/// Buffers for which there is room from the start: those of a request in a few pieces.
const COMMON_BUFFERS: usize = 8;

/// The buffers of one chain. Kept for a whole drain and filled anew for each request, so that requests do not allocate.
#[derive(Debug, Default)]
pub(crate) struct Walk<'m> {
    readable: Vec<GuestSlice<'m>>,
    writable: Vec<GuestSlice<'m>>,
    status: Option<GuestSlice<'m>>,
}

impl<'m> Walk<'m> {
    /// An empty walk.
    pub(crate) fn new() -> Self {
        Self {
            readable: Vec::with_capacity(COMMON_BUFFERS),
            writable: Vec::with_capacity(COMMON_BUFFERS),
            status: None,
        }
    }

    /// Reads the buffers of `chain`.
    ///
    /// # Errors
    /// [`Malformed`]. The status byte is known all the same where the chain was seen to its end.
    pub(crate) fn load<M: Deref<Target = Memory>>(
        &mut self,
        chain: DescriptorChain<M>,
        memory: &'m Memory,
    ) -> Result<(), Malformed> {
        self.readable.clear();
        self.writable.clear();
        self.status = None;

        let mut fault = None;
        let mut last_writable = None;
        let mut more = true;
        let mut descriptors = 0usize;
        for descriptor in chain {
            more = descriptor.has_next();
            descriptors = descriptors.saturating_add(1);
            if descriptor.len() > 0 && descriptor.is_write_only() {
                last_writable = Some(descriptor);
            }
            if descriptors > MAX_DESCRIPTORS {
                fault.get_or_insert(Malformed::TooLong);
            }
            if fault.is_none() {
                fault = self.add(descriptor, memory).err();
            }
        }
        if more {
            // Also the chain of which not one descriptor could be read.
            return Err(Malformed::Cut);
        }
        self.status = last_writable.and_then(|last| status_byte(last, memory));
        if let Some(fault) = fault {
            return Err(fault);
        }
        self.status.map(|_| ()).ok_or(Malformed::NoStatus)
    }

    fn add(&mut self, descriptor: virtio_queue::desc::split::Descriptor, memory: &'m Memory) -> Result<(), Malformed> {
        let list = if descriptor.is_write_only() {
            &mut self.writable
        } else if self.writable.is_empty() {
            &mut self.readable
        } else {
            return Err(Malformed::Order);
        };
        // A buffer may span regions that adjoin in the guest and not here: hence several slices.
        let len = usize::try_from(descriptor.len()).map_err(|_| Malformed::Address)?;
        for slice in memory.get_slices(descriptor.addr(), len) {
            list.push(slice.map_err(|_| Malformed::Address)?);
        }
        Ok(())
    }

    /// What the driver sends.
    pub(crate) fn readable(&self) -> Buffers<'_> {
        Buffers::new(&self.readable)
    }

    /// What the driver wants filled, without the status byte.
    pub(crate) fn writable(&self) -> Buffers<'_> {
        let all = Buffers::new(&self.writable);
        let data = all.len().saturating_sub(1);
        all.split_at(u64::try_from(data).unwrap_or(u64::MAX)).0
    }

    /// Where the status byte goes, if there is a place.
    pub(crate) fn status(&self) -> Option<&GuestSlice<'m>> {
        self.status.as_ref()
    }
}

/// The last byte of the last writable buffer.
fn status_byte(last: virtio_queue::desc::split::Descriptor, memory: &Memory) -> Option<GuestSlice<'_>> {
    let offset = u64::from(last.len().checked_sub(1)?);
    let address = vm_memory::GuestAddress(last.addr().0.checked_add(offset)?);
    memory.get_slice(address, 1).ok()
}

#[cfg(test)]
mod tests;
