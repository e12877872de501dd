//! The way in for the fuzz targets (`tests/fuzz`), and compiled only for them: memory, the bus, an entropy device and a network
//! card, without KVM and on one thread.

use super::bus::Bus;
use super::irq::Lines;
use super::memory::Ram;
use super::virtio::Device;
use super::virtio::mmio::Transport;
use super::virtio::net::card::Card;
use super::virtio::net::{self, Net};
use super::virtio::rng::{self, Rng};
use crate::contract::Mac;
use nix::sys::epoll::EpollTimeout;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::thread;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Bytes of the guest's memory.
pub const MEMORY: u64 = 4 << 20;
/// Where the registers of the first device are; the others follow.
pub const REGISTERS: u64 = 0xd000_0000;
/// From one device's registers to the next one's.
pub const STEP: u64 = 0x1000;
/// The devices: entropy, and a network card.
pub const DEVICES: usize = 2;

/// The device status, and its bits that matter here.
const STATUS: u64 = 0x70;
const AGREED: u32 = 1 | 2 | 8;
const DRIVER_OK: u32 = 4;

/// What a guest meets.
#[derive(Debug)]
pub struct Machine {
    ram: Ram,
    bus: Bus,
    transports: Vec<Arc<Transport>>,
    devices: Vec<Box<dyn Device>>,
    card: Card,
    wire: OwnedFd,
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}

impl Machine {
    /// A machine that was just switched on.
    ///
    /// # Panics
    /// There is no memory, or there are no descriptors.
    #[must_use]
    pub fn new() -> Self {
        let ram = Ram::new(MEMORY).expect("there is memory");
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let (tap, wire) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).expect("there are descriptors");
        let lines = |queues| Arc::new(Lines::unconnected(queues).expect("there are descriptors"));
        let (of_rng, of_net) = (lines(rng::QUEUES), lines(net::QUEUES));
        let memory = ram.guest().clone();
        let (net, card) = Net::new(
            "net 0".to_owned(),
            tap,
            Mac([2, 0, 0, 0, 0, 1]),
            memory.clone(),
            Arc::clone(&of_net),
        )
        .expect("there are descriptors");
        let devices: Vec<Box<dyn Device>> = vec![Box::new(Rng::new(memory, Arc::clone(&of_rng))), Box::new(net)];
        let bell = Arc::new(EventFd::new(EFD_NONBLOCK).expect("there are descriptors"));
        let mut bus = Bus::default();
        let mut transports = Vec::new();
        let mut base = REGISTERS;
        for (device, lines) in devices.iter().zip([of_rng, of_net]) {
            let transport = Arc::new(Transport::new(device.as_ref(), lines, Arc::clone(&bell)));
            let place: Arc<Transport> = Arc::clone(&transport);
            bus.add(base..base + STEP, place).expect("they are apart");
            transports.push(transport);
            base += STEP;
        }
        Self {
            ram,
            bus,
            transports,
            devices,
            card,
            wire,
        }
    }

    /// A processor reads.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        self.bus.read(address, data);
    }

    /// A processor writes, and the control thread does what that asks for if the processor waits for it.
    ///
    /// # Panics
    /// A processor waits for ever, or a device gives up the run.
    pub fn write(&mut self, address: u64, data: &[u8]) {
        let waits = address.checked_sub(REGISTERS).is_some_and(|at| at % STEP == STATUS) && data == [0; 4];
        if !waits {
            assert!(self.bus.write(address, data).is_continue());
            return;
        }
        let (bus, transports, devices) = (&self.bus, &self.transports, &mut self.devices);
        thread::scope(|scope| {
            let processor = scope.spawn(|| bus.write(address, data).is_continue());
            while !processor.is_finished() {
                perform(transports, devices);
                thread::yield_now();
            }
            assert!(processor.join().expect("a processor does not panic"));
        });
    }

    /// The guest's memory from `address` on becomes `data`, as far as there is memory.
    pub fn put(&self, address: u64, data: &[u8]) {
        let _ = self.ram.guest().write(data, GuestAddress(address));
    }

    /// A turn of the control thread.
    ///
    /// # Panics
    /// A device gives up the run.
    pub fn perform(&mut self) {
        perform(&self.transports, &mut self.devices);
    }

    /// A device that the control thread serves was kicked. Says whether it is busy still.
    pub fn serve(&mut self, device: usize) -> bool {
        self.devices.get_mut(device).is_some_and(|device| device.serve())
    }

    /// A frame arrives at the card.
    pub fn arrive(&self, frame: &[u8]) {
        // What does not fit is dropped, as on a wire.
        let _ = send(self.wire.as_raw_fd(), frame, MsgFlags::empty());
    }

    /// A turn of the card's thread. Says whether it is busy still.
    ///
    /// # Panics
    /// It cannot wait for what it is to wait for.
    pub fn turn(&mut self) -> bool {
        self.card.wait(EpollTimeout::ZERO).expect("its descriptors are open");
        let busy = self.card.turn();
        let mut frame = [0; 256];
        while recv(self.wire.as_raw_fd(), &mut frame, MsgFlags::empty()).is_ok() {}
        busy
    }

    /// What must hold whatever the guest did.
    ///
    /// # Panics
    /// It does not.
    pub fn check(&self) {
        for index in 0..DEVICES {
            let base = REGISTERS + STEP * u64::try_from(index).expect("it is small");
            let word = |offset| {
                let mut word = [0; 4];
                self.read(base + offset, &mut word);
                u32::from_le_bytes(word)
            };
            let status = word(STATUS);
            assert!(
                status & DRIVER_OK == 0 || status & AGREED == AGREED,
                "status {status:#x}"
            );
            assert_eq!(word(0x60) & 1, 1, "a queue may have been used");
            assert_eq!(word(0), 0x7472_6976);
        }
    }
}

fn perform(transports: &[Arc<Transport>], devices: &mut [Box<dyn Device>]) {
    for (transport, device) in transports.iter().zip(devices) {
        transport
            .perform(device.as_mut())
            .expect("neither device has a backend that could be gone");
    }
}
