//! The transport as a driver meets it, and as somebody meets it who is no driver.

mod hostile;

use super::*;
use crate::machine::virtio::mmio::registers::status::{
    ACKNOWLEDGE, DRIVER, DRIVER_OK, FAILED, FEATURES_OK, NEEDS_RESET,
};
use crate::machine::virtio::{QueueSetup, VERSION_1};
use policy::Descriptor;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;
use vm_memory::GuestAddress;
use vmm_sys_util::eventfd::EFD_NONBLOCK;

const OFFER: u64 = VERSION_1 | 1 << 29 | 1 << 5;
const READY: u32 = ACKNOWLEDGE | DRIVER | FEATURES_OK;

/// Remembers what it was told.
#[derive(Debug, Default)]
struct Fake {
    active: Option<(u64, Vec<QueueSetup>)>,
    refuses: bool,
    gone: bool,
    resets: usize,
}

impl Device for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn id(&self) -> u32 {
        42
    }

    fn offered(&self) -> u64 {
        OFFER
    }

    fn queue_sizes(&self) -> &[u16] {
        &[64, 8]
    }

    fn config(&self) -> &[u8] {
        &[1, 2, 3, 4, 5, 6]
    }

    fn descriptors(&self) -> Vec<Descriptor> {
        Vec::new()
    }

    fn activate(&mut self, acked: u64, queues: &[QueueSetup]) -> Result<(), DeviceError> {
        assert!(self.active.is_none(), "activated twice");
        let why = || "so it is".into();
        if self.gone {
            let device = "fake".to_owned();
            return Err(DeviceError::Gone { device, source: why() });
        }
        if self.refuses {
            return Err(DeviceError::Refused(why()));
        }
        self.active = Some((acked, queues.to_vec()));
        Ok(())
    }

    fn reset(&mut self) -> Result<(), DeviceError> {
        self.active = None;
        self.resets += 1;
        Ok(())
    }
}

fn machine() -> (Arc<Transport>, Fake) {
    let fake = Fake::default();
    let lines = Arc::new(Lines::unconnected(2).unwrap());
    let bell = Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
    (Arc::new(Transport::new(&fake, lines, bell)), fake)
}

fn get(transport: &Transport, offset: u64) -> u32 {
    let mut word = [0xff; 4];
    transport.read(offset, &mut word);
    u32::from_le_bytes(word)
}

fn set(transport: &Transport, offset: u64, value: u32) {
    assert!(transport.write(offset, &value.to_le_bytes()).is_continue());
}

/// What a driver does up to FEATURES_OK.
fn agree(transport: &Transport, features: u64) {
    set(transport, 0x70, ACKNOWLEDGE);
    set(transport, 0x70, ACKNOWLEDGE | DRIVER);
    for (index, word) in [(0, features & 0xffff_ffff), (1, features >> 32)] {
        set(transport, 0x24, index);
        set(transport, 0x20, u32::try_from(word).unwrap());
    }
    set(transport, 0x70, READY);
}

/// What a driver does for one queue.
fn set_up(transport: &Transport, queue: u32, size: u32) {
    set(transport, 0x30, queue);
    set(transport, 0x38, size);
    for (offset, value) in [
        (0x80, 0x1000),
        (0x84, 1),
        (0x90, 0x2000),
        (0x94, 2),
        (0xa0, 0x3000),
        (0xa4, 3),
    ] {
        set(transport, offset, value);
    }
    set(transport, 0x44, 1);
}

fn is_rung(transport: &Transport) -> bool {
    transport.bell.read().is_ok()
}

