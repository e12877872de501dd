//! The way in for the fuzz targets (`tests/fuzz`), and compiled only for them: a conversion in this process, from memory to memory.

use super::chain::Chain;
use super::copy::copy;
use super::error::{ImportError, Which};
use super::file::ImageFile;
use crate::contract::import::Format;
use nix::sys::memfd::{MFdFlags, memfd_create};
use policy::logging::chain;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;

/// Converts `images`, the image itself first, each qcow2 or raw; the disk may have `bytes_max` bytes.
///
/// # Errors
/// What is wrong with the images.
///
/// # Panics
/// A promise of the import is broken.
pub fn convert(images: &[(&[u8], bool)], bytes_max: u64) -> Result<Vec<u8>, String> {
    let mut numbers = Vec::new();
    let mut files = Vec::new();
    for (index, (bytes, is_qcow2)) in images.iter().enumerate() {
        let file = ImageFile::new(Which::Image(index), memory(bytes)).expect("memory can be sought in");
        numbers.push(file.number());
        files.push((file, if *is_qcow2 { Format::Qcow2 } else { Format::Raw }));
    }
    let mut output = memory(&[]);
    let mut done = 0;
    let result = Chain::open(files, bytes_max).and_then(|mut disk| {
        let bytes = disk.disk_bytes();
        assert!(bytes <= bytes_max, "a disk of {bytes} bytes");
        let said = |now| {
            assert!(now >= done && now <= bytes, "{now} bytes of {bytes} are done");
            done = now;
        };
        copy(&mut disk, &output, said).map(|()| bytes)
    });
    // What the process never closes, because it ends.
    for number in numbers {
        nix::unistd::close(number).expect("it is open");
    }
    let mut content = Vec::new();
    output.read_to_end(&mut content).expect("memory can be read");
    assert!(
        content.len() as u64 <= bytes_max,
        "{} bytes were written",
        content.len()
    );
    match result {
        Ok(bytes) => {
            content.resize(usize::try_from(bytes).expect("it is small"), 0);
            Ok(content)
        }
        Err(error @ ImportError::Failed { .. }) => panic!("memory fails: {}", chain(&error)),
        Err(error @ ImportError::Refused { .. }) => Err(chain(&error).to_string()),
    }
}

fn memory(content: &[u8]) -> File {
    let file: File = memfd_create("image", MFdFlags::MFD_CLOEXEC)
        .expect("there are descriptors")
        .into();
    file.write_all_at(content, 0).expect("there is memory");
    file
}
