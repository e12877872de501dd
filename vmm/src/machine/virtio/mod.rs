//! Virtio devices behind the MMIO transport: what a device is to its transport.
//!
//! `mmio` knows registers and the device status and nothing about blocks; a device knows nothing about registers. A disk
//! (`blk`) is served by another process, entropy (`rng`) by the control thread, a network card (`net`) by its own thread; what
//! the last two need to read a queue is in `ring`.

pub(crate) mod blk;
#[cfg(test)]
mod driver;
pub(crate) mod mmio;
pub(crate) mod net;
mod ring;
pub(crate) mod rng;

use log::{debug, warn};
use policy::Descriptor;
use policy::logging::chain;
use std::error::Error;
use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use thiserror::Error;
use vm_memory::GuestAddress;
use vmm_sys_util::eventfd::EventFd;

/// VIRTIO_F_INDIRECT_DESC: descriptors may point to tables of descriptors.
const INDIRECT_DESC: u64 = 1 << 28;
/// VIRTIO_F_EVENT_IDX: both sides may ask to be told only at a given index.
const EVENT_IDX: u64 = 1 << 29;
/// VIRTIO_F_VERSION_1: virtio 1.0 or later. Offered by every device here, and a driver must ack it.
const VERSION_1: u64 = 1 << 32;

/// One queue, as the driver set it up. The addresses come from the guest and are not checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct QueueSetup {
    /// Entries, a power of two not above the device's maximum (the transport sees to both).
    pub(crate) size: u16,
    /// The descriptor table.
    pub(crate) descriptors: GuestAddress,
    /// The driver area (available ring).
    pub(crate) driver: GuestAddress,
    /// The device area (used ring).
    pub(crate) device: GuestAddress,
    /// Whether the driver said that it is ready. Others are not used.
    pub(crate) ready: bool,
}

/// A device could not do what the transport wanted of it.
#[derive(Debug, Error)]
pub(crate) enum DeviceError {
    /// The driver asked for the impossible. The guest sees DEVICE_NEEDS_RESET, and may try again.
    #[error("it cannot be activated as the driver wants")]
    Refused(#[source] Box<dyn Error + Send + Sync>),
    /// Whoever serves the device is gone or makes no sense: the run ends.
    #[error("{device} is gone")]
    Gone {
        /// Which one: "disk 0".
        device: String,
        /// Why.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

/// A virtio device. Everything is called on the control thread, except that `id` to `config` are also called where it is made.
pub(crate) trait Device: Send + fmt::Debug {
    /// What an operator calls it: "disk 0".
    fn name(&self) -> &str;

    /// Its virtio device ID.
    fn id(&self) -> u32;

    /// The feature bits it offers.
    fn offered(&self) -> u64;

    /// The largest size of each of its queues.
    fn queue_sizes(&self) -> &[u16];

    /// Its configuration space, which never changes; reads past the end are zeros.
    fn config(&self) -> &[u8];

    /// Its open descriptors.
    fn descriptors(&self) -> Vec<Descriptor>;

    /// The driver said DRIVER_OK, having acked `acked` (a subset of the offer) and set up `queues` (one for each size).
    ///
    /// # Errors
    /// The device cannot work; it stays inactive.
    fn activate(&mut self, acked: u64, queues: &[QueueSetup]) -> Result<(), DeviceError>;

    /// The driver reset the device: no queue may be touched any more when this returns. It may not be active.
    ///
    /// # Errors
    /// The device could not be stopped; the run ends.
    fn reset(&mut self) -> Result<(), DeviceError>;

    /// The kicks that the control thread has to wait for, edge-triggered and without reading them.
    fn kicks(&self) -> &[EventFd] {
        &[]
    }

    /// One of `kicks` came, or there was more. Says whether there is more to do at once.
    fn serve(&mut self) -> bool {
        false
    }

    /// The connection to the process that serves the device; when it hangs up, the run ends.
    fn connection(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// What a guest can provoke: the first time an operator is told, after that only who debugs.
#[derive(Debug, Default)]
struct Complaints(AtomicBool);

impl Complaints {
    /// `device` is of no use to the guest, until it is reset.
    fn say(&self, device: &str, error: &dyn Error) {
        if self.0.swap(true, Ordering::Relaxed) {
            debug!("{device}: {}", chain(error));
        } else {
            warn!("{device} rests until the guest resets it: {} (said once)", chain(error));
        }
    }
}