#[test]
fn a_driver_finds_what_the_specification_says() {
    let (transport, _) = machine();

    assert_eq!(get(&transport, 0x00), 0x7472_6976);
    assert_eq!(get(&transport, 0x04), 2);
    assert_eq!(get(&transport, 0x08), 42);
    assert_eq!(get(&transport, 0x10), u32::try_from(OFFER & 0xffff_ffff).unwrap());
    set(&transport, 0x14, 1);
    assert_eq!(get(&transport, 0x10), 1);
    set(&transport, 0x14, 2);
    assert_eq!(get(&transport, 0x10), 0);
    for (queue, max) in [(0, 64), (1, 8), (2, 0), (u32::MAX, 0)] {
        set(&transport, 0x30, queue);
        assert_eq!(get(&transport, 0x34), max);
    }
    assert_eq!(get(&transport, 0x60), 1, "a queue may have been used");
    assert_eq!(get(&transport, 0xb0), u32::MAX, "no shared memory");
    assert_eq!(get(&transport, 0xb4), u32::MAX, "no shared memory");
    assert_eq!(get(&transport, 0xfc), 0);
}

#[test]
fn a_driver_that_does_everything_right_gets_its_device() {
    let (transport, mut fake) = machine();
    agree(&transport, VERSION_1 | 1 << 29);
    assert_eq!(get(&transport, 0x70), READY);
    set_up(&transport, 0, 32);
    assert!(!is_rung(&transport));

    set(&transport, 0x70, READY | DRIVER_OK);
    assert!(is_rung(&transport));
    transport.perform(&mut fake).unwrap();

    let (acked, queues) = fake.active.clone().unwrap();
    assert_eq!(acked, VERSION_1 | 1 << 29);
    let address = |high: u64, low| GuestAddress(high << 32 | low);
    let expected = QueueSetup {
        size: 32,
        descriptors: address(1, 0x1000),
        driver: address(2, 0x2000),
        device: address(3, 0x3000),
        ready: true,
    };
    assert_eq!(queues[0], expected);
    assert!(!queues[1].ready);
    assert_eq!(get(&transport, 0x70), READY | DRIVER_OK);
    transport.perform(&mut fake).unwrap();
    assert!(transport.lines.call.read().is_err(), "nothing to say");
}

#[test]
fn features_beyond_the_offer_or_without_version_1_are_not_agreed() {
    for features in [VERSION_1 | 1 << 7, 1 << 29] {
        let (transport, _) = machine();
        agree(&transport, features);
        assert_eq!(get(&transport, 0x70), ACKNOWLEDGE | DRIVER);

        set_up(&transport, 0, 32);
        assert_eq!(get(&transport, 0x44), 0, "no queue before the features");
        set(&transport, 0x70, ACKNOWLEDGE | DRIVER | DRIVER_OK);
        assert_eq!(get(&transport, 0x70), ACKNOWLEDGE | DRIVER);
        assert!(!is_rung(&transport));
    }
}

#[test]
fn a_queue_keeps_its_layout_while_it_is_ready_and_once_the_driver_is() {
    let (transport, mut fake) = machine();
    agree(&transport, VERSION_1);
    set_up(&transport, 1, 4);
    for size in [0, 3, 16, 0x1_0004, u32::MAX] {
        set(&transport, 0x44, 0);
        set(&transport, 0x38, size);
        set(&transport, 0x44, 1);
    }
    set(&transport, 0x38, 8);
    set(&transport, 0x80, 0xdead_0000);
    set(&transport, 0x70, READY | DRIVER_OK);
    set(&transport, 0x44, 0);
    transport.perform(&mut fake).unwrap();

    let queue = fake.active.unwrap().1[1];
    assert_eq!((queue.size, queue.descriptors.0, queue.ready), (4, 0x1_0000_1000, true));
}

#[test]
fn a_device_that_cannot_says_that_it_needs_a_reset() {
    let (transport, mut fake) = machine();
    fake.refuses = true;
    agree(&transport, VERSION_1);
    set(&transport, 0x70, READY | DRIVER_OK);
    transport.perform(&mut fake).unwrap();

    assert_eq!(get(&transport, 0x70), READY | DRIVER_OK | NEEDS_RESET);
    assert_eq!(transport.lines.call.read().unwrap(), 1);
    assert_eq!(get(&transport, 0x60), 3);
    set(&transport, 0x64, 3);
    assert_eq!(get(&transport, 0x60), 1);

    set(&transport, 0x70, 0);
    assert_eq!(get(&transport, 0x70), 0);
    fake.refuses = false;
    agree(&transport, VERSION_1);
    set(&transport, 0x70, READY | DRIVER_OK);
    transport.perform(&mut fake).unwrap();
    assert!(fake.active.is_some());
}

