//! Virtio network card (virtio 1.2, 5.1) on an open tap: the device as the control thread has it, and what it shares with the
//! card's own thread (`card`).
//!
//! ```text
//! control thread: Net ── queues, under a lock ──▶ Card: tap ⇄ frame ⇄ queues
//!                     └─ bell ──────────────────▶
//! ```
//!
//! The thread holds the lock during a turn, which is bounded and never waits; so activation and reset are to take the lock and
//! to put queues in or take them out.
//!
//! Offered: what a guest may leave to the host when it sends (checksums, cutting large TCP segments), because the tap takes that
//! as it is. Not offered: the other direction and merged buffers; then frames arrive as they are on a wire and fit one buffer.

pub(crate) mod card;
mod header;
#[cfg(test)]
mod tests;

use super::ring::{Ring, RingError};
use super::{Complaints, Device, DeviceError, EVENT_IDX, INDIRECT_DESC, QueueSetup, VERSION_1};
use crate::contract::Mac;
use crate::machine::irq::Lines;
use card::Card;
use policy::Descriptor;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// The device's queues: one to receive, one to send.
pub(crate) const QUEUES: usize = 2;
/// The queue to receive.
const RECEIVE: usize = 0;
/// The queue to send.
const SEND: usize = 1;
/// Entries of each: as many as a tap holds frames back, about.
const QUEUE_SIZE: u16 = 256;

/// VIRTIO_NET_F_CSUM: the host completes checksums of what the guest sends.
const CSUM: u64 = 1 << 0;
/// VIRTIO_NET_F_MAC: the address is in the configuration space.
const MAC: u64 = 1 << 5;
/// VIRTIO_NET_F_HOST_TSO4: the host cuts large TCP segments over IPv4.
const HOST_TSO4: u64 = 1 << 11;
/// VIRTIO_NET_F_HOST_TSO6: the same over IPv6.
const HOST_TSO6: u64 = 1 << 12;

/// The queues in use, and what the driver acked. A queue that is not ready, or broken, is none.
#[derive(Debug)]
struct Rings {
    receive: Option<Ring>,
    send: Option<Ring>,
    acked: u64,
}

/// What the control thread and the card's share.
#[derive(Debug)]
struct Shared {
    name: String,
    rings: Mutex<Option<Rings>>,
    lines: Arc<Lines>,
    bell: EventFd,
    complaints: Complaints,
}

impl Shared {
    fn rings(&self) -> MutexGuard<'_, Option<Rings>> {
        self.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The device.
#[derive(Debug)]
pub(crate) struct Net {
    shared: Arc<Shared>,
    memory: GuestMemoryMmap,
    config: [u8; 6],
    tap: RawFd,
    epoll: RawFd,
}

impl Net {
    /// A card with the address `mac` on `tap` (see [`NetSpec::tap`](crate::contract::NetSpec::tap)), whose queues have the
    /// [`QUEUES`] kicks of `lines`; and what its thread is to run.
    ///
    /// # Errors
    /// No more descriptors, or `tap` cannot be waited for.
    pub(crate) fn new(
        name: String,
        tap: OwnedFd,
        mac: Mac,
        memory: GuestMemoryMmap,
        lines: Arc<Lines>,
    ) -> io::Result<(Self, Card)> {
        let shared = Arc::new(Shared {
            name,
            rings: Mutex::new(None),
            lines,
            bell: EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?,
            complaints: Complaints::default(),
        });
        let number = tap.as_raw_fd();
        let card = Card::new(Arc::clone(&shared), tap)?;
        let net = Self {
            shared,
            memory,
            config: mac.0,
            tap: number,
            epoll: card.epoll(),
        };
        Ok((net, card))
    }

    fn ring(&self, setup: Option<&QueueSetup>, acked: u64) -> Result<Option<Ring>, RingError> {
        setup
            .filter(|setup| setup.ready)
            .map(|setup| Ring::new(setup, acked, &self.memory))
            .transpose()
    }
}

impl Device for Net {
    fn name(&self) -> &str {
        &self.shared.name
    }

    fn id(&self) -> u32 {
        1
    }

    fn offered(&self) -> u64 {
        VERSION_1 | EVENT_IDX | INDIRECT_DESC | MAC | CSUM | HOST_TSO4 | HOST_TSO6
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE; QUEUES]
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn descriptors(&self) -> Vec<Descriptor> {
        let own = [
            (self.tap, "tap"),
            (self.epoll, "what its thread waits for"),
            (self.shared.bell.as_raw_fd(), "bell of its thread"),
        ];
        let own = own.into_iter().map(|(number, what)| Descriptor {
            number,
            what: format!("{}, {what}", self.shared.name),
        });
        self.shared
            .lines
            .descriptors(&self.shared.name)
            .into_iter()
            .chain(own)
            .collect()
    }

    fn activate(&mut self, acked: u64, queues: &[QueueSetup]) -> Result<(), DeviceError> {
        let refused = |error: RingError| DeviceError::Refused(error.into());
        let rings = Rings {
            receive: self.ring(queues.get(RECEIVE), acked).map_err(refused)?,
            send: self.ring(queues.get(SEND), acked).map_err(refused)?,
            acked,
        };
        *self.shared.rings() = Some(rings);
        // Fails only where the counter is full, and then the thread has been woken already.
        let _ = self.shared.bell.write(1);
        Ok(())
    }

    fn reset(&mut self) -> Result<(), DeviceError> {
        *self.shared.rings() = None;
        Ok(())
    }
}
