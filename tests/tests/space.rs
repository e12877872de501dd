//! A full overlay: the guest sees an I/O error, loses nothing it had, and goes on once there is space.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use tests::client::{Client, Request, Setup};
use tests::mounted::Mounted;
use tests::place::Place;
use tests::require;
use tests::rng::Rng;

const EIO: i32 = -5;
const MIB: u64 = 1 << 20;

/// Writes mebibyte after mebibyte until one fails, and says how many went through.
fn fill(client: &mut Client, seed: u64) -> u64 {
    let capacity = client.capacity();
    let mut rng = Rng::new(seed);
    (0..capacity / MIB)
        .find(|index| {
            let result = client.try_write(index * MIB, &rng.bytes(1 << 20));
            assert!([0, EIO].contains(&result), "{result}");
            result == EIO
        })
        .expect("the overlay is smaller than the disk")
}

/// Checks that what went through is there.
fn assert_kept(client: &mut Client, seed: u64, count: u64) {
    let mut rng = Rng::new(seed);
    for index in 0..count {
        assert!(
            client.read(index * MIB, 1 << 20) == rng.bytes(1 << 20),
            "mebibyte {index}"
        );
    }
}

/// Fills, looks, makes room by a discard, and writes again.
fn is_full_and_recovers(client: &mut Client, content: &[u8]) {
    let count = fill(client, 1);
    assert!(count >= 2, "{count}");
    assert_kept(client, 1, count);

    let last = client.capacity() - MIB;
    let mut rest = (0..256).map(|cluster| count * MIB + cluster * 4096);
    assert!(
        rest.any(|offset| client.try_write(offset, &[3; 4096]) == EIO),
        "no room for single clusters either"
    );

    // What was never touched is the base's.
    let at = usize::try_from(last).expect("small");
    assert!(client.read(last, 1 << 20) == content[at..at + (1 << 20)]);
    assert_eq!(client.try_write(last, &[9; 4096]), EIO, "still full");

    // Rewriting what is there needs no room.
    client.write(0, &[8; 4096]);
    assert_eq!(client.read(0, 4096), [8; 4096]);

    assert_eq!(client.run(&Request::Discard { offset: 0, len: MIB }), 0);
    assert_eq!(client.read(0, 1 << 20), vec![0; 1 << 20]);
    client.write(last, &[9; 4096]);
    assert_eq!(client.read(last, 4096), [9; 4096]);
}

#[test]
fn a_reached_limit_is_an_error_that_a_discard_ends() {
    let place = Place::with_noise(16 << 20, 1);
    let helper = place.helper().value("--overlay-limit", "4M").start();
    let mut client = Client::connect(helper.socket(), Setup::default());

    is_full_and_recovers(&mut client, place.content());

    helper.terminate();
}

#[test]
fn a_limit_is_exact() {
    let place = Place::with_noise(16 << 20, 2);
    let helper = place.helper().value("--overlay-limit", "64K").start();
    let mut client = Client::connect(helper.socket(), Setup::default());

    for cluster in 0..16 {
        client.write(cluster * 8192, &[1; 512]);
    }

    assert_eq!(client.try_write(16 * 8192, &[1; 512]), EIO);
    assert_eq!(
        client.run(&Request::WriteZeroes {
            offset: 0,
            len: 4096,
            unmap: false
        }),
        0
    );
    client.write(16 * 8192, &[1; 512]);
    assert_eq!(client.try_write(17 * 8192, &[1; 512]), EIO);
    helper.terminate();
}

#[test]
fn a_full_file_system_is_an_error_that_a_discard_ends() {
    require!(private_mounts);
    let place = Place::with_noise(16 << 20, 3);
    let helper = place.helper().on_small_tmpfs("4m").start();
    let mut client = Client::connect(helper.socket(), Setup::default());

    is_full_and_recovers(&mut client, place.content());

    helper.terminate();
}

#[test]
fn a_full_file_system_goes_on_when_space_returns_from_outside() {
    require!(root);
    let place = Place::with_noise(16 << 20, 4);
    let _tmpfs = Mounted::tmpfs(&place.overlay_dir(), "8m");
    let other = place.overlay_dir().join("other");
    File::create(&other)
        .unwrap()
        .write_all_at(&vec![1; 5 << 20], 0)
        .unwrap();
    let helper = place.helper().start();
    let mut client = Client::connect(helper.socket(), Setup::default());
    let count = fill(&mut client, 2);

    fs::remove_file(&other).unwrap();

    client.write(count * MIB, &[7; 1 << 20]);
    assert_kept(&mut client, 2, count);
    assert_eq!(client.read(count * MIB, 1 << 20), vec![7; 1 << 20]);
    helper.terminate();
}

#[test]
fn a_full_ext4_is_an_error_that_a_discard_ends() {
    require!(root);
    let place = Place::with_noise(24 << 20, 5);
    let Some(_ext4) = Mounted::ext4(&place.dir().join("ext4"), 16, &place.overlay_dir()) else {
        require::skip("needs loop devices and mkfs.ext4");
        return;
    };
    fs::remove_dir(place.overlay_dir().join("lost+found")).unwrap();
    let helper = place.helper().start();
    let mut client = Client::connect(helper.socket(), Setup::default());

    is_full_and_recovers(&mut client, place.content());

    helper.terminate();
}

/// A page of the map covers four mebibytes of disk; a guest that writes a sector here and there touches them all.
#[test]
fn the_maps_memory_is_bounded_too() {
    let place = Place::with_base(b"unused");
    let sparse = place.dir().join("sparse");
    File::create(&sparse).unwrap().set_len(16 << 30).unwrap();
    let helper = place.helper().base(&sparse).value("--map-limit", "1M").start();
    let mut client = Client::connect(helper.socket(), Setup::default());

    let reached = (0..4096_u64)
        .find(|index| client.try_write(index * (4 << 20), &[1; 4096]) == EIO)
        .expect("sixteen mebibytes of map do not fit into one");

    assert!((200..=256).contains(&reached), "{reached} pages of map");
    assert_eq!(client.try_write(15 << 30, &[1; 4096]), EIO, "still full");
    client.write(4096, &[2; 4096]);
    assert_eq!(client.read(0, 8192), [[1; 4096], [2; 4096]].concat());
    assert_eq!(client.read(15 << 30, 4096), [0; 4096]);
    helper.terminate();
}

#[test]
fn memory_is_no_place_for_an_overlay_that_nobody_named() {
    use std::process::Command;

    let place = Place::with_noise(1 << 20, 6);
    let output = Command::new(tests::helper::program())
        .env("TMPDIR", "/dev/shm")
        .arg("--blk-file")
        .arg(place.base())
        .arg("--socket-path")
        .arg(place.socket())
        .output()
        .unwrap();

    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--overlay-dir"));
}
