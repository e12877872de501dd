//! Who dies first: QEMU, and the helper keeps the disk; or the helper, and its successor must not pretend to be it.

use std::time::Duration;

use protocol::launch::ExitCode;
use tests::guest::{Disk, System};
use tests::place::Place;
use tests::require;

use crate::support::{COMMAND, Tools, boot, busybox, guest_digest, machine, mount_tools, ok, poweroff, tool, turn};

const DISK: usize = 96 << 20;

/// QEMU tries again each second; the rest is a loaded machine.
const RECONNECTED: Duration = Duration::from_secs(60);

#[test]
fn what_was_synced_before_qemu_was_killed_is_there_for_the_next_one() {
    require!(first_time);
    let _turn = turn();
    let place = Place::with_noise(DISK, 2);
    let helper = place.helper().start();
    let tools = Tools::start();
    let mut killed = boot(tools.add_to(busybox(&helper, 2)));
    mount_tools(&mut killed);
    ok(&mut killed, &tool("mkfs.ext4 -q -F /dev/vda"));
    ok(&mut killed, "mkdir /tmp/disk && mount -t ext4 /dev/vda /tmp/disk");
    ok(
        &mut killed,
        "dd if=/dev/urandom of=/tmp/disk/synced bs=1M count=8 conv=fsync",
    );
    let digest = guest_digest(&mut killed, "/tmp/disk/synced");

    // Writes without end. What it says goes to the console, not to the agent that started it.
    ok(
        &mut killed,
        "(i=0; while dd if=/dev/zero of=/tmp/disk/more bs=64k count=256 conv=fsync; do i=$((i+1)); \
         echo written-$i; done) >/dev/ttyS0 2>/dev/null &",
    );
    killed.wait_for("written-3", COMMAND).unwrap();
    killed.kill().unwrap();

    let mut next = boot(tools.add_to(busybox(&helper, 2)));
    mount_tools(&mut next);
    ok(&mut next, "mkdir /tmp/disk && mount -t ext4 /dev/vda /tmp/disk");
    assert_eq!(guest_digest(&mut next, "/tmp/disk/synced"), digest);
    ok(&mut next, "umount /tmp/disk");
    ok(&mut next, &tool("e2fsck -fn /dev/vda"));
    poweroff(&mut next);
    helper.terminate();
}

#[test]
fn a_fresh_overlay_is_not_served_to_a_guest_that_lives() {
    require!(first_time);
    let _turn = turn();
    let place = Place::with_noise(DISK, 3);
    let first = place.helper().start();
    let disk = Disk::VhostUser {
        socket: place.socket(),
        queues: 2,
        reconnect: Some(1),
    };
    let mut guest = boot(machine(System::Busybox).disk(disk));
    ok(&mut guest, "dd if=/dev/urandom of=/dev/vda bs=1M count=4 conv=fsync");
    first.kill();

    let second = place.helper().start().wait_within(RECONNECTED);

    second.assert_code(ExitCode::HistoryRefused);
    assert!(
        second.stderr.contains("silently roll back the disk of a running guest"),
        "{second:?}"
    );
    assert_eq!(ok(&mut guest, "echo alive"), "alive");
    guest.kill().unwrap();
}
