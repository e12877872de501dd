use super::*;
use crate::machine::bus::BusDevice;
use crate::machine::irq::Lines;
use crate::machine::serial::Com1;
use crate::machine::virtio::QueueSetup;
use nix::unistd::{pipe, write as write_to};
use policy::Descriptor;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use vmm_sys_util::eventfd::EFD_NONBLOCK;

/// The status register, and the steps of a driver up to and with DRIVER_OK.
const STATUS: u64 = 0x70;
/// Where a driver says which features it takes, and which half of them.
const DRIVER_FEATURES: u64 = 0x20;
const DRIVER_FEATURES_SEL: u64 = 0x24;

/// A device that does what a test says, and remembers what it was asked.
#[derive(Debug)]
struct Double {
    diary: Arc<Mutex<Vec<&'static str>>>,
    kicks: Vec<EventFd>,
    connection: Option<UnixStream>,
    /// Turns that it wants before it is done.
    turns: usize,
    gone: bool,
}

impl Device for Double {
    fn name(&self) -> &'static str {
        "disk 7"
    }

    fn id(&self) -> u32 {
        2
    }

    fn offered(&self) -> u64 {
        1 << 32
    }

    fn queue_sizes(&self) -> &[u16] {
        &[16]
    }

    fn config(&self) -> &[u8] {
        &[]
    }

    fn descriptors(&self) -> Vec<Descriptor> {
        Vec::new()
    }

    fn activate(&mut self, _acked: u64, _queues: &[QueueSetup]) -> Result<(), DeviceError> {
        self.diary.lock().unwrap().push("activate");
        if self.gone {
            return Err(DeviceError::Gone {
                device: self.name().to_owned(),
                source: "it is".into(),
            });
        }
        Ok(())
    }

    fn reset(&mut self) -> Result<(), DeviceError> {
        self.diary.lock().unwrap().push("reset");
        Ok(())
    }

    fn kicks(&self) -> &[EventFd] {
        &self.kicks
    }

    fn serve(&mut self) -> bool {
        self.diary.lock().unwrap().push("serve");
        self.turns -= 1;
        self.turns > 0
    }

    fn connection(&self) -> Option<BorrowedFd<'_>> {
        self.connection.as_ref().map(AsFd::as_fd)
    }
}

/// A control loop with one device, and what is at the other ends.
struct Desk {
    control: Control,
    transport: Arc<Transport>,
    diary: Arc<Mutex<Vec<&'static str>>>,
    kick: EventFd,
    backend: Option<UnixStream>,
    typing: OwnedFd,
    com1: Arc<Com1>,
}

fn eventfd() -> EventFd {
    EventFd::new(EFD_NONBLOCK).unwrap()
}

fn desk(turns: usize, gone: bool) -> Desk {
    let (ours, backend) = UnixStream::pair().unwrap();
    let diary = Arc::default();
    let kick = eventfd();
    let device = Double {
        diary: Arc::clone(&diary),
        kicks: vec![kick.try_clone().unwrap()],
        connection: Some(ours),
        turns,
        gone,
    };
    let bell = Arc::new(eventfd());
    let lines = Arc::new(Lines::unconnected(1).unwrap());
    let transport = Arc::new(Transport::new(&device, lines, Arc::clone(&bell)));
    let place = Place {
        transport: Arc::clone(&transport),
        device: Box::new(device),
    };
    let (typed, typing) = pipe().unwrap();
    let (_, printed) = pipe().unwrap();
    let console = Console::between(typed, printed, eventfd(), eventfd());
    let com1 = Arc::clone(&console.com1);
    Desk {
        control: Control::new(console, &bell, vec![place]).unwrap(),
        transport,
        diary,
        kick,
        backend: Some(backend),
        typing,
        com1,
    }
}

impl Desk {
    fn diary(&self) -> Vec<&'static str> {
        self.diary.lock().unwrap().clone()
    }

    fn driver_writes(&self, register: u64, value: u32) {
        let _ = self.transport.write(register, &value.to_le_bytes());
    }

    /// What a driver does until the device is to come to life, with VIRTIO_F_VERSION_1.
    fn driver_is_ready(&self) {
        self.driver_writes(STATUS, 1);
        self.driver_writes(STATUS, 3);
        self.driver_writes(DRIVER_FEATURES_SEL, 1);
        self.driver_writes(DRIVER_FEATURES, 1);
        self.driver_writes(STATUS, 11);
        self.driver_writes(STATUS, 15);
    }
}

#[test]
fn a_backend_that_hangs_up_ends_the_run_with_its_name() {
    let mut desk = desk(0, false);
    drop(desk.backend.take());

    let end = desk.control.turn().unwrap_err();

    assert!(matches!(&end, End::HungUp(name) if name == "disk 7"), "{end}");
    assert_eq!(desk.control.run(), MachineExit::DiskGone);
}

#[test]
fn a_backend_that_says_something_is_left_to_whoever_asked() {
    let mut desk = desk(1, false);
    desk.backend.as_mut().unwrap().write_all(b"answer").unwrap();
    desk.kick.write(1).unwrap();

    desk.control.turn().unwrap();

    let connection = desk.control.places[0].device.connection().unwrap();
    let mut connection = UnixStream::from(connection.try_clone_to_owned().unwrap());
    let mut answer = [0; 6];
    connection.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"answer");
}

#[test]
fn a_busy_device_is_served_a_piece_at_a_time_and_others_in_between() {
    let mut desk = desk(3, false);
    desk.kick.write(1).unwrap();
    desk.control.turn().unwrap();
    write_to(&desk.typing, b"x").unwrap();

    desk.control.turn().unwrap();

    let mut typed = [0];
    desk.com1.read(0, &mut typed);
    assert_eq!(typed, *b"x");
    assert_eq!(desk.diary(), ["serve", "serve"]);
    desk.control.turn().unwrap();
    assert!(!desk.control.busy[0]);
}

#[test]
fn a_driver_that_is_ready_finds_the_device_activated() {
    let mut desk = desk(0, false);
    desk.driver_is_ready();
    desk.control.turn().unwrap();
    assert_eq!(desk.diary(), ["activate"]);
}

#[test]
fn a_device_that_is_gone_when_it_is_wanted_ends_the_run() {
    let mut desk = desk(0, true);
    desk.driver_is_ready();
    assert_eq!(desk.control.run(), MachineExit::DiskGone);
}
