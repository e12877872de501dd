//! Which kind of kernel a file is; and of a file that is none, what it looks like, so that the error can say it.
//!
//! Looks at the first bytes only. Decides between two loaders; it is never asked about a disk.

use std::fs::File;
use std::io::{Read, Seek};

use protocol::formats::QCOW2_MAGIC;

use super::BootError;

/// The kinds that can be booted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Linux's compressed image with its real-mode header.
    BzImage,
    /// An executable: an uncompressed vmlinux, or another kernel.
    Elf,
}

/// Where a bzImage says so.
const BZIMAGE_MAGIC_AT: usize = 0x202;
const BZIMAGE_MAGIC: &[u8] = b"HdrS";
const ELF_MAGIC: &[u8] = b"\x7fELF";
/// Where an Arm kernel says so.
const ARM64_MAGIC_AT: usize = 0x38;
/// Where a disk's first sector says so.
const BOOT_SECTOR_MAGIC_AT: usize = 510;

/// As many bytes as the farthest magic needs.
const LOOKED_AT: u64 = 0x206;

/// What else people give as a kernel, by its first bytes.
const OTHERS: [(&[u8], &str); 12] = [
    (
        b"\x1f\x8b",
        "is compressed with gzip (unpack it first, unless it is an initramfs)",
    ),
    (
        b"\x28\xb5\x2f\xfd",
        "is compressed with zstd (unpack it first, unless it is an initramfs)",
    ),
    (
        b"\xfd7zXZ\0",
        "is compressed with xz (unpack it first, unless it is an initramfs)",
    ),
    (
        b"BZh",
        "is compressed with bzip2 (unpack it first, unless it is an initramfs)",
    ),
    (
        b"\x02\x21\x4c\x18",
        "is compressed with lz4 (unpack it first, unless it is an initramfs)",
    ),
    (
        b"\x04\x22\x4d\x18",
        "is compressed with lz4 (unpack it first, unless it is an initramfs)",
    ),
    (b"0707", "is a cpio archive, probably an initramfs"),
    (b"!<arch>", "is an archive, probably a Debian package (unpack it first)"),
    (&QCOW2_MAGIC, "is a qcow2 disk image"),
    (
        b"\xd0\x0d\xfe\xed",
        "is a device tree or a FIT image, for another architecture",
    ),
    (b"#!", "is a script"),
    (
        b"MZ",
        "is an EFI program without Linux's boot header (such as a unified kernel image)",
    ),
];

impl Format {
    /// Recognises `kernel`.
    ///
    /// # Errors
    /// It is neither, or cannot be read.
    pub(super) fn of(kernel: &mut File) -> Result<Self, BootError> {
        let mut start = Vec::new();
        kernel.rewind().map_err(BootError::read("kernel"))?;
        kernel
            .take(LOOKED_AT)
            .read_to_end(&mut start)
            .map_err(BootError::read("kernel"))?;
        Self::of_start(&start).ok_or_else(|| BootError::NotAKernel(describe(&start)))
    }

    fn of_start(start: &[u8]) -> Option<Self> {
        if has(start, BZIMAGE_MAGIC_AT, BZIMAGE_MAGIC) {
            Some(Self::BzImage)
        } else if has(start, 0, ELF_MAGIC) {
            Some(Self::Elf)
        } else {
            None
        }
    }
}

fn has(start: &[u8], at: usize, magic: &[u8]) -> bool {
    start.get(at..).is_some_and(|rest| rest.starts_with(magic))
}

/// What a file that is no kernel looks like, as the predicate of a sentence about it.
fn describe(start: &[u8]) -> String {
    if start.is_empty() {
        return "is empty".to_owned();
    }
    if has(start, ARM64_MAGIC_AT, b"ARM\x64") {
        return "is a kernel for Arm processors".to_owned();
    }
    if let Some((_, words)) = OTHERS.iter().find(|(magic, _)| start.starts_with(magic)) {
        return (*words).to_owned();
    }
    if has(start, BOOT_SECTOR_MAGIC_AT, b"\x55\xaa") {
        return "starts with a boot sector, as a disk image does".to_owned();
    }
    let first: Vec<_> = start.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("starts with the bytes {}", first.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_kernel_is_called_by_its_name() {
        let mut boot_sector = vec![0; 512];
        boot_sector[510..].copy_from_slice(b"\x55\xaa");
        let mut arm = vec![0; 64];
        arm[56..60].copy_from_slice(b"ARM\x64");

        for (start, word) in [
            (b"".to_vec(), "empty"),
            (b"\x1f\x8b\x08\x00".to_vec(), "gzip"),
            (b"070701000".to_vec(), "initramfs"),
            (b"MZ\0\0".to_vec(), "EFI"),
            (b"QFI\xfb\0".to_vec(), "qcow2"),
            (b"hello".to_vec(), "68 65 6c 6c 6f"),
            (boot_sector, "disk image"),
            (arm, "Arm"),
        ] {
            assert_eq!(Format::of_start(&start), None);
            assert!(describe(&start).contains(word), "{word}: {}", describe(&start));
        }
    }

    #[test]
    fn a_bzimage_with_an_efi_header_is_a_bzimage() {
        let mut start = vec![0; 0x206];
        start[..2].copy_from_slice(b"MZ");
        start[0x202..].copy_from_slice(b"HdrS");

        assert_eq!(Format::of_start(&start), Some(Format::BzImage));
    }
}
