//! Kernels in ELF: entered by PVH where they say how, else by Linux's 64-bit boot protocol at their ELF entry.
//!
//! linux-loader loads; before that, this file makes sure that every segment lies where memory is free, because a program that
//! is no kernel would otherwise be loaded over what `layout` places below 1 MiB.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;

use linux_loader::loader::bootparam::setup_header;
use linux_loader::loader::elf::{Elf, PvhBootCapability};
use linux_loader::loader::{KernelLoader, KernelLoaderResult};

use super::{BootError, Entry, Kernel, Protocol};
use crate::machine::layout;
use crate::machine::memory::Ram;

const HEADER_BYTES: usize = 64;
const SEGMENT_BYTES: usize = 56;
const CLASS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;
const MACHINE_X86_64: u16 = 62;
/// A segment that is loaded.
const LOAD: u32 = 1;

/// What Linux's own header would say, had an uncompressed kernel one: the highest address it takes an initramfs from.
const INITRD_END: u64 = 1 << 31;
/// What makes Linux take a header seriously: its magic numbers, and a boot loader of no registered kind.
const BOOT_FLAG: u16 = 0xaa55;
const HEADER_MAGIC: u32 = 0x5372_6448;
const PROTOCOL_2_12: u16 = 0x020c;

/// Loads the ELF file in `file`.
///
/// # Errors
/// It cannot be read, is not for this machine, or does not fit.
pub(super) fn load(ram: &Ram, file: &mut File) -> Result<Kernel, BootError> {
    let segments = read_segments(file)?;
    let span = check_segments(ram, file, &segments)?;
    let loaded = Elf::load(ram.guest(), None, file, Some(layout::KERNEL)).map_err(BootError::Load)?;
    Ok(Kernel {
        entry: entry(&loaded, &span)?,
        end: span.end,
        initrd_end: INITRD_END,
        cmdline_most: layout::CMDLINE_MAX - 1,
        header: setup_header {
            boot_flag: BOOT_FLAG,
            header: HEADER_MAGIC,
            version: PROTOCOL_2_12,
            ..setup_header::default()
        },
    })
}

/// One program header, as far as it matters here.
#[derive(Debug)]
struct Segment {
    /// Bytes of the file.
    file: Range<u64>,
    /// Addresses of the guest.
    guest: Range<u64>,
}

/// The segments that will be loaded.
fn read_segments(file: &mut File) -> Result<Vec<Segment>, BootError> {
    let header: [u8; HEADER_BYTES] = read_at(file, 0)?;
    let class = (header[4], header[5], u16_at(&header, 18));
    if class != (CLASS_64, LITTLE_ENDIAN, MACHINE_X86_64) {
        return Err(BootError::Unfit(
            "it is an ELF file for another processor; give a kernel for x86-64 (amd64) processors".to_owned(),
        ));
    }
    let table = u64_at(&header, 32);
    let stride = u64::from(u16_at(&header, 54));
    let mut segments = Vec::new();
    for index in 0..u64::from(u16_at(&header, 56)) {
        let at = table.saturating_add(index * stride);
        let bytes: [u8; SEGMENT_BYTES] = read_at(file, at)?;
        if u32_at(&bytes, 0) == LOAD {
            segments.push(Segment::decode(&bytes));
        }
    }
    Ok(segments)
}

impl Segment {
    /// Lengths that overflow end at the end of the numbers, where no file and no memory is.
    fn decode(bytes: &[u8; SEGMENT_BYTES]) -> Self {
        let (offset, address) = (u64_at(bytes, 8), u64_at(bytes, 24));
        let (in_file, in_memory) = (u64_at(bytes, 32), u64_at(bytes, 40));
        Self {
            file: offset..offset.saturating_add(in_file),
            guest: address..address.saturating_add(in_memory.max(in_file)),
        }
    }
}

/// The addresses from the first to the last segment's end, if all of them are in the file and fit.
fn check_segments(ram: &Ram, file: &mut File, segments: &[Segment]) -> Result<Range<u64>, BootError> {
    let unfit = |why: &str| BootError::Unfit(why.to_owned());
    let start = segments.iter().map(|segment| segment.guest.start).min();
    let end = segments.iter().map(|segment| segment.guest.end).max();
    let (Some(start), Some(end)) = (start, end) else {
        return Err(unfit(
            "it is an ELF file with nothing to load, such as an object file or separate debug symbols",
        ));
    };
    if start < layout::KERNEL.0 {
        return Err(BootError::Unfit(format!(
            "it wants to lie at {start:#x}, below 1 MiB: this is an ordinary program or library, not a kernel"
        )));
    }
    if end > layout::HOLE_START {
        return Err(BootError::Unfit(format!(
            "it wants memory up to {end:#x}, beyond {:#x}, where devices begin",
            layout::HOLE_START
        )));
    }
    let has = file.seek(SeekFrom::End(0)).map_err(BootError::read("kernel"))?;
    let needs = segments.iter().map(|segment| segment.file.end).max().unwrap_or(0);
    if has < needs {
        return Err(BootError::CutShort { has, needs });
    }
    if end > ram.low_end() {
        return Err(BootError::TooLittleMemory {
            needs: end,
            has: ram.bytes(),
        });
    }
    Ok(start..end)
}

fn entry(loaded: &KernelLoaderResult, span: &Range<u64>) -> Result<Entry, BootError> {
    let entry = match loaded.pvh_boot_cap {
        PvhBootCapability::PvhEntryPresent(address) => Entry {
            protocol: Protocol::Pvh32,
            address: address.0,
        },
        PvhBootCapability::PvhEntryNotPresent | PvhBootCapability::PvhEntryIgnored => Entry {
            protocol: Protocol::Linux64,
            address: loaded.kernel_load.0,
        },
    };
    if span.contains(&entry.address) {
        Ok(entry)
    } else {
        Err(BootError::Unfit(format!(
            "its entry point {:#x} lies outside of what it loads",
            entry.address
        )))
    }
}

fn read_at<const BYTES: usize>(file: &mut File, at: u64) -> Result<[u8; BYTES], BootError> {
    let mut bytes = [0; BYTES];
    let read = file.seek(SeekFrom::Start(at)).and_then(|_| file.read_exact(&mut bytes));
    read.map_err(BootError::read("kernel"))?;
    Ok(bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

fn array_at<const BYTES: usize>(bytes: &[u8], at: usize) -> [u8; BYTES] {
    *bytes[at..]
        .first_chunk()
        .expect("offsets are constants within the two headers' fixed sizes")
}
