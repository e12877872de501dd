//! Images from `qemu-img`, damaged in thousands of ways: a conversion says what is wrong or makes a disk, and ends.
//!
//! Here the parser runs in the test's own process, where a bug shows as a panic, and thousands of images cost seconds. That the
//! process around it can do nothing else is shown elsewhere (`tests/import`).

use super::chain::Chain;
use super::copy::copy;
use super::error::{ImportError, Which};
use super::file::ImageFile;
use crate::contract::import::Format;
use nix::sys::memfd::{MFdFlags, memfd_create};
use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::{Duration, Instant};

/// The disks of these images.
const DISK: u64 = 256 << 10;

/// The largest disk that is wanted here.
const BYTES_MAX: u64 = 4 << 20;

/// What one image may take, on a busy machine: it takes some milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// An image of each kind: version 2 and 3, in the clear and compressed in both ways.
fn images() -> Vec<Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    let (raw, image) = (dir.path().join("raw"), dir.path().join("qcow2"));
    let disk = File::create(&raw).unwrap();
    disk.set_len(DISK).unwrap();
    for (index, at) in (0..DISK).step_by(100_000).enumerate() {
        let byte = u8::try_from(index).unwrap().wrapping_add(1);
        disk.write_all_at(&[byte; 20_000], at).unwrap();
    }
    // Compresses to more than a few bytes, and in more than one way.
    let words: String = (0..900_u32)
        .map(|number| format!("{} ", number.pow(3) % 1009))
        .collect();
    disk.write_all_at(words.as_bytes(), 30_000).unwrap();
    let kinds: [&[&str]; 5] = [
        &["-o", "compat=0.10"],
        &["-o", "cluster_size=512"],
        &["-o", "cluster_size=4096", "-c"],
        &["-o", "compression_type=zstd", "-c"],
        &["-o", "compat=0.10,cluster_size=1024", "-c"],
    ];
    kinds
        .into_iter()
        .map(|options| {
            let mut command = Command::new("qemu-img");
            command
                .args(["convert", "-O", "qcow2"])
                .args(options)
                .args([&raw, &image]);
            assert!(command.status().expect("qemu-img is installed").success());
            fs::read(&image).unwrap()
        })
        .collect()
}

fn memory(content: &[u8]) -> File {
    let file: File = memfd_create("test", MFdFlags::MFD_CLOEXEC).unwrap().into();
    file.write_all_at(content, 0).unwrap();
    file
}

/// Converts an image; how long the output became.
fn convert(image: &[u8]) -> Result<u64, ImportError> {
    let file = ImageFile::new(Which::Image(0), memory(image)).unwrap();
    let number = file.number();
    let output = memory(&[]);
    let begun = Instant::now();
    let result =
        Chain::open(vec![(file, Format::Qcow2)], BYTES_MAX).and_then(|mut disk| copy(&mut disk, &output, |_| ()));
    // What the process never closes, because it ends.
    nix::unistd::close(number).unwrap();
    assert!(begun.elapsed() < PATIENCE, "it took {:?}", begun.elapsed());
    let length = output.metadata().unwrap().len();
    assert!(length <= BYTES_MAX);
    result.map(|()| length)
}

/// Random numbers that are the same in every run.
struct Dice(TestRng);

