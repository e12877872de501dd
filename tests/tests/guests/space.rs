//! What a guest discards, the host has again at once. The overlay is looked at from outside, which only root can.

use std::fs;
use std::os::unix::fs::MetadataExt;

use tests::helper::Helper;
use tests::place::Place;
use tests::require;

use crate::support::{boot, busybox, ok, poweroff, turn};

const MIB: u64 = 1 << 20;

const DISK: usize = 96 << 20;

#[test]
fn what_a_guest_discards_the_host_has_again() {
    require!(first_time);
    require!(root);
    let _turn = turn();
    let place = Place::with_noise(DISK, 7);
    let helper = place.helper().start();
    let mut guest = boot(busybox(&helper, 2));

    let fresh = overlay_bytes(&helper, &place);
    ok(&mut guest, "dd if=/dev/urandom of=/dev/vda bs=1M count=64 conv=fsync");
    let written = overlay_bytes(&helper, &place);
    ok(&mut guest, "blkdiscard -o 0 -l $((48 << 20)) /dev/vda");
    let discarded = overlay_bytes(&helper, &place);
    ok(&mut guest, "blkdiscard /dev/vda");
    let empty = overlay_bytes(&helper, &place);

    assert_eq!(fresh, 0);
    assert!(written >= 64 * MIB, "{written}");
    assert!(discarded + 48 * MIB <= written, "{written} {discarded}");
    assert!(empty + 64 * MIB <= written, "{written} {empty}");
    assert_eq!(ok(&mut guest, "tr -d '\\0' </dev/vda | wc -c"), "0");
    poweroff(&mut guest);
    helper.terminate();
}

/// What the overlay's two files take on the host: found among the helper's descriptors by where they are, as they have no name.
fn overlay_bytes(helper: &Helper, place: &Place) -> u64 {
    let dir = place.overlay_dir().canonicalize().expect("the place exists");
    let overlays: Vec<_> = fs::read_dir(helper.proc("fd"))
        .expect("root may look")
        .map(|entry| entry.expect("root may look").path())
        .filter(|fd| fs::read_link(fd).expect("root may look").starts_with(&dir))
        .collect();
    assert_eq!(overlays.len(), 2, "one in use, one for the next reset: {overlays:?}");
    let blocks = |overlay: &_| fs::metadata(overlay).expect("root may look").blocks();
    overlays.iter().map(blocks).sum::<u64>() * 512
}
