//! Virtio block device (virtio 1.2, 5.2) that another process serves: the guest's half of a vhost-user-blk backend.
//!
//! What the guest sees is the backend's offer, cut down to what is understood here, and the backend's configuration space with
//! our number of queues in it. When the driver is ready, the backend is told where memory and queues are and gets the kicks and
//! the call; from then on it and the guest are alone with each other.
//!
//! Knows no registers (`mmio`) and no messages (`backend`).

mod backend;
#[cfg(test)]
mod tests;

use super::{Device, DeviceError, EVENT_IDX, INDIRECT_DESC, QueueSetup, VERSION_1};
use crate::machine::irq::Lines;
use crate::machine::memory::Ram;
pub(crate) use backend::BackendError;
use backend::{Backend, VringPlace};
use policy::Descriptor;
use protocol::blk::feature;
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

/// Most queues of a disk: what the helper offers. More processors share them.
const MOST_QUEUES: usize = 16;
/// Entries of a queue: room for the longest request of most backends (254 data segments).
const QUEUE_SIZE: u16 = 256;
/// Data segments that fit a queue of that size, beside a request's header and status.
const SEG_MAX: u32 = 254;

/// VIRTIO_BLK_F_SIZE_MAX: `size_max` is valid.
const SIZE_MAX: u64 = 1 << 1;
/// What a guest and a backend may agree on without our knowing more about it. Not CONFIG_WCE: the configuration would change.
const UNDERSTOOD: u64 = SIZE_MAX
    | feature::SEG_MAX
    | feature::RO
    | feature::BLK_SIZE
    | feature::TOPOLOGY
    | feature::FLUSH
    | feature::DISCARD
    | feature::WRITE_ZEROES
    | feature::MQ
    | INDIRECT_DESC
    | EVENT_IDX
    | VERSION_1;

/// Bytes of the configuration space up to write-zeroes: what every backend has.
const CONFIG_BYTES: usize = 60;
/// Where `seg_max` is in it.
const CONFIG_SEG_MAX: usize = 12;
/// Where `num_queues` is in it.
const CONFIG_NUM_QUEUES: usize = 34;

/// A disk whose backend has said what it is, and which has no eventfds yet.
pub(crate) struct Offer {
    name: String,
    backend: Backend,
    offered: u64,
    config: [u8; CONFIG_BYTES],
    queues: usize,
}

impl Offer {
    /// Asks the backend behind the connected `socket` for a disk that `cpus` processors can use at once; `name` is what an
    /// operator calls it.
    ///
    /// # Errors
    /// It is not a vhost-user-blk backend, or not one that can be used.
    pub(crate) fn ask(name: String, socket: OwnedFd, cpus: u8) -> Result<Self, BackendError> {
        let mut config = [0; CONFIG_BYTES];
        let (backend, terms) = Backend::connect(socket, &mut config)?;
        let mut offered = terms.features & UNDERSTOOD;
        let queues = if offered & feature::MQ == 0 { 1 } else { terms.queues };
        let queues = queues.min(usize::from(cpus)).clamp(1, MOST_QUEUES);
        if queues == 1 {
            offered &= !feature::MQ;
        }
        let queues_shown = u16::try_from(queues).unwrap_or(u16::MAX);
        put(&mut config, CONFIG_NUM_QUEUES, queues_shown.to_le_bytes());
        let seg_max = u32::from_le_bytes(get(&config, CONFIG_SEG_MAX)).min(SEG_MAX);
        put(&mut config, CONFIG_SEG_MAX, seg_max.to_le_bytes());
        Ok(Self {
            name,
            backend,
            offered,
            config,
            queues,
        })
    }

    /// How many queues it will have.
    pub(crate) fn queues(&self) -> usize {
        self.queues
    }

    /// The disk, with a kick for each queue in `lines`, for a guest with this memory.
    pub(crate) fn accept(self, ram: &Ram, lines: Arc<Lines>) -> Blk {
        Blk {
            sizes: vec![QUEUE_SIZE; self.queues],
            regions: backend::regions(ram),
            memory: ram.guest().clone(),
            lines,
            started: Vec::with_capacity(self.queues),
            offer: self,
        }
    }
}

/// The device.
pub(crate) struct Blk {
    offer: Offer,
    sizes: Vec<u16>,
    memory: GuestMemoryMmap,
    regions: Vec<backend::Region>,
    lines: Arc<Lines>,
    /// Queues that the backend may be using.
    started: Vec<usize>,
}

