//! What was saved while a guest wrote boots elsewhere, and is what that guest had.

use std::ffi::OsStr;

use tests::ctl::Ctl;
use tests::guest::{Disk, System};
use tests::place::Place;
use tests::require;

use crate::support::{COMMAND, Tools, boot, busybox, guest_digest, machine, mount_tools, ok, poweroff, tool, turn};

const DISK: usize = 96 << 20;

#[test]
fn both_formats_saved_while_a_guest_writes_are_disks_of_qemu_with_what_the_guest_had() {
    require!(first_time);
    let _turn = turn();
    let place = Place::with_noise(DISK, 8);
    let socket = place.dir().join("ctl");
    let helper = place.helper().value("--control-path", &socket).start();
    let ctl = Ctl::at(socket);
    let tools = Tools::start();
    let mut guest = boot(tools.add_to(busybox(&helper, 2)));
    mount_tools(&mut guest);
    ok(&mut guest, &tool("mkfs.ext4 -q -F /dev/vda"));
    ok(&mut guest, "mkdir /tmp/disk && mount -t ext4 /dev/vda /tmp/disk");
    ok(
        &mut guest,
        "dd if=/dev/urandom of=/tmp/disk/synced bs=1M count=8 conv=fsync",
    );
    let digest = guest_digest(&mut guest, "/tmp/disk/synced");
    // Writes without end. What it says goes to the console, not to the agent that started it.
    ok(
        &mut guest,
        "(i=0; while dd if=/dev/zero of=/tmp/disk/more bs=64k count=128 conv=fsync; do i=$((i+1)); \
         echo written-$i; done) >/dev/ttyS0 2>/dev/null &",
    );
    guest.wait_for("written-2", COMMAND).unwrap();

    let (raw, delta) = (place.dir().join("saved.raw"), place.dir().join("saved.qcow2"));
    let words = ["save", "--format", "qcow2", "--delta", "--backing"].map(OsStr::new);
    let _ = ctl.done([OsStr::new("save"), raw.as_os_str()]);
    let _ = ctl.done(words.into_iter().chain([place.base().as_os_str(), delta.as_os_str()]));
    guest.kill().unwrap();
    helper.terminate();

    let elsewhere = tools.add_to(machine(System::Busybox).disk(Disk::QemuRaw(raw)));
    let mut guest = boot(elsewhere.disk(Disk::QemuQcow2(delta)));
    mount_tools(&mut guest);
    for device in ["/dev/vda", "/dev/vdc"] {
        ok(
            &mut guest,
            &format!("mkdir -p /tmp/disk && mount -t ext4 {device} /tmp/disk"),
        );
        assert_eq!(guest_digest(&mut guest, "/tmp/disk/synced"), digest, "{device}");
        ok(&mut guest, "umount /tmp/disk");
        ok(&mut guest, &tool(&format!("e2fsck -fn {device}")));
    }
    poweroff(&mut guest);
}
