//! A disk's backend that answers nonsense, refuses, hangs up or falls silent, while the machine starts and while it runs.

use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use tests::backend::{Backend, Fault};
use tests::payload::disk::{Disk, REGISTERS};
use tests::payload::{Mode, Payload};
use tests::require;
use tests::vmm::{Vmm, VmmBuilder, code};
use tests::wire::code as request;

use crate::inputs::{assert_refused, file, kernel};

/// How long a VMM that is told to end may take. It takes milliseconds; the rest is a loaded machine, and less than the half
/// minute after which it would end without being told.
const AT_ONCE: Duration = Duration::from_secs(10);

/// How long something may take that takes some hundredths of a second: the rest is a loaded machine.
const SOON: Duration = Duration::from_secs(20);

/// Long enough for the VMM to be waiting for the answer, which it does for half a minute.
const A_WHILE: Duration = Duration::from_millis(50);

/// What is asked before there is a guest.
const FIRST: [u32; 4] = [
    request::GET_FEATURES,
    request::GET_PROTOCOL_FEATURES,
    request::GET_QUEUE_NUM,
    request::GET_CONFIG,
];

/// What is said when the guest's driver is ready, and when it resets the device.
const LATER: [u32; 9] = [
    request::SET_FEATURES,
    request::SET_MEM_TABLE,
    request::SET_VRING_NUM,
    request::SET_VRING_ADDR,
    request::SET_VRING_BASE,
    request::SET_VRING_CALL,
    request::SET_VRING_KICK,
    request::SET_VRING_ENABLE,
    request::GET_VRING_BASE,
];

/// No message has this code.
const NEVER: u32 = 0;

/// A VMM with a guest that brings its disk to life, waits for a key, resets the disk, and switches off.
fn machine(at: u32, fault: Fault) -> (Vmm, Backend) {
    let program = Disk::new(0).start(Payload::new(Mode::Protected)).wait_for_key();
    let program = program.store(REGISTERS + 0x70, 0).power_off();
    let (backend, connection) = Backend::connected(at, fault);
    let machine = VmmBuilder::new(file(&program.to_elf())).descriptor("disk", connection);
    (machine.start(), backend)
}

/// The same, up to where the message is said.
fn machine_that_says(at: u32, fault: Fault) -> (Vmm, Backend) {
    let (mut vmm, backend) = machine(at, fault);
    let at_reset = at == request::GET_VRING_BASE;
    let said = if at_reset { request::SET_VRING_ENABLE } else { at };
    assert!(backend.hears(&[said], SOON), "{at} {fault:?}: {:?}", vmm.wait());
    if at_reset {
        vmm.type_in("x");
        assert!(backend.hears(&[at], SOON), "{fault:?}: {:?}", vmm.wait());
    }
    (vmm, backend)
}

#[test]
fn a_backend_without_a_fault_is_one_that_a_guest_can_use() {
    require!(kvm);
    let (mut vmm, backend) = machine(NEVER, Fault::HangsUp);
    assert!(backend.hears(&[request::SET_VRING_ENABLE], SOON));

    vmm.type_in("x");

    let ended = vmm.wait();
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(code::POWERED_OFF), ""));
}

/// Each fault at each message that it can be noticed at; what is said late, only before another message.
fn at_each(messages: &[u32]) -> Vec<(u32, Fault)> {
    let (_, before) = messages.split_last().expect("there are some");
    let faults = |at: &u32, faults: &[Fault]| faults.iter().map(|fault| (*at, *fault)).collect::<Vec<_>>();
    let at_once = messages.iter().flat_map(|at| faults(at, &Fault::LOUD));
    at_once
        .chain(before.iter().flat_map(|at| faults(at, &Fault::BELATED)))
        .collect()
}

