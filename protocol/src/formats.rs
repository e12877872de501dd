//! Recognising what is *not* a raw image by the marks other formats carry.
//!
//! Only to refuse or to warn: nothing is ever opened, sized or interpreted by what is found here. Guests write the first
//! sectors of their disks, so a mark proves nothing about a file, except that some other program may one day believe it.

/// A format: its name, where its mark is, and the mark.
type Mark = (&'static str, usize, &'static [u8]);

/// The first bytes of every qcow2 image.
pub const QCOW2_MAGIC: [u8; 4] = *b"QFI\xfb";

/// The marks, from each format's specification or from QEMU's probing of it.
const MARKS: [Mark; 13] = [
    ("a qcow2 image", 0, &QCOW2_MAGIC),
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

/// Bytes from the start of a file that hold every mark.
pub const HEAD_BYTES: usize = 512;

/// The format that a file with this beginning looks like, if any.
#[must_use]
pub fn recognise(head: &[u8]) -> Option<&'static str> {
    let found = MARKS
        .iter()
        .find(|(_, offset, mark)| head.get(*offset..).is_some_and(|bytes| bytes.starts_with(mark)));
    found.map(|(name, _, _)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mark_is_found_in_its_place_and_nowhere_else() {
        for (name, offset, mark) in MARKS {
            for shift in [0, 1] {
                let mut head = [0; HEAD_BYTES];
                head[offset + shift..][..mark.len()].copy_from_slice(mark);
                let expected = (shift == 0).then_some(name);
                assert_eq!(recognise(&head), expected, "{name} shifted by {shift}");
            }
        }
    }

    #[test]
    fn a_boot_sector_is_no_format() {
        let mut head = [0; HEAD_BYTES];
        head[510..].copy_from_slice(&[0x55, 0xaa]);
        assert_eq!(recognise(&head), None);
        assert_eq!(recognise(&[]), None);
    }
}
