//! Linux's `boot_params`, the "zero page": how Linux's 64-bit boot protocol tells the kernel about its machine
//! (Documentation/arch/x86/zero-page.rst).

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use vm_memory::Bytes;

use super::initrd::Initrd;
use super::{BootError, memory_map};
use crate::machine::layout;
use crate::machine::memory::Ram;

/// A boot loader that has no number of its own.
const UNREGISTERED_LOADER: u8 = 0xff;

/// Writes it: `header` as the kernel had it, and what the loader adds.
///
/// # Errors
/// It does not fit into memory.
pub(super) fn write(ram: &Ram, header: setup_header, initrd: Option<Initrd>) -> Result<(), BootError> {
    let mut params = boot_params {
        hdr: filled(header, initrd),
        acpi_rsdp_addr: layout::RSDP.0,
        ..boot_params::default()
    };
    let map = memory_map::of(ram.bytes());
    let mut table = params.e820_table;
    for (entry, area) in table.iter_mut().zip(&map) {
        *entry = boot_e820_entry {
            addr: area.start,
            size: area.bytes,
            r#type: area.kind.number(),
        };
    }
    params.e820_table = table;
    params.e820_entries = u8::try_from(map.len()).expect("a machine has a handful of areas");
    ram.guest()
        .write_obj(params, layout::ZERO_PAGE)
        .map_err(BootError::memory("the zero page"))
}

/// The fields that the boot protocol makes a loader write.
fn filled(header: setup_header, initrd: Option<Initrd>) -> setup_header {
    let below_4_gib = |address| u32::try_from(address).expect("layout places what a kernel reads first below 4 GiB");
    setup_header {
        type_of_loader: UNREGISTERED_LOADER,
        cmd_line_ptr: below_4_gib(layout::CMDLINE.0),
        ramdisk_image: initrd.map_or(0, |initrd| initrd.start),
        ramdisk_size: initrd.map_or(0, |initrd| initrd.bytes),
        ..header
    }
}