impl Dice {
    fn new() -> Self {
        Self(TestRng::deterministic_rng(RngAlgorithm::ChaCha))
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.0.next_u64() % u64::try_from(bound).unwrap()).unwrap()
    }

    /// A number of the kind that breaks parsers.
    fn evil(&mut self, image: &[u8]) -> u64 {
        let length = u64::try_from(image.len()).unwrap();
        let bit = 1 << self.below(64);
        let cluster = u64::try_from(self.below(image.len())).unwrap() & !0xffff;
        let kinds = [
            0,
            1,
            u64::MAX,
            i64::MAX.cast_unsigned(),
            bit,
            !bit,
            length,
            length - 1,
            cluster,
            cluster | 1 << 63,
        ];
        kinds
            .get(self.below(kinds.len() + 1))
            .copied()
            .unwrap_or(self.0.next_u64())
    }

    /// Where something that is looked at begins: the header, the tables, anywhere.
    fn place(&mut self, image: &[u8]) -> usize {
        let at = |from: usize| {
            let bytes = image.get(from..from + 8).and_then(|bytes| bytes.first_chunk());
            usize::try_from(bytes.copied().map_or(0, u64::from_be_bytes) & 0x00ff_ffff_ffff_fe00).unwrap()
        };
        let l1 = at(40);
        let from = match self.below(4) {
            0 => self.below(112),
            1 => l1 + self.below(64),
            2 => at(l1) + self.below(4096),
            _ => self.below(image.len()),
        };
        (from & !7).min(image.len() - 8)
    }

    /// The image with something wrong in it.
    fn damage(&mut self, image: &[u8]) -> Vec<u8> {
        let mut image = image.to_vec();
        for _ in 0..=self.below(3) {
            let place = self.place(&image);
            let evil = self.evil(&image).to_be_bytes();
            match self.below(8) {
                0 => {
                    image.truncate(place.max(16));
                    image.resize(image.len().max(4096), 0);
                }
                1 | 2 => image[place + self.below(8)] ^= 1 << self.below(8),
                3 => image[place..place + 4].copy_from_slice(&evil[4..]),
                4 => image[place + 4..place + 8].copy_from_slice(&evil[4..]),
                _ => image[place..place + 8].copy_from_slice(&evil),
            }
        }
        image
    }
}

#[test]
fn whole_images_are_converted() {
    for image in images() {
        convert(&image).unwrap();
    }
}

#[test]
fn no_damage_makes_it_panic_hang_or_write_too_much() {
    let images = images();
    let mut dice = Dice::new();
    let (mut converted, mut refused) = (0, 0);
    for round in 0..1500 {
        let image = dice.damage(&images[round % images.len()]);

        match convert(&image) {
            Ok(_) => converted += 1,
            Err(ImportError::Refused { .. }) => refused += 1,
            // There is memory, and an offset that no file can have was refused before it was used.
            Err(error @ ImportError::Failed { .. }) => panic!("round {round}: {error:?}"),
        }
    }
    assert!(
        converted > 150 && refused > 150,
        "{converted} converted, {refused} refused"
    );
}

/// The compressed data alone, which lies at the end of the file.
#[test]
fn damaged_compression_is_refused_or_gives_other_bytes() {
    let images = images();
    let mut dice = Dice::new();
    let mut refused = 0;
    for round in 0..600 {
        let mut image = images[2 + round % 3].clone();
        let end = image.iter().rposition(|byte| *byte != 0).unwrap();
        for _ in 0..=dice.below(4) {
            let at = end - dice.below(1500);
            image[at] ^= u8::try_from(dice.below(255) + 1).unwrap();
        }

        match convert(&image) {
            Ok(length) => assert!(length <= DISK),
            Err(ImportError::Refused { .. }) => refused += 1,
            Err(error @ ImportError::Failed { .. }) => panic!("round {round}: {error:?}"),
        }
    }
    assert!(refused > 60, "{refused} refused");
}

/// Every table is the same one, and every entry leads to the same cluster: a small file for a large disk.
#[test]
fn a_disk_that_is_one_cluster_over_and_over_takes_its_length_and_no_more() {
    let mut image = vec![0; 0x3000];
    let mut put = |at: usize, value: u64| image[at..at + 8].copy_from_slice(&value.to_be_bytes());
    put(0, 0x5146_49fb_0000_0003);
    put(16, 12);
    put(24, BYTES_MAX);
    put(32, 2);
    put(40, 0x1000);
    put(96, 0x0000_0004_0000_0068);
    for entry in 0..2 {
        put(0x1000 + entry * 8, 0x2000);
    }
    for entry in 0..512 {
        put(0x2000 + entry * 8, 0x2000);
    }

    assert_eq!(convert(&image).unwrap(), BYTES_MAX);
}
