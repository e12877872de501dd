//! Where a file system can share blocks, a raw image takes no space but for what the guest changed.

use std::fs;
use std::path::Path;
use std::process::Command;

use tests::client::Request;
use tests::mounted::{Kind, Mounted, for_this_thread_only, free_bytes};
use tests::place::Place;
use tests::require;
use tests::rng::Rng;

use crate::support::{RAW, connect, operated, save};

const DISK: usize = 64 << 20;

/// What an image may take: what was changed, and what the file system writes about it. A copy would take 64 MiB.
const SMALL: u64 = 8 << 20;

/// Whether FIEMAP calls any extent of the file shared.
fn has_shared_extents(path: &Path) -> bool {
    let told = Command::new("filefrag").arg("-v").arg(path).output();
    let told = told.expect("filefrag is installed (Debian: e2fsprogs)");
    String::from_utf8_lossy(&told.stdout)
        .lines()
        .any(|line| line.contains("shared"))
}

/// Saves a disk whose base is on a file system of this kind to the same file system.
fn a_raw_image_shares_its_base_on(kind: Kind) {
    for_this_thread_only();
    // A base that ends within a cluster, and within a block of the file system.
    let place = Place::with_base(&Rng::new(3).bytes(DISK + 1536));
    let at = place.dir().join("shared");
    fs::create_dir(&at).expect("the place can be written");
    let image = place.dir().join("image");
    kind.make(&image, 400);
    let Some(mounted) = Mounted::image(&image, &at) else {
        require::skip("needs loop devices, xfs and btrfs");
        return;
    };
    let base = at.join("base.raw");
    fs::copy(place.base(), &base).expect("there is room");
    let (helper, operator) = operated(place.helper().base(&base));
    let mut client = connect(&helper);
    client.write(1 << 20, &[7; 1 << 20]);
    client.write(9 << 20, &[8; 512]);
    let (offset, len) = (20 << 20, 2 << 20);
    assert_eq!(client.run(&Request::Discard { offset, len }), 0);
    mounted.sync();
    let before = free_bytes(&at);

    let saved = save(&operator, RAW, at.join("saved"));

    mounted.sync();
    let taken = before.saturating_sub(free_bytes(&at));
    assert!(taken < SMALL, "{kind:?}: the image took {taken} bytes of its own");
    assert!(
        fs::read(&saved).expect("it was saved") == client.read_all(),
        "{kind:?}: not the disk"
    );
    assert!(
        fs::read(&base).expect("it is served") == place.content(),
        "{kind:?}: the base was changed"
    );
    assert!(
        has_shared_extents(&saved),
        "{kind:?}: the file system calls no extent shared"
    );
    helper.terminate();
    mounted.unmount();
}

#[test]
fn on_xfs_a_raw_image_shares_the_blocks_of_its_base() {
    require!(root);
    a_raw_image_shares_its_base_on(Kind::Xfs);
}

#[test]
fn on_btrfs_a_raw_image_shares_the_blocks_of_its_base() {
    require!(root);
    a_raw_image_shares_its_base_on(Kind::Btrfs);
}
