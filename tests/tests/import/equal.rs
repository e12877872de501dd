//! What is imported is byte for byte what `qemu-img convert` makes, and takes no more space.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use tests::place::Place;

use crate::support::{assert_same, disk, import, names, place, qemu_img};

const MIB: u64 = 1 << 20;

/// Imports `image` and compares.
fn assert_imported(place: &Place, image: &str, backing: &[&str]) {
    let words: Vec<_> = [image, "ours.raw"].into_iter().chain(backing.iter().copied()).collect();
    let ended = import(place, &words);
    assert_eq!(ended.code, Some(0), "{image}: {ended:?}");
    qemu_img(place, &format!("convert -O raw {image} theirs.raw"));

    let (ours, theirs) = (place.dir().join("ours.raw"), place.dir().join("theirs.raw"));
    assert_same(&ours, &theirs);
    let used = |path: &Path| fs::metadata(path).expect("it is there").blocks() * 512;
    // File systems differ in what they count: a block for each piece.
    assert!(used(&ours) <= used(&theirs) + MIB, "{image}: {} bytes", used(&ours));
    fs::remove_file(ours).expect("it can be removed");
}

#[test]
fn every_kind_of_qcow2_image() {
    let place = place();
    disk(&place, "disk", 10 * MIB, 1);
    for options in [
        "-o compat=0.10",
        "-o compat=0.10,cluster_size=512",
        "-o compat=0.10 -c",
        "-o cluster_size=512",
        "-o cluster_size=2M",
        "-o cluster_size=2M -c",
        "-o cluster_size=1024 -c",
        "-o lazy_refcounts=on,refcount_bits=1",
        "-o refcount_bits=64 -c",
        "-o compression_type=zstd -c",
        "-o compression_type=zstd,cluster_size=2M -c",
        "-o compression_type=zstd,cluster_size=512 -c",
        "-o preallocation=metadata",
        "-S 0",
    ] {
        qemu_img(&place, &format!("convert -f raw -O qcow2 {options} disk image"));
        assert_imported(&place, "image", &[]);
    }
}

#[test]
fn every_size_of_disk() {
    let place = place();
    for (seed, bytes) in (2..).zip([512, 1536, 65_536, 65_536 + 512, 5 * MIB + 512 * 3]) {
        disk(&place, "disk", bytes, seed);
        for options in ["", "-c", "-o cluster_size=2M"] {
            qemu_img(&place, &format!("convert -f raw -O qcow2 {options} disk image"));
            assert_imported(&place, "image", &[]);
        }
    }
}

#[test]
fn a_large_disk_costs_what_is_in_it() {
    let place = place();
    qemu_img(&place, "create -q -f qcow2 image 2T");

    let ended = import(&place, &["image"]);

    assert_eq!(ended.code, Some(0), "{ended:?}");
    let info = fs::metadata(place.dir().join("image.raw")).expect("it is there");
    assert_eq!((info.len(), info.blocks() < 2048), (2 << 40, true));
}

#[test]
fn snapshots_zeros_and_discards() {
    let place = place();
    disk(&place, "disk", 8 * MIB, 11);
    qemu_img(&place, "convert -f raw -O qcow2 disk image");
    qemu_img(&place, "snapshot -c first image");
    let io = |line: &str| {
        let status = std::process::Command::new("qemu-io")
            .args(["-f", "qcow2", "-c", line, "image"])
            .current_dir(place.dir())
            .stdout(std::process::Stdio::null())
            .status();
        assert!(status.expect("qemu-io is installed").success(), "{line}");
    };
    io("write -P 7 100k 300k");
    io("write -z 2M 1M");
    io("write -z -u 4M 1M");
    io("discard 6M 1M");
    qemu_img(&place, "snapshot -c second image");
    io("write -P 9 1M 64k");

    assert_imported(&place, "image", &[]);
}

/// The formats of the chain's files, and what has to be said of them.
#[test]
fn chains_of_images_that_the_caller_names() {
    let place = place();
    disk(&place, "raw", 6 * MIB, 12);
    qemu_img(&place, "create -q -f qcow2 -F raw -b raw -o cluster_size=512 middle 7M");
    qemu_img(&place, "create -q -f qcow2 -F qcow2 -b middle top 8M");
    disk(&place, "noise", MIB, 13);
    for (image, offset) in [("middle", 3), ("top", 5)] {
        // Part of a cluster, over its edges: the rest shows what is below.
        let status = std::process::Command::new("qemu-io")
            .args(["-f", "qcow2", "-c"])
            .arg(format!("write -P {offset} {offset}000k 333k"))
            .args(["-c", "write -z 1M 100k", image])
            .current_dir(place.dir())
            .stdout(std::process::Stdio::null())
            .status();
        assert!(status.expect("qemu-io is installed").success());
    }
    assert_imported(&place, "middle", &["--backing=raw"]);
    assert_imported(&place, "top", &["--backing=middle", "--backing=raw"]);
    assert_imported(
        &place,
        "top",
        &["--backing=middle,format=qcow2", "--backing=raw,format=raw"],
    );

    // A name is not what counts, and neither is what a raw file looks like.
    fs::rename(place.dir().join("middle"), place.dir().join("elsewhere")).expect("it can be renamed");
    let ended = import(&place, &["top", "moved", "--backing=elsewhere", "--backing=raw"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let ended = import(&place, &["top", "wrong", "--backing=elsewhere", "--backing=top"]);
    assert_eq!(ended.code, Some(0), "a raw backing image is not looked into: {ended:?}");
}

#[test]
fn the_name_the_mode_and_the_report() {
    let place = place();
    disk(&place, "disk", MIB, 14);
    qemu_img(&place, "convert -f raw -O qcow2 disk vm.qcow2");
    let image = place.dir().join("vm.qcow2");
    fs::set_permissions(&image, fs::Permissions::from_mode(0o400)).expect("it is ours");

    let ended = import(&place, &["vm.qcow2"]);

    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stderr.contains("a disk of 1 MiB"), "{ended:?}");
    assert!(ended.stdout.is_empty(), "{ended:?}");
    let mode = fs::metadata(place.dir().join("vm.raw")).expect("it is there").mode();
    assert_eq!(mode & 0o777, 0o600, "who may not read the image may not read the disk");
    assert_eq!(names(&place, "vm").len(), 2, "nothing else is left");
}
