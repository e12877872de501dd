//! An import whose image or output does things by halves, or fails: the disk is whole, or there is none.

use std::fs;
use std::path::Path;
use std::process::Command;

use tests::faults::{Call, Faults, Rule, When};
use tests::helper::beside_this_test;
use tests::place::Place;

use super::{EINTR, EIO, ENOSPC, OURS};

const DISK: usize = (1 << 20) + 512;
const MOVING: [Call; 2] = [Call::Pread, Call::Pwrite];
/// More than the errors that are tried.
const ROUNDS: u64 = 40;

/// A compressed image of the place's base.
fn image(place: &Place) -> std::path::PathBuf {
    let image = place.dir().join("image.qcow2");
    let convert = ["convert", "-c", "-f", "raw", "-O", "qcow2"];
    let made = Command::new("qemu-img")
        .args(convert)
        .args([&place.base(), &image])
        .status();
    assert!(made.expect(OURS).success());
    image
}

/// How an import ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Done,
    /// The disk is there, whole, but nobody knows for how long.
    Unsure,
    Failed,
}

/// An import; what it makes, if it makes something, is the base.
fn import(place: &Place, faults: &Faults, image: &Path) -> End {
    let out = place.dir().join("imported");
    let mut command = faults.command(beside_this_test("mayfly"));
    let output = command.arg("import").args([image, &out]).output().expect(OURS);
    let end = match (output.status.code(), out.exists()) {
        (Some(0), true) => End::Done,
        (Some(1), false) => End::Failed,
        (Some(1), true) => End::Unsure,
        _ => panic!("{output:?}"),
    };
    if end != End::Failed {
        assert!(
            fs::read(&out).expect(OURS) == place.content(),
            "another disk: {output:?}"
        );
        fs::remove_file(&out).expect(OURS);
    }
    let mut names = fs::read_dir(place.dir())
        .expect(OURS)
        .map(|entry| entry.expect(OURS).file_name());
    assert!(
        names.all(|name| !name.to_string_lossy().contains("imported")),
        "{output:?}"
    );
    end
}

#[test]
fn halves_and_interruptions_are_gone_on_after() {
    let place = Place::with_noise(DISK, 1);
    let faults = Faults::new(place.dir());
    faults.set(&[
        Rule::short(&MOVING).when(When::Permille(500)),
        Rule::fail(&MOVING, EINTR).when(When::Permille(300)),
        Rule::fail(&[Call::Ftruncate, Call::Fsync], EINTR).when(When::Permille(500)),
    ]);

    assert_eq!(import(&place, &faults, &image(&place)), End::Done);

    assert!(
        faults.spoilt()[..2].iter().all(|count| *count > 1),
        "{:?}",
        faults.spoilt()
    );
}

#[test]
fn one_that_fails_leaves_nothing() {
    let place = Place::with_noise(DISK, 2);
    let (faults, image) = (Faults::new(place.dir()), image(&place));
    let calls = [&MOVING[..], &[Call::Ftruncate, Call::Fsync, Call::Rename]].concat();
    let mut ends = Vec::new();
    for (number, errno) in (1..ROUNDS).zip([EIO, ENOSPC].into_iter().cycle()) {
        faults.set(&[Rule::fail(&calls, errno).when(When::Nth(number))]);
        ends.push(import(&place, &faults, &image));
        if faults.spoilt().is_empty() {
            break;
        }
    }
    let count = |end| ends.iter().filter(|found| **found == end).count();
    assert_eq!(ends.last(), Some(&End::Done), "{ends:?}");
    assert!(count(End::Failed) > 5, "{ends:?}");
    // The last fsync, of the directory.
    assert_eq!(count(End::Unsure), 1, "{ends:?}");
}
