//! How a machine ends by itself: switched off, rebooted, crashed.

use tests::bare;
use tests::payload::disk::Disk;
use tests::payload::{Mode, Payload};
use tests::place::Place;
use tests::require;
use tests::supervised::END;

use crate::{SOON, turn};

const MODES: [Mode; 2] = [Mode::Protected, Mode::Long];

#[test]
fn a_guest_that_switches_itself_off_ends_the_run_well() {
    require!(kvm);
    let _turn = turn();
    let place = Place::with_noise(1 << 20, 1);
    for mode in MODES {
        let program = Payload::new(mode).print("bye\n").power_off();

        let ended = bare::run(&place, "kvm", 1, &program).output();

        assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "bye\n"), "{ended:?}");
        assert!(ended.stderr.contains("powered itself off"), "{ended:?}");
    }
}

#[test]
fn a_guest_that_crashes_ends_the_run_with_a_code_of_its_own() {
    require!(kvm);
    let _turn = turn();
    let place = Place::with_noise(1 << 20, 1);
    for mode in MODES {
        let program = Payload::new(mode).print("ouch\n").crash();

        let ended = bare::run(&place, "kvm", 1, &program).output();

        assert_eq!((ended.code, ended.stdout.as_str()), (Some(13), "ouch\n"), "{ended:?}");
        assert!(ended.stderr.contains("a triple fault"), "{ended:?}");
    }
}

#[test]
fn a_guest_that_only_reboots_is_given_up_after_ten_times() {
    require!(kvm);
    let _turn = turn();
    let place = Place::with_noise(1 << 20, 1);
    let program = Payload::new(Mode::Protected).print("again\n").reboot();

    let ended = bare::run(&place, "kvm", 1, &program).output();

    assert_eq!(
        (ended.code, ended.stdout.as_str()),
        (Some(14), "again\n".repeat(10).as_str()),
        "{ended:?}"
    );
}

/// What is written, as the program sees it.
const MARK: u32 = 0x6d61_726b;

#[test]
fn a_reboot_is_a_new_vmm_on_the_same_disk_with_what_was_written() {
    require!(kvm);
    let _turn = turn();
    let place = Place::with_noise(1 << 20, 1);
    let disk = Disk::new(0);
    let write_and_reboot = |program: Payload| {
        disk.write(program.store(disk.data(), MARK), 8, 2)
            .print("written\n")
            .wait_for_key()
            .reboot()
    };
    let program = disk
        .read(disk.start(Payload::new(Mode::Protected)), 8, 1)
        .unless(disk.data(), MARK, write_and_reboot)
        .print("found\n")
        .wait_for_key()
        .power_off();
    let mut run = bare::run(&place, "kvm", 1, &program).on_pipes();
    run.wait_for("written\n", SOON);
    let (first, helper) = (run.process("mayfly-vmm"), run.process("blk-helper"));

    run.type_in("x");
    run.wait_for("found\n", SOON);

    assert_ne!(run.process("mayfly-vmm"), first);
    assert_eq!(run.process("blk-helper"), helper);
    run.type_in("x");
    let ended = run.wait_within(END);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stderr.contains("a new VMM on the same disks"), "{ended:?}");
}