#[test]
fn a_device_that_is_gone_ends_the_run() {
    let (transport, mut fake) = machine();
    fake.gone = true;
    agree(&transport, VERSION_1);
    set(&transport, 0x70, READY | DRIVER_OK);

    let error = transport.perform(&mut fake).unwrap_err();

    assert!(matches!(error, DeviceError::Gone { .. }));
}

#[test]
fn a_reset_is_done_when_its_write_returns() {
    let (transport, mut fake) = machine();
    agree(&transport, VERSION_1);
    set(&transport, 0x70, READY | DRIVER_OK);
    transport.perform(&mut fake).unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let processor = {
        let (transport, done) = (Arc::clone(&transport), Arc::clone(&done));
        thread::spawn(move || {
            set(&transport, 0x70, 0);
            done.store(true, Ordering::SeqCst);
            get(&transport, 0x70)
        })
    };
    while !transport.registers().is_stopping() {
        thread::yield_now();
    }
    thread::sleep(Duration::from_millis(20));
    assert!(!done.load(Ordering::SeqCst));
    assert_eq!(
        get(&transport, 0x70),
        READY | DRIVER_OK,
        "until then it has not happened"
    );

    transport.perform(&mut fake).unwrap();

    assert_eq!(processor.join().unwrap(), 0);
    assert!(fake.active.is_none());
}

#[test]
fn a_reset_during_the_activation_wins() {
    let (transport, mut fake) = machine();
    agree(&transport, VERSION_1);
    set(&transport, 0x70, READY | DRIVER_OK);
    let work = transport.registers().work();
    assert!(matches!(work, Some(Work::Activate { .. })));
    // The control thread is busy activating; meanwhile:
    assert_eq!(transport.registers().write(0x70, 0), Effect::Stop);
    assert!(!transport.registers().activated(false));

    transport.perform(&mut fake).unwrap();

    assert_eq!(fake.resets, 1);
    assert_eq!(get(&transport, 0x70), 0);
}

#[test]
fn a_driver_that_gave_up_can_only_reset() {
    let (transport, mut fake) = machine();
    agree(&transport, VERSION_1);
    set(&transport, 0x70, READY | FAILED);
    set(&transport, 0x70, READY | FAILED | DRIVER_OK);
    set_up(&transport, 0, 8);

    assert_eq!(get(&transport, 0x70), READY | FAILED);
    assert_eq!(get(&transport, 0x44), 0);
    transport.perform(&mut fake).unwrap();
    assert!(fake.active.is_none());
    set(&transport, 0x70, 0);
    assert_eq!(get(&transport, 0x70), 0);
}

#[test]
fn the_configuration_is_read_in_any_width_and_never_written() {
    let (transport, _) = machine();
    let mut data = [0xff; 8];
    transport.read(0x101, &mut data);
    assert_eq!(data, [2, 3, 4, 5, 6, 0, 0, 0]);
    assert!(transport.write(0x100, &[9; 4]).is_continue());
    assert_eq!(get(&transport, 0x100), 0x0403_0201);
    assert_eq!(get(&transport, 0xfff), 0);
    transport.read(u64::MAX, &mut data);
    assert_eq!(data, [0; 8]);
}

#[test]
fn a_doorbell_of_another_width_kicks_all_the_same() {
    let (transport, _) = machine();
    for data in [&[1_u8] as &[u8], &[1, 0], &[1, 0, 0, 0, 0, 0, 0, 0]] {
        assert!(transport.write(0x50, data).is_continue());
        assert_eq!(transport.lines.kicks[1].read().unwrap(), 1);
    }
    for data in [&[2_u8] as &[u8], &[0, 0, 0, 0, 1, 0, 0, 0], &[0xff; 8]] {
        assert!(transport.write(0x50, data).is_continue());
    }
    transport.lines.kicks[0].read().unwrap_err();
}
