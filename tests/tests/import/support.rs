//! What these tests share: images, and imports of them.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tests::place::Place;
use tests::process::Ended;
use tests::rng::Rng;
use tests::supervised::Supervised;

/// A place for images. Its base is of no interest.
pub(crate) fn place() -> Place {
    Place::with_base(&[0; 512])
}

/// Runs `qemu-img` there.
pub(crate) fn qemu_img(place: &Place, line: &str) {
    assert!(does_qemu_img(place, line), "qemu-img {line}");
}

/// Whether `qemu-img` does this.
pub(crate) fn does_qemu_img(place: &Place, line: &str) -> bool {
    let status = Command::new("qemu-img")
        .args(line.split_whitespace())
        .current_dir(place.dir())
        .stdout(std::process::Stdio::null())
        .status();
    status.expect("qemu-img is installed").success()
}

/// A raw disk in pieces: noise, what compresses, and nothing.
pub(crate) fn disk(place: &Place, name: &str, bytes: u64, seed: u64) -> PathBuf {
    let path = place.dir().join(name);
    let disk = File::create(&path).expect("the place can be written");
    disk.set_len(bytes).expect("the file can grow");
    let mut rng = Rng::new(seed);
    for piece in 0..24 {
        let content = if piece % 2 == 0 {
            let length = rng.index(9000) + 1;
            rng.bytes(length)
        } else {
            let byte = u8::try_from(rng.between(1, 255)).expect("it is a byte");
            vec![byte; rng.index(150_000) + 1]
        };
        let room = bytes.saturating_sub(content.len() as u64).max(1);
        let fits = content
            .get(..usize::try_from(bytes).unwrap_or(usize::MAX))
            .unwrap_or(&content);
        disk.write_all_at(fits, rng.below(room))
            .expect("the place can be written");
    }
    path
}

/// `mayfly import` with these words; relative names are the place's.
pub(crate) fn import(place: &Place, words: &[&str]) -> Ended {
    command(place, words).output()
}

/// The same, not started yet. A word that names no option is a file of the place, also behind `--backing=`.
pub(crate) fn command(place: &Place, words: &[&str]) -> Supervised {
    let here = |name: &str| place.dir().join(name).display().to_string();
    let words = words.iter().map(|word| match word.strip_prefix("--backing=") {
        Some(file) => format!("--backing={}", here(file)),
        None if word.starts_with('-') => (*word).to_owned(),
        None => here(word),
    });
    Supervised::new(["import"]).and(words)
}

/// The names in the place that begin with `start`.
pub(crate) fn names(place: &Place, start: &str) -> Vec<String> {
    let entries = fs::read_dir(place.dir()).expect("the place is there");
    let names = entries.map(|entry| {
        entry
            .expect("it can be listed")
            .file_name()
            .to_string_lossy()
            .into_owned()
    });
    names
        .filter(|name| name.trim_start_matches('.').starts_with(start))
        .collect()
}

/// Checks that two files have the same bytes.
pub(crate) fn assert_same(one: &Path, other: &Path) {
    let (one_bytes, other_bytes) = (
        fs::read(one).expect("it is there"),
        fs::read(other).expect("it is there"),
    );
    assert!(
        one_bytes == other_bytes,
        "{} ({} bytes) and {} ({} bytes) differ",
        one.display(),
        one_bytes.len(),
        other.display(),
        other_bytes.len()
    );
}
