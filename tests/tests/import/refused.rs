//! What is not imported: the message says why, the exit code is 20, and nothing is left behind.

use std::fs;
use std::path::Path;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use tests::place::Place;
use tests::rng::Rng;

use crate::support::{disk, does_qemu_img, import, names, place, qemu_img};

/// An image with `bytes` at `at`.
fn patched(place: &Place, name: &str, at: usize, bytes: &[u8]) {
    let mut image = fs::read(place.dir().join("whole")).expect("it is there");
    image[at..at + bytes.len()].copy_from_slice(bytes);
    fs::write(place.dir().join(name), image).expect("the place can be written");
}

fn assert_refused(place: &Place, words: &[&str], because: &str) {
    let ended = import(place, words);

    assert_eq!(ended.code, Some(20), "{words:?} {because}: {ended:?}");
    assert!(ended.stderr.contains(because), "{words:?}: {ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
    let plain = ended.stderr.chars().all(|c| c == '\n' || !c.is_control());
    assert!(plain, "what steers a terminal: {ended:?}");
    assert!(names(place, "out").is_empty(), "{words:?}: {:?}", names(place, "out"));
}

#[test]
fn what_names_other_files_or_needs_what_is_not_supported() {
    let place = place();
    disk(&place, "disk", 1 << 20, 21);
    qemu_img(&place, "convert -f raw -O qcow2 disk base");
    qemu_img(&place, "create -q -f qcow2 -o data_file=data external 1M");
    qemu_img(&place, "create -q -f qcow2 -o extended_l2=on extended 1M");
    let key = "--object secret,id=key,data=secret -o encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10";
    // It measures how fast it is, and gives up where the kernel's clock has not ticked meanwhile.
    let locked = (0..50).any(|_| does_qemu_img(&place, &format!("create -q -f qcow2 {key} locked 1M")));
    assert!(locked, "qemu-img encrypts");
    qemu_img(&place, "create -q -f qcow2 -F qcow2 -b base top");
    qemu_img(&place, "create -q -f qcow2 -u -b /etc/shadow -F raw thief 1M");
    qemu_img(&place, "create -q -f qcow2 -u -b nbd://localhost/x -F raw network 1M");
    qemu_img(&place, "create -q -f qcow2 -u -b json:{} -F vmdk strange 1M");
    for (words, because) in [
        (&["external", "out"][..], "external data file"),
        (&["extended", "out"], "extended L2 entries (subclusters)"),
        (&["locked", "out"], "encrypted (LUKS)"),
        (&["top", "out"], "is based on another file, \"base\""),
        (
            &["thief", "out"],
            "\"/etc/shadow\", which is not opened unless you name it: --backing",
        ),
        (&["network", "out"], "nbd://localhost/x"),
        (&["strange", "out", "--backing=base"], "only qcow2 and raw are read"),
        (
            &["base", "out", "--backing=top"],
            "the image above it is based on nothing",
        ),
        (
            &["top", "out", "--backing=disk"],
            "backing image 1 is not a qcow2 image",
        ),
        (&["top", "out", "--backing=base,format=raw"], "is recorded as qcow2"),
        (
            &["top", "out", "--backing=external"],
            "backing image 1 keeps its data in another file",
        ),
        (&["base", "out", "--max-size=4096"], "give a larger --max-size"),
        (&["disk", "out"], "is not a qcow2 image"),
    ] {
        assert_refused(&place, words, because);
    }
}

#[test]
fn what_an_image_names_is_opened_by_nobody() {
    let place = place();
    let named = place.dir().join("named");
    fs::write(&named, [0; 512]).expect("the place can be written");
    let name = named.display();
    qemu_img(&place, &format!("create -q -f qcow2 -o data_file={name} external 1M"));
    qemu_img(&place, &format!("create -q -f qcow2 -u -b {name} -F raw backed 1M"));
    qemu_img(
        &place,
        &format!("create -q -f qcow2 -u -b json:{{\"file.filename\":\"{name}\"}} -F raw wrapped 1M"),
    );
    for image in ["external", "backed", "wrapped"] {
        let opened = Opened::watch(&[&named, &place.dir().join(image)]);

        // Where the one process that reads it tried, it would be killed, and this not its end.
        assert_refused(&place, &[image, "out"], image);

        assert_eq!(opened.which(), [false, true], "{image}: the name, and what is imported");
    }
}

/// Which of some files is opened from now on, by whomever.
struct Opened {
    events: Inotify,
    watches: Vec<WatchDescriptor>,
}

impl Opened {
    fn watch(files: &[&Path]) -> Self {
        let events = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).expect("a user may have one");
        let watches = files
            .iter()
            .map(|file| events.add_watch(*file, AddWatchFlags::IN_OPEN).expect("it is there"))
            .collect();
        Self { events, watches }
    }

    fn which(&self) -> Vec<bool> {
        let events = self.events.read_events().unwrap_or_default();
        let is_opened = |watch: &WatchDescriptor| events.iter().any(|event| event.wd == *watch);
        self.watches.iter().map(is_opened).collect()
    }
}

