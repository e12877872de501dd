//! An overlay that can grow no further, by the operator's limit or because the host's disk is full: the guest sees
//! I/O errors, loses nothing that was there, and can go on once it gave something back; the operator is told, once.

use nix::sys::signal::Signal;
use protocol::launch::ExitCode;
use tests::guest::Guest;
use tests::helper::{END, Helper};
use tests::place::Place;
use tests::require;

use crate::support::{Tools, boot, busybox, fails, guest_digest, mount_tools, ok, poweroff, tool, turn};

const DISK: usize = 96 << 20;

/// Much less than the disk, and enough for the file system itself and the first file.
const LIMIT: &str = "32M";

#[test]
fn a_guest_at_its_limit_gets_errors_and_works_again_after_a_trim() {
    require!(first_time);
    let _turn = turn();
    let place = Place::with_noise(DISK, 5);
    let helper = place.helper().value("--overlay-limit", LIMIT).start();

    a_guest_fills_the_overlay_and_recovers(helper);
}

#[test]
fn a_guest_on_a_full_host_gets_errors_and_works_again_after_a_trim() {
    require!(private_mounts);
    let _turn = turn();
    let place = Place::with_noise(DISK, 6);
    let helper = place.helper().on_small_tmpfs(LIMIT).start();

    a_guest_fills_the_overlay_and_recovers(helper);
}

fn a_guest_fills_the_overlay_and_recovers(helper: Helper) {
    let tools = Tools::start();
    let mut guest = boot(tools.add_to(busybox(&helper, 2)));
    let digest = begins_with_a_file(&mut guest);

    let complaint = fails(
        &mut guest,
        "dd if=/dev/zero of=/tmp/disk/fill bs=64k count=1024 oflag=direct",
    );
    assert!(
        complaint.contains("I/O error") || complaint.contains("Input/output error"),
        "{complaint}"
    );
    assert_eq!(guest_digest(&mut guest, "/tmp/disk/early"), digest);

    ok(&mut guest, "rm /tmp/disk/fill && sync && fstrim /tmp/disk");
    ok(
        &mut guest,
        "dd if=/dev/urandom of=/tmp/random bs=1M count=16 && cp /tmp/random /tmp/disk/late && sync",
    );
    let late = guest_digest(&mut guest, "/tmp/random");
    assert_eq!(guest_digest(&mut guest, "/tmp/disk/late"), late);
    assert_eq!(guest_digest(&mut guest, "/tmp/disk/early"), digest);
    ok(&mut guest, "umount /tmp/disk");
    ok(&mut guest, &tool("e2fsck -fn /dev/vda"));
    poweroff(&mut guest);

    helper.signal(Signal::SIGTERM);
    let ended = helper.wait_within(END);
    ended.assert_code(ExitCode::Burnt);
    assert_eq!(ended.stderr.matches("the guest was told").count(), 1, "{ended:?}");
}

/// A file system with one file; returns the file's digest.
///
/// Without a journal: one that cannot be written any more is given up by ext4, as on any failing disk, and the file
/// system with it. All of this one's metadata is in the overlay once the first file is.
fn begins_with_a_file(guest: &mut Guest) -> String {
    mount_tools(guest);
    ok(guest, &tool("mkfs.ext4 -q -F -b 4096 -O ^has_journal /dev/vda"));
    ok(guest, "mkdir /tmp/disk && mount -t ext4 /dev/vda /tmp/disk");
    ok(
        guest,
        "dd if=/dev/urandom of=/tmp/disk/early bs=1M count=8 conv=fsync && touch /tmp/disk/fill && sync",
    );
    guest_digest(guest, "/tmp/disk/early")
}