impl fmt::Debug for Blk {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Blk")
            .field("name", &self.offer.name)
            .field("started", &self.started)
            .finish_non_exhaustive()
    }
}

impl Blk {
    fn failed(&self, error: BackendError) -> DeviceError {
        if error.is_refusal() {
            DeviceError::Refused(error.into())
        } else {
            self.gone(error)
        }
    }

    fn gone(&self, error: BackendError) -> DeviceError {
        DeviceError::Gone {
            device: self.offer.name.clone(),
            source: error.into(),
        }
    }

    fn start(&mut self, acked: u64, queues: &[QueueSetup]) -> Result<(), BackendError> {
        let places = queues
            .iter()
            .enumerate()
            .filter(|(_, setup)| setup.ready)
            .map(|(index, setup)| place(index, setup, &self.memory).ok_or(BackendError::Outside { index }))
            .collect::<Result<Vec<_>, _>>()?;
        let backend = &mut self.offer.backend;
        backend.configure(acked, &self.regions)?;
        for place in &places {
            let Some(kick) = self.lines.kicks.get(place.index) else {
                continue;
            };
            self.started.push(place.index);
            backend.start(place, kick, &self.lines.call)?;
        }
        Ok(())
    }

    fn stop(&mut self) -> Result<(), BackendError> {
        for index in self.started.drain(..) {
            self.offer.backend.stop(index)?;
        }
        Ok(())
    }
}

impl Device for Blk {
    fn name(&self) -> &str {
        &self.offer.name
    }

    fn id(&self) -> u32 {
        2
    }

    fn offered(&self) -> u64 {
        self.offer.offered
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.sizes
    }

    fn config(&self) -> &[u8] {
        &self.offer.config
    }

    fn descriptors(&self) -> Vec<Descriptor> {
        let connection = |number, what: &str| Descriptor {
            number,
            what: format!("{}, {what}", self.offer.name),
        };
        let backend = &self.offer.backend;
        let mut all = self.lines.descriptors(&self.offer.name);
        all.push(connection(backend.number(), "connection to its backend"));
        all.push(connection(backend.watch().as_raw_fd(), "the same, to see it hang up"));
        all
    }

    fn activate(&mut self, acked: u64, queues: &[QueueSetup]) -> Result<(), DeviceError> {
        match self.start(acked, queues) {
            Ok(()) => Ok(()),
            Err(error) => {
                let failed = self.failed(error);
                if matches!(failed, DeviceError::Refused(_)) {
                    // Some queues may run already; they shall not.
                    self.reset()?;
                }
                Err(failed)
            }
        }
    }

    fn reset(&mut self) -> Result<(), DeviceError> {
        // A queue that could not be stopped might still be written to: whatever went wrong, the run ends.
        self.stop().map_err(|error| self.gone(error))
    }

    fn connection(&self) -> Option<BorrowedFd<'_>> {
        Some(self.offer.backend.watch().as_fd())
    }
}

/// Where the parts of a queue are in this process, which is how a backend is told; none if they are not in guest memory, not in
/// one piece, or not aligned (virtio 1.2, 2.7).
fn place(index: usize, setup: &QueueSetup, memory: &GuestMemoryMmap) -> Option<VringPlace> {
    let entries = usize::from(setup.size);
    let part = |address: GuestAddress, align: u64, bytes: usize| {
        let slice = memory.get_slice(address, bytes).ok()?;
        let aligned = address.0.is_multiple_of(align);
        aligned
            .then(|| u64::try_from(slice.ptr_guard().as_ptr().addr()).ok())
            .flatten()
    };
    Some(VringPlace {
        index,
        size: setup.size,
        descriptors: part(setup.descriptors, 16, entries.checked_mul(16)?)?,
        available: part(setup.driver, 2, entries.checked_mul(2)?.checked_add(6)?)?,
        used: part(setup.device, 4, entries.checked_mul(8)?.checked_add(6)?)?,
    })
}

/// The `N` bytes of a field at `offset`.
fn get<const N: usize>(config: &[u8; CONFIG_BYTES], offset: usize) -> [u8; N] {
    std::array::from_fn(|index| config.get(offset.saturating_add(index)).copied().unwrap_or(0))
}

/// Replaces the field at `offset`.
fn put<const N: usize>(config: &mut [u8; CONFIG_BYTES], offset: usize, field: [u8; N]) {
    config
        .iter_mut()
        .skip(offset)
        .zip(field)
        .for_each(|(to, from)| *to = from);
}