#[test]
fn headers_that_lie() {
    let place = place();
    disk(&place, "disk", 1 << 20, 22);
    qemu_img(&place, "convert -f raw -O qcow2 disk whole");
    let feature = |bit: u32| (1_u64 << bit).to_be_bytes();
    let most = u64::MAX.to_be_bytes();
    let all: [u8; 4] = u32::MAX.to_be_bytes();
    for (at, bytes, because) in [
        (4, &[0, 0, 0, 1][..], "version 1"),
        (4, &[0, 0, 0, 4], "version 4"),
        (8, &most, "the name of its backing file does not lie in the header"),
        (8, &[0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 4, 0], "the name of its backing file"),
        (20, &[0, 0, 0, 0], "a cluster has 2^0 bytes"),
        (20, &[0, 0, 0, 8], "a cluster has 2^8 bytes"),
        (20, &[0, 0, 0, 63], "a cluster has 2^63 bytes"),
        (20, &all, "a cluster has 2^4294967295 bytes"),
        (24, &(1_u64 << 63).to_be_bytes(), "--max-size"),
        (24, &most, "no sectors"),
        (24, &[0; 8], "no sectors"),
        (24, &(1_u64 << 40).to_be_bytes(), "the disk needs 2048"),
        (32, &[0, 0, 0, 1], "encrypted (AES)"),
        (32, &[0, 0, 0, 2], "encrypted (LUKS)"),
        (32, &all, "encrypted in an unknown way"),
        (36, &[0, 0, 0, 0], "the disk needs 1"),
        (36, &all, "4294967295 entries"),
        (36, &[0, 0x40, 0, 0], "does not lie within the file"),
        (40, &most, "does not lie within the file"),
        (40, &feature(40), "does not lie within the file"),
        (40, &[0, 0, 0, 0, 0, 3, 0, 1], "does not lie within the file"),
        (72, &feature(0), "qemu-img check"),
        (72, &feature(1), "marked as corrupt"),
        (72, &feature(3), "compressed in a way that is not known"),
        (72, &feature(5), "bits 5"),
        (72, &most, "dirty"),
        (96, &[0, 0, 0, 7], "2^7 bits"),
        (100, &[0, 0, 0, 72], "its header has 72 bytes"),
        (100, &all, "its header has 4294967295 bytes"),
        (104, &[7], "compressed in a way that is not known here (7)"),
        (112, &[1, 2, 3, 4, 255, 255, 255, 255], "a header extension is longer"),
        (112, &[0x05, 0x37, 0xbe, 0x77, 0, 0, 0, 8], "encrypted (LUKS)"),
    ] {
        patched(&place, "lies", at, bytes);
        assert_refused(&place, &["lies", "out"], because);
    }
}

#[test]
fn tables_that_lead_nowhere() {
    let place = place();
    disk(&place, "disk", 1 << 20, 23);
    qemu_img(&place, "convert -f raw -O qcow2 disk whole");
    let whole = fs::read(place.dir().join("whole")).expect("it is there");
    let number = |at: usize| u64::from_be_bytes(whole[at..at + 8].try_into().expect("eight bytes"));
    let l1 = usize::try_from(number(40)).expect("it is small");
    let l2 = usize::try_from(number(l1) & 0x00ff_ffff_ffff_fe00).expect("it is small");
    let entry = |text: u64| text.to_be_bytes();
    for (at, value, because) in [
        (l1, entry(0x0000_1111_1111_0000), "a table would begin at byte"),
        (l1, entry(0x200), "a table does not begin where a cluster does"),
        (l2, entry(0x0000_1111_1111_0000), "data would begin at byte"),
        (l2, entry(0x0200), "data does not begin where a cluster does"),
        (l2, entry(1 << 62), "does not unpack"),
        (l2, entry(u64::MAX), "compressed data would begin"),
    ] {
        patched(&place, "lies", at, &value);
        assert_refused(&place, &["lies", "out"], because);
    }
}

