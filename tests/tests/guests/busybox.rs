//! A guest of a kernel and a shell, which looks at its disk closely: with one queue, and with one for each processor.

use tests::guest::Guest;
use tests::place::Place;
use tests::require;

use crate::support::{Tools, boot, busybox, guest_digest, host_digest, mount_tools, ok, poweroff, reboot, tool, turn};

/// As much as a guest's processor digests in a second or two.
const DISK: usize = 48 << 20;

const SERIAL: &str = "burnt-after-use-0001";

#[test]
fn a_guest_with_one_queue_uses_the_disk_and_keeps_its_data_over_a_reboot() {
    require!(first_time);
    let _turn = turn();

    a_guest_uses_the_disk(1, 2);
}

#[test]
fn a_guest_with_four_queues_uses_the_disk_and_keeps_its_data_over_a_reboot() {
    let _turn = turn();

    a_guest_uses_the_disk(4, 4);
}

fn a_guest_uses_the_disk(queues: u16, cpus: u32) {
    let place = Place::with_noise(DISK, 1);
    let helper = place.helper().value("--serial", SERIAL).start();
    let tools = Tools::start();
    let mut guest = boot(tools.add_to(busybox(&helper, queues).cpus(cpus)));

    assert_eq!(guest_digest(&mut guest, "/dev/vda"), host_digest(&place.base()));
    describes_itself(&mut guest);
    uses_every_queue(&mut guest, queues, cpus);
    mount_tools(&mut guest);
    zeroes_what_it_is_told_to(&mut guest);
    let digest = keeps_files(&mut guest);
    reboot(&mut guest);
    still_has_files(&mut guest, &digest);
    poweroff(&mut guest);

    helper.terminate();
}

/// What the driver made of the configuration space and of GET_ID.
fn describes_itself(guest: &mut Guest) {
    let queue = |name: &str| format!("cat /sys/block/vda/queue/{name}");

    assert_eq!(ok(guest, &queue("logical_block_size")), "512");
    assert_eq!(ok(guest, &queue("physical_block_size")), "4096");
    assert_eq!(ok(guest, &queue("discard_granularity")), "4096");
    assert_eq!(ok(guest, "cat /sys/block/vda/serial"), SERIAL);
    assert_eq!(ok(guest, "cat /sys/block/vda/ro"), "0");
    assert_eq!(ok(guest, "blockdev --getsize64 /dev/vda"), DISK.to_string());
    ok(guest, "test $(cat /sys/block/vda/queue/discard_max_bytes) -gt 0");
    ok(guest, "test $(cat /sys/block/vda/queue/write_zeroes_max_bytes) -gt 0");
}

/// Each processor reads something that no other did, and each queue has then completed something.
fn uses_every_queue(guest: &mut Guest, queues: u16, cpus: u32) {
    assert_eq!(ok(guest, "ls /sys/block/vda/mq | wc -l"), queues.to_string());

    ok(guest, "echo 3 >/proc/sys/vm/drop_caches");
    for cpu in 0..cpus {
        ok(
            guest,
            &format!(
                "taskset -c {cpu} dd if=/dev/vda of=/dev/null bs=4k count=64 skip={}",
                cpu * 64
            ),
        );
    }
    let used = ok(
        guest,
        "sed -n 's/^ *[0-9]*: *\\(.*\\)  *PCI-MSI.*virtio0-req.*/\\1/p' /proc/interrupts | grep -c '[1-9]'",
    );

    assert_eq!(used, queues.to_string(), "{}", ok(guest, "cat /proc/interrupts"));
}

/// Write-zeroes and discard, over the base's noise: zeros where they were asked for, and nothing else is touched.
fn zeroes_what_it_is_told_to(guest: &mut Guest) {
    let around = "(head -c 1048576 /dev/vda; tail -c +5242881 /dev/vda) | md5sum";
    let before = ok(guest, around);

    ok(
        guest,
        &tool("blkdiscard --zeroout --offset 1MiB --length 2MiB /dev/vda"),
    );
    ok(guest, &tool("blkdiscard --offset 3MiB --length 2MiB /dev/vda"));
    ok(guest, "echo 3 >/proc/sys/vm/drop_caches");

    assert_eq!(
        ok(
            guest,
            "dd if=/dev/vda bs=1M skip=1 count=4 2>/dev/null | tr -d '\\0' | wc -c"
        ),
        "0"
    );
    assert_eq!(ok(guest, around), before);
}

/// A file system with a file on it; returns the file's digest.
fn keeps_files(guest: &mut Guest) -> String {
    ok(guest, &tool("mkfs.ext4 -q -F -E nodiscard /dev/vda"));
    ok(guest, "mkdir /tmp/disk && mount -t ext4 /dev/vda /tmp/disk");

    ok(
        guest,
        "dd if=/dev/urandom of=/tmp/random bs=1M count=12 && cp /tmp/random /tmp/disk/file",
    );
    let digest = guest_digest(guest, "/tmp/random");

    assert_eq!(guest_digest(guest, "/tmp/disk/file"), digest);
    ok(
        guest,
        "cp /tmp/random /tmp/disk/gone && sync && rm /tmp/disk/gone && fstrim /tmp/disk",
    );
    assert_eq!(guest_digest(guest, "/tmp/disk/file"), digest);
    ok(guest, "umount /tmp/disk");
    digest
}

fn still_has_files(guest: &mut Guest, digest: &str) {
    mount_tools(guest);
    ok(guest, &tool("e2fsck -fn /dev/vda"));
    ok(guest, "mkdir /tmp/disk && mount -t ext4 /dev/vda /tmp/disk");

    assert_eq!(guest_digest(guest, "/tmp/disk/file"), digest);
}
