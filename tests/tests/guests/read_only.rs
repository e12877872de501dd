//! A disk without an overlay: the guest knows that it cannot write, and cannot.

use tests::place::Place;
use tests::require;

use crate::support::{Tools, boot, busybox, fails, guest_digest, host_digest, ok, poweroff, turn};

const DISK: usize = 16 << 20;

#[test]
fn a_read_only_disk_is_read_only_to_the_guest() {
    require!(first_time);
    let _turn = turn();
    let place = Place::with_noise(DISK, 4);
    let helper = place.helper().read_only().start();
    let tools = Tools::start();
    let mut guest = boot(tools.add_to(busybox(&helper, 1)));

    assert_eq!(ok(&mut guest, "cat /sys/block/vda/ro"), "1");
    assert_eq!(ok(&mut guest, "cat /sys/block/vda/queue/discard_max_bytes"), "0");
    fails(&mut guest, "dd if=/dev/zero of=/dev/vda bs=4k count=1 conv=fsync");
    fails(
        &mut guest,
        "blockdev --setrw /dev/vda && dd if=/dev/zero of=/dev/vda bs=4k count=1 conv=fsync",
    );
    fails(&mut guest, "blkdiscard /dev/vda");
    assert_eq!(guest_digest(&mut guest, "/dev/vda"), host_digest(&place.base()));

    // The Debian image is served the same way, and has a file system.
    ok(&mut guest, "mount -t ext4 /dev/vdb /mnt");
    ok(&mut guest, "grep -q '^/dev/vdb /mnt ext4 ro' /proc/mounts");
    assert!(fails(&mut guest, "echo x >/mnt/x").contains("Read-only file system"));
    fails(&mut guest, "mount -o remount,rw /mnt");
    poweroff(&mut guest);
    helper.terminate();
}
