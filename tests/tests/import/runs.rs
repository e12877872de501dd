//! `mayfly run` with a qcow2 image: one line says what to do, or `--import` does it, once.

use std::fs;
use std::path::Path;
use std::time::Duration;

use tests::place::Place;
use tests::process::Ended;
use tests::supervised::Supervised;

use crate::support::{disk, place, qemu_img};

/// What is in a directory and below it.
fn files(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(name);
        }
    }
    found
}

/// A run that gets as far as its kernel, which is none.
fn run(place: &Place, words: &[&str]) -> Ended {
    let image = format!("--disk={}", place.dir().join("image").display());
    Supervised::new(["run", "--accel=qemu", "--kernel=/etc/passwd", &image])
        .and([format!("--overlay-dir={}", place.overlay_dir().display())])
        .and(words)
        .variable("XDG_CACHE_HOME", place.dir().join("cache"))
        .output()
}

#[test]
fn without_import_one_line_says_what_to_do() {
    let place = place();
    disk(&place, "disk", 1 << 20, 31);
    qemu_img(&place, "convert -f raw -O qcow2 disk image");

    let ended = run(&place, &[]);

    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("image` makes one, or add --import"), "{ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
}

#[test]
fn with_import_it_is_made_once_and_again_when_it_has_changed() {
    let place = place();
    let cache = place.dir().join("cache");
    disk(&place, "disk", 1 << 20, 32);
    qemu_img(&place, "convert -f raw -O qcow2 disk image");

    let dry = run(&place, &["--import", "--dry-run"]);
    assert_eq!(dry.code, Some(0), "{dry:?}");
    assert!(dry.stderr.contains("would be imported into"), "{dry:?}");
    // What the run refuses of the image once it is made.
    for words in [
        &["--import", "--on-exit=commit"][..],
        &["--import", "--on-exit=commit", "--dry-run"],
    ] {
        let refused = run(&place, words);
        assert_eq!(refused.code, Some(2), "{refused:?}");
        assert!(refused.stderr.contains("what --import made"), "{refused:?}");
        for file in files(&cache) {
            fs::remove_file(cache.join("mayfly/import").join(file)).expect("it is ours");
        }
    }
    assert!(files(&cache).is_empty());

    let first = run(&place, &["--import"]);
    assert!(
        first.stderr.contains("importing") && first.stderr.contains("vda (image)"),
        "{first:?}"
    );
    let made = files(&cache);
    assert_eq!(made.len(), 1, "{made:?}");
    let raw = cache.join("mayfly/import").join(&made[0]);
    assert_eq!(
        fs::read(&raw).expect("it is there"),
        fs::read(place.dir().join("disk")).expect("it is there")
    );

    let second = run(&place, &["--import"]);
    assert!(
        !second.stderr.contains("importing") && second.stderr.contains("vda (image)"),
        "{second:?}"
    );

    // The same file, with other bytes; its time differs by a clock's tick at least.
    std::thread::sleep(Duration::from_millis(20));
    let other = fs::read(place.dir().join("image")).expect("it is there");
    fs::write(place.dir().join("image"), other).expect("it can be written");
    let third = run(&place, &["--import"]);
    assert!(third.stderr.contains("importing"), "{third:?}");
    let again = files(&cache);
    assert!(again.len() == 1 && again != made, "{again:?}");
}

#[test]
fn what_cannot_be_imported_is_not_run() {
    let place = place();
    qemu_img(&place, "create -q -f qcow2 -u -b /etc/shadow -F raw image 1M");

    let ended = run(&place, &["--import"]);

    assert_eq!(ended.code, Some(20), "{ended:?}");
    assert!(ended.stderr.contains("/etc/shadow"), "{ended:?}");
    assert!(files(&place.dir().join("cache")).is_empty());
}

#[test]
fn a_cache_that_others_can_write_is_not_used() {
    use std::os::unix::fs::PermissionsExt;
    let place = place();
    qemu_img(&place, "create -q -f qcow2 image 1M");
    let dir = place.dir().join("cache/mayfly/import");
    fs::create_dir_all(&dir).expect("the place can be written");
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).expect("it is ours");

    let ended = run(&place, &["--import"]);

    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("others may write there"), "{ended:?}");
}