#[test]
fn a_backend_that_talks_nonsense_at_the_start_is_not_accepted() {
    require!(kvm);
    for (at, fault) in at_each(&FIRST) {
        let ended = machine(at, fault).0.wait();

        println!("{at} {fault:?}");
        assert_refused(&ended, code::CANNOT_START, "cannot use disk 0");
    }
}

#[test]
fn a_backend_that_talks_nonsense_later_ends_the_run() {
    require!(kvm);
    for (at, fault) in at_each(&LATER) {
        let (mut vmm, _backend) = machine_that_says(at, fault);
        vmm.type_in("x");

        let ended = vmm.wait();

        println!("{at} {fault:?}");
        assert_eq!(ended.code, Some(code::DISK_GONE), "{ended:?}");
        assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
    }
}

#[test]
fn a_backend_that_refuses_what_the_guest_wants_is_the_guests_affair() {
    require!(kvm);
    for at in LATER.into_iter().take_while(|at| *at != request::SET_VRING_ENABLE) {
        let (mut vmm, _backend) = machine_that_says(at, Fault::Refuses);
        vmm.type_in("x");

        let ended = vmm.wait();

        assert_eq!(ended.code, Some(code::POWERED_OFF), "{at}: {ended:?}");
    }
}

/// It may be at work on the queue, and nobody can tell it to stop.
#[test]
fn a_backend_that_refuses_to_start_and_to_stop_a_queue_ends_the_run() {
    require!(kvm);
    let (mut vmm, _backend) = machine_that_says(request::SET_VRING_ENABLE, Fault::Refuses);

    assert_eq!(vmm.wait().code, Some(code::DISK_GONE));
}

/// Nothing here may close a descriptor once there is a guest, not even one that it was given: the filter ends the process.
#[test]
fn a_backend_that_gives_descriptors_is_refused_or_ends_the_run() {
    require!(kvm);
    for at in FIRST {
        let ended = machine(at, Fault::Descriptors).0.wait();
        assert_refused(&ended, code::CANNOT_START, "cannot use disk 0");
    }
    for at in LATER {
        let (mut vmm, _backend) = machine_that_says(at, Fault::Descriptors);
        vmm.type_in("x");

        let ended = vmm.wait();

        assert_eq!(ended.signal, Some(31), "{at}: {ended:?}");
    }
}

#[test]
fn a_silent_backend_does_not_keep_a_machine_from_being_told_to_end() {
    require!(kvm);
    for fault in Fault::QUIET {
        for at in FIRST.into_iter().chain(LATER) {
            let (mut vmm, _backend) = machine_that_says(at, fault);
            thread::sleep(A_WHILE);

            vmm.signal(Signal::SIGTERM);

            let ended = vmm.wait_within(AT_ONCE);
            assert_eq!(ended.code, Some(code::TOLD), "{at} {fault:?}: {ended:?}");
        }
    }
}

/// The alarm itself takes half a minute; what it does is the same at once.
#[test]
fn a_silent_backend_is_a_disk_that_is_gone() {
    require!(kvm);
    for at in [request::GET_FEATURES, request::SET_MEM_TABLE, request::GET_VRING_BASE] {
        let (mut vmm, _backend) = machine_that_says(at, Fault::Silence);

        vmm.signal(Signal::SIGALRM);

        let ended = vmm.wait_within(AT_ONCE);
        assert_eq!(ended.code, Some(code::DISK_GONE), "{ended:?}");
        assert!(ended.stderr.contains("a disk's backend does not answer"), "{ended:?}");
    }
}

#[test]
fn a_machine_with_more_disks_than_fit_is_refused() {
    require!(kvm);
    let with_disks = |count: usize| {
        (0..count).fold(VmmBuilder::new(kernel()), |machine, _| {
            machine.another_descriptor("disk", Backend::connected(NEVER, Fault::Silence).1)
        })
    };

    assert_refused(&with_disks(19).start().wait(), code::CANNOT_START, "too many");
    assert_eq!(with_disks(18).start().wait().code, Some(code::POWERED_OFF));
}
