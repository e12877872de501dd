//! Recognising what is *not* a raw image by the marks other formats carry.
//!
//! Only to refuse: nothing is ever opened, sized or interpreted by what is found here. Guests write the first sectors of
//! their disks, so a mark proves nothing about a file, except that some other program may one day believe it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// A format: its name, where its mark is, and the mark.
type Mark = (&'static str, usize, &'static [u8]);

/// The marks, from each format's specification or from QEMU's probing of it.
const MARKS: [Mark; 13] = [
    ("a qcow2 image", 0, b"QFI\xfb"),
    ("a QED image", 0, b"QED\0"),
    ("a VMDK image", 0, b"KDMV"),
    ("a VMDK image", 0, b"COWD"),
    ("a VMDK descriptor", 0, b"# Disk DescriptorFile"),
    ("a VHDX image", 0, b"vhdxfile"),
    ("a VHD image", 0, b"conectix"),
    ("a VDI image", 64, b"\x7f\x10\xda\xbe"),
    ("a Parallels image", 0, b"WithoutFreeSpace"),
    ("a Parallels image", 0, b"WithouFreSpacExt"),
    ("a Bochs image", 0, b"Bochs Virtual HD Image"),
    ("a cloop image", 0, b"#!/bin/sh\n#V2.0 Format"),
    ("a LUKS container", 0, b"LUKS\xba\xbe"),
];

/// Bytes from the start that hold every mark.
const HEAD_BYTES: usize = 512;

/// The format `file` looks like, if any.
///
/// # Errors
/// When it cannot be read.
pub(super) fn recognise(file: &File) -> io::Result<Option<&'static str>> {
    let mut head = [0; HEAD_BYTES];
    let mut filled = 0;
    while let Some(rest) = head.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, u64::try_from(filled).unwrap_or(u64::MAX))? {
            0 => break,
            read => filled = filled.saturating_add(read),
        }
    }
    let found = MARKS
        .iter()
        .find(|(_, offset, mark)| head.get(*offset..).is_some_and(|bytes| bytes.starts_with(mark)));
    Ok(found.map(|(name, _, _)| *name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mark_is_found_in_its_place_and_nowhere_else() {
        for (name, offset, mark) in MARKS {
            for shift in [0, 1] {
                let file = tempfile::tempfile().unwrap();
                file.write_all_at(mark, (offset + shift) as u64).unwrap();
                let expected = (shift == 0).then_some(name);
                assert_eq!(recognise(&file).unwrap(), expected, "{name} shifted by {shift}");
            }
        }
    }

    #[test]
    fn a_boot_sector_is_no_format() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[0x55, 0xaa], 510).unwrap();
        assert_eq!(recognise(&file).unwrap(), None);
    }
}
