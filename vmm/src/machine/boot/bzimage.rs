//! Linux's bzImage, by its 64-bit boot protocol (Documentation/arch/x86/boot.rst, "64-bit BOOT PROTOCOL").
//!
//! The compressed kernel goes to `layout::KERNEL`. It unpacks itself to its preferred address or above and needs `init_size` bytes
//! there; so nothing else may lie below the end of that.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use linux_loader::loader::KernelLoader;
use linux_loader::loader::bootparam::{LOADED_HIGH, XLF_KERNEL_64, setup_header};
use linux_loader::loader::bzimage::BzImage;
use vm_memory::ByteValued;

use super::{BootError, Entry, Kernel, Protocol};
use crate::machine::layout;
use crate::machine::memory::Ram;

/// Where the header begins in the file.
const HEADER_AT: u64 = 0x1f1;
/// Where in the header the jump instruction over it ends.
const JUMP_END: usize = 0x11;
/// The file's sectors.
const SECTOR: u64 = 512;
/// `syssize` counts these.
const PARAGRAPH: u64 = 16;
/// What `setup_sects` means when it is 0.
const DEFAULT_SETUP_SECTORS: u64 = 4;
/// The first protocol that says whether there is a 64-bit entry (Linux 3.8).
const PROTOCOL_2_12: u16 = 0x020c;
/// The 64-bit entry, from where the kernel was loaded.
const ENTRY_64: u64 = 0x200;

/// Loads the bzImage in `file`.
///
/// # Errors
/// It cannot be read, is too old, has no 64-bit entry, or does not fit.
pub(super) fn load(ram: &Ram, file: &mut File) -> Result<Kernel, BootError> {
    let header = read_header(file)?;
    check(&header)?;
    let end = end(&header, check_length(&header, file)?);
    if end > ram.low_end() {
        return Err(BootError::TooLittleMemory {
            needs: end,
            has: ram.bytes(),
        });
    }
    BzImage::load(ram.guest(), Some(layout::KERNEL), file, None).map_err(BootError::Load)?;
    Ok(Kernel {
        entry: Entry {
            protocol: Protocol::Linux64,
            address: layout::KERNEL.0 + ENTRY_64,
        },
        end,
        initrd_end: u64::from(header.initrd_addr_max) + 1,
        cmdline_most: usize::try_from(header.cmdline_size).unwrap_or(usize::MAX),
        header,
    })
}

fn read_header(file: &mut File) -> Result<setup_header, BootError> {
    let mut bytes = Vec::new();
    let mut header = setup_header::default();
    file.seek(SeekFrom::Start(HEADER_AT))
        .map_err(BootError::read("kernel"))?;
    let whole = header.as_slice().len();
    file.take(u64::try_from(whole).unwrap_or(u64::MAX))
        .read_to_end(&mut bytes)
        .map_err(BootError::read("kernel"))?;
    if bytes.len() < whole {
        return Err(BootError::CutShort {
            has: HEADER_AT + u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            needs: HEADER_AT + u64::try_from(whole).unwrap_or(u64::MAX),
        });
    }
    header.as_mut_slice().copy_from_slice(&bytes);
    // The jump over the header tells its length; what an older kernel has after that is code.
    let length = usize::from(header.jump >> 8) + JUMP_END;
    if let Some(code) = header.as_mut_slice().get_mut(length..) {
        code.fill(0);
    }
    Ok(header)
}

fn check(header: &setup_header) -> Result<(), BootError> {
    let version = header.version;
    if version < PROTOCOL_2_12 {
        return Err(BootError::Unfit(format!(
            "it speaks version {}.{:02} of the boot protocol, and 2.12 is needed (Linux 3.8, of 2013)",
            version >> 8,
            version & 0xff
        )));
    }
    let flags = header.xloadflags;
    if flags & XLF_KERNEL_64 == 0 {
        return Err(BootError::Unfit(
            "it has no 64-bit entry; give a kernel for x86-64 (amd64) processors".to_owned(),
        ));
    }
    if header.loadflags & LOADED_HIGH == 0 {
        return Err(BootError::Unfit(
            "it is a zImage, of the kind that lies below 1 MiB".to_owned(),
        ));
    }
    Ok(())
}

/// The length of what goes to memory, if the file is as long as its header says.
fn check_length(header: &setup_header, file: &mut File) -> Result<u64, BootError> {
    let has = file.seek(SeekFrom::End(0)).map_err(BootError::read("kernel"))?;
    let setup_sectors = match u64::from(header.setup_sects) {
        0 => DEFAULT_SETUP_SECTORS,
        sectors => sectors,
    };
    let setup = (setup_sectors + 1) * SECTOR;
    let needs = setup + u64::from(header.syssize) * PARAGRAPH;
    if has < needs {
        return Err(BootError::CutShort { has, needs });
    }
    Ok(has - setup)
}

/// The first address that neither the loaded nor the unpacked kernel touches before it knows where memory is.
fn end(header: &setup_header, bytes: u64) -> u64 {
    let loaded = layout::KERNEL.0;
    let alignment = u64::from(header.kernel_alignment).max(1);
    let unpacked = loaded.next_multiple_of(alignment).max(header.pref_address);
    let unpacked_end = unpacked.saturating_add(u64::from(header.init_size));
    unpacked_end.max(loaded.saturating_add(bytes))
}
