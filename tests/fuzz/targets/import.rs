//! `mayfly-import` on images: a sound one becomes exactly its disk; of any other it says what is wrong, or makes some disk.
#![no_main]

use arbitrary::Arbitrary;
use fuzz::image::{BYTES_MAX, Image};
use libfuzzer_sys::fuzz_target;
use vmm::import::fuzzing::convert;

#[derive(Arbitrary, Debug)]
enum Case {
    /// These bytes and no others.
    Bytes(Vec<u8>),
    Alone(Image),
    OnRaw(Image, Vec<u8>),
    OnImage(Image, Image),
}

fuzz_target!(|case: Case| {
    match case {
        Case::Bytes(bytes) => {
            let _ = convert(&[(&bytes, true)], BYTES_MAX);
        }
        Case::Alone(image) => {
            let disk = convert(&[(&image.file(false), true)], BYTES_MAX);
            if image.is_sound() {
                assert!(disk.expect("it is sound") == image.disk(&[]), "another disk");
            }
        }
        Case::OnRaw(image, below) => {
            let disk = convert(&[(&image.file(true), true), (&below, false)], BYTES_MAX);
            if image.is_sound() && !below.is_empty() {
                assert!(disk.expect("it is sound") == image.disk(&below), "another disk");
            }
        }
        Case::OnImage(image, below) => {
            let disk = convert(&[(&image.file(true), true), (&below.file(false), true)], BYTES_MAX);
            if image.is_sound() && below.is_sound() {
                assert!(
                    disk.expect("both are sound") == image.disk(&below.disk(&[])),
                    "another disk"
                );
            }
        }
    }
});