/// An image that is cut off is not one that ends in zeros. (Within its last cluster that cannot be told: QEMU leaves zeros out.)
#[test]
fn images_that_are_cut_off() {
    let place = place();
    let noise = Rng::new(29).bytes(4 << 20);
    fs::write(place.dir().join("noise"), noise).expect("the place can be written");
    qemu_img(&place, "convert -f raw -O qcow2 noise whole");
    let whole = fs::read(place.dir().join("whole")).expect("it is there");
    for cut in [(64 << 10) + 1, 70_000, 500_000, 1 << 20, (1 << 20) + 1, 3 << 20] {
        fs::write(place.dir().join("cut"), &whole[..whole.len() - cut]).expect("the place can be written");
        assert_refused(&place, &["cut", "out"], "cut off");
    }
}

/// Zeros in the place of the bytes that are missing may unpack to something.
#[test]
fn compressed_images_that_are_cut_off() {
    let place = place();
    let mut rng = Rng::new(30);
    let text: String = (0..60_000)
        .map(|line| format!("{line} {}\n", rng.index(1000)))
        .collect();
    fs::write(place.dir().join("text"), &text.as_bytes()[..512 << 10]).expect("the place can be written");
    for kind in ["zlib", "zstd"] {
        qemu_img(
            &place,
            &format!("convert -c -f raw -O qcow2 -o compression_type={kind} text whole"),
        );
        let whole = fs::read(place.dir().join("whole")).expect("it is there");
        for cut in (1..2000).step_by(173) {
            fs::write(place.dir().join("cut"), &whole[..whole.len() - cut]).expect("the place can be written");
            let out = place.dir().join("out");
            if import(&place, &["cut", "out"]).code == Some(0) {
                assert!(
                    fs::read(&out).expect("it is there") == text.as_bytes()[..512 << 10],
                    "{kind}, {cut}"
                );
                fs::remove_file(out).expect("it is ours");
            }
        }
    }
}

#[test]
fn names_from_an_image_do_not_reach_the_terminal_as_they_are() {
    let place = place();
    qemu_img(&place, "create -q -f qcow2 -u -b AAAABBBBCCCC -F raw whole 1M");
    let image = fs::read(place.dir().join("whole")).expect("it is there");
    let at = image
        .windows(4)
        .position(|four| four == b"AAAA")
        .expect("the name is there");
    patched(&place, "lies", at, b"\x1b[2J\r\n\x07\xff\x00\xe2\x80\xae");

    assert_refused(&place, &["lies", "out"], "\\u{1b}[2J\\r\\n\\u{7}");
}

#[test]
fn what_cannot_be_opened_or_made_says_so() {
    let place = place();
    disk(&place, "disk.raw", 1 << 20, 24);
    qemu_img(&place, "convert -f raw -O qcow2 disk.raw vm.raw");
    fs::write(place.dir().join("there"), "mine").expect("the place can be written");
    let ten = ["--backing=disk.raw"; 10];
    for (words, code, because) in [
        (&["none"][..], 1, "cannot open the image"),
        (&["overlay"], 1, "is a directory"),
        (&["vm.raw", "there"], 1, "is there already"),
        (&["vm.raw", "no/where"], 1, "cannot open the directory"),
        (&["vm.raw"], 2, "give one: mayfly import IN OUT"),
        (&["vm.raw", "out", "--max-size=lots"], 2, "512M"),
        (&["vm.raw", "out", "--user=0"], 2, "root"),
        (&[], 2, "<IN>"),
        (&[&["vm.raw", "out"][..], &ten].concat(), 2, "more than 7 backing files"),
    ] {
        let ended = import(&place, words);
        assert_eq!(ended.code, Some(code), "{words:?}: {ended:?}");
        assert!(ended.stderr.contains(because), "{words:?}: {ended:?}");
    }
    assert_eq!(fs::read(place.dir().join("there")).expect("it is there"), b"mine");
    assert!(names(&place, "out").is_empty());
}
