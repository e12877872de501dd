//! Every device in its place: which registers and interrupt line it has, and who does its work.
//!
//! The order of the virtio devices is part of what a guest sees (Linux numbers them in it): disks, network cards, entropy. Devices
//! are made before the process is sealed, with all descriptors they will ever have.

use super::bus::{BusDevice, OverlapError};
use super::control::Place;
use super::irq::{Lines, LinesError};
use super::layout::{self, VIRTIO_DEVICES, VIRTIO_STRIDE, VirtioSlot};
use super::memory::Ram;
use super::power::{ACPI_POWER_PORTS, AcpiPower, Keyboard};
use super::serial::Com1;
use super::vcpu::Buses;
use super::virtio::blk::{BackendError, Offer};
use super::virtio::mmio::Transport;
use super::virtio::net::Net;
use super::virtio::net::card::Card;
use super::virtio::rng::Rng;
use super::virtio::{Device, net, rng};
use super::vm::Vm;
use crate::contract::Mac;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use thiserror::Error;
use vmm_sys_util::eventfd::EventFd;

/// Why a device is not there.
#[derive(Debug, Error)]
pub(crate) enum DevicesError {
    #[error("{wanted} disks and network cards are too many; {most} fit")]
    TooMany { wanted: usize, most: usize },
    #[error("cannot use disk {index}")]
    Disk {
        index: usize,
        #[source]
        source: BackendError,
    },
    #[error("cannot use network card {index}")]
    Net {
        index: usize,
        #[source]
        source: io::Error,
    },
    #[error("cannot connect a device to the guest")]
    Lines(#[source] LinesError),
    #[error("two devices have the same place")]
    Overlap(#[source] OverlapError),
}

/// What devices are made from.
#[derive(Debug)]
pub(crate) struct Backends {
    /// Sockets, in the order of the disks.
    pub(crate) disks: Vec<OwnedFd>,
    /// Taps, in the order of the cards.
    pub(crate) nets: Vec<(OwnedFd, Mac)>,
}

/// Every virtio device, and what remains to be run.
#[derive(Debug)]
pub(crate) struct Devices {
    pub(crate) places: Vec<Place>,
    /// What each network card's thread shall run, with its tap.
    pub(crate) cards: Vec<(RawFd, Card)>,
    /// Written by whatever wants the control thread to look at the places.
    pub(crate) bell: Arc<EventFd>,
    /// Where the devices are.
    pub(crate) slots: Vec<VirtioSlot>,
}

impl Devices {
    /// Makes all of them, for a guest with this memory and so many processors.
    ///
    /// # Errors
    /// [`DevicesError`].
    pub(crate) fn new(vm: &Vm, ram: &Ram, cpus: u8, backends: Backends, bell: EventFd) -> Result<Self, DevicesError> {
        let wanted = backends.disks.len() + backends.nets.len();
        // One place is entropy's.
        let most = VIRTIO_DEVICES - 1;
        let slots = layout::virtio_slots(wanted + 1).ok_or(DevicesError::TooMany { wanted, most })?;
        let mut devices = Self {
            places: Vec::with_capacity(slots.len()),
            cards: Vec::new(),
            bell: Arc::new(bell),
            slots: slots.clone(),
        };
        let mut slots = slots.into_iter();
        let mut lines = |queues| {
            let slot = slots.next().expect("there is a slot for each device, counted above");
            Lines::register(vm.fd(), slot, queues)
                .map(Arc::new)
                .map_err(DevicesError::Lines)
        };
        for (index, socket) in backends.disks.into_iter().enumerate() {
            let offer = Offer::ask(format!("disk {index}"), socket, cpus)
                .map_err(|source| DevicesError::Disk { index, source })?;
            let lines = lines(offer.queues())?;
            devices.add(Box::new(offer.accept(ram, Arc::clone(&lines))), lines);
        }
        for (index, (tap, mac)) in backends.nets.into_iter().enumerate() {
            let lines = lines(net::QUEUES)?;
            let number = tap.as_raw_fd();
            let (device, card) = Net::new(
                format!("net {index}"),
                tap,
                mac,
                ram.guest().clone(),
                Arc::clone(&lines),
            )
            .map_err(|source| DevicesError::Net { index, source })?;
            devices.cards.push((number, card));
            devices.add(Box::new(device), lines);
        }
        let lines = lines(rng::QUEUES)?;
        devices.add(Box::new(Rng::new(ram.guest().clone(), Arc::clone(&lines))), lines);
        Ok(devices)
    }

    /// The connections that hang up with a disk's backend.
    pub(crate) fn connections(&self) -> impl Iterator<Item = RawFd> {
        let connections = self.places.iter().filter_map(|place| place.device.connection());
        connections.map(|connection| connection.as_raw_fd())
    }

    fn add(&mut self, device: Box<dyn Device>, lines: Arc<Lines>) {
        let transport = Arc::new(Transport::new(device.as_ref(), lines, Arc::clone(&self.bell)));
        self.places.push(Place { transport, device });
    }

    /// Puts them, and what every PC has, where processors find them.
    ///
    /// # Errors
    /// Two are in the same place, which `layout` does not do.
    pub(crate) fn buses(&self, com1: Arc<Com1>) -> Result<Buses, DevicesError> {
        let mut buses = Buses::default();
        let ports: [(u16, u16, Arc<dyn BusDevice>); 3] = [
            (layout::COM1, layout::COM1_PORTS, com1),
            (layout::I8042_COMMAND, 1, Arc::new(Keyboard)),
            (layout::SLEEP_CONTROL, ACPI_POWER_PORTS, Arc::new(AcpiPower)),
        ];
        for (first, count, device) in ports {
            let first = u64::from(first);
            buses
                .ports
                .add(first..first + u64::from(count), device)
                .map_err(DevicesError::Overlap)?;
        }
        for (slot, place) in self.slots.iter().zip(&self.places) {
            let transport: Arc<Transport> = Arc::clone(&place.transport);
            buses
                .memory
                .add(slot.base..slot.base + VIRTIO_STRIDE, transport)
                .map_err(DevicesError::Overlap)?;
        }
        Ok(buses)
    }
}
