//! A whole distribution on a disk that burns: it must notice nothing.

use tests::guest::{Guest, System};
use tests::place::Place;
use tests::require;

use crate::support::{
    Tools, Untouched, boot, busybox, debian_image, guest_digest, machine, mount_tools, ok, poweroff, reboot, tool, turn,
};

#[test]
fn debian_boots_works_reboots_and_leaves_a_clean_file_system_and_the_image_untouched() {
    require!(first_time); // an ordinary user's Debian is the demo's
    let _turn = turn();
    let image = Untouched::new(debian_image());
    let place = Place::with_base(b"");
    let helper = place.helper().base(debian_image()).start();
    let debian = |queues| machine(System::Debian).vhost_user_disk(helper.socket(), queues);

    let mut guest = boot(debian(4).cpus(4));
    assert_eq!(ok(&mut guest, "ls /sys/block/vda/mq | wc -l"), "4");
    let digest = writes_a_file(&mut guest);
    reboot(&mut guest);
    assert_eq!(guest_digest(&mut guest, FILE), digest);
    is_in_order(&mut guest);
    poweroff(&mut guest);

    // The helper outlives QEMU, and another one may ask for less.
    let mut guest = boot(debian(1));
    assert_eq!(guest_digest(&mut guest, FILE), digest);
    is_in_order(&mut guest);
    poweroff(&mut guest);

    // Another system looks at what Debian left.
    let tools = Tools::start();
    let mut guest = boot(tools.add_to(busybox(&helper, 1)));
    mount_tools(&mut guest);
    ok(&mut guest, &tool("e2fsck -fn /dev/vda"));
    ok(&mut guest, "mkdir /tmp/disk && mount -t ext4 -o ro /dev/vda /tmp/disk");
    assert_eq!(guest_digest(&mut guest, &format!("/tmp/disk{FILE}")), digest);
    poweroff(&mut guest);

    helper.terminate();
    image.assert();
}

const FILE: &str = "/srv/file";

/// Returns its digest.
fn writes_a_file(debian: &mut Guest) -> String {
    ok(
        debian,
        &format!("dd if=/dev/urandom of={FILE} bs=1M count=16 conv=fsync"),
    );
    guest_digest(debian, FILE)
}

/// Its root is our disk, no unit failed, and the kernel has no complaint about the disk.
fn is_in_order(debian: &mut Guest) {
    assert_eq!(ok(debian, "findmnt -no SOURCE,FSTYPE /"), "/dev/vda ext4");
    assert_eq!(ok(debian, "systemctl --failed --no-legend"), "");
    assert_eq!(ok(debian, "dmesg --level=emerg,alert,crit,err | grep vda || true"), "");
}
