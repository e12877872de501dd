//! Xen's `hvm_start_info`: how PVH tells a kernel about its machine (xen/include/public/arch-x86/hvm/start_info.h).

use linux_loader::loader::elf::start_info::{
    XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::{ByteValued, Bytes, GuestAddress, GuestMemoryError};

use super::initrd::Initrd;
use super::memory_map::{self, Area};
use super::{BootError, layout};
use crate::machine::memory::Ram;

/// The first version with a memory map.
const VERSION: u32 = 1;

/// Writes it, with its list of modules (the initramfs) and its memory map.
///
/// # Errors
/// It does not fit into memory.
pub(super) fn write(ram: &Ram, initrd: Option<Initrd>) -> Result<(), BootError> {
    let modules: Vec<_> = initrd.into_iter().map(module).collect();
    let map: Vec<_> = memory_map::of(ram.bytes()).into_iter().map(entry).collect();
    let info = hvm_start_info {
        magic: XEN_HVM_START_MAGIC_VALUE,
        version: VERSION,
        nr_modules: count(&modules),
        modlist_paddr: layout::PVH_MODULES.0,
        cmdline_paddr: layout::CMDLINE.0,
        rsdp_paddr: layout::RSDP.0,
        memmap_paddr: layout::PVH_MEMORY_MAP.0,
        memmap_entries: count(&map),
        ..hvm_start_info::default()
    };
    write_all(ram, &[info], layout::PVH_START_INFO)
        .and_then(|()| write_all(ram, &modules, layout::PVH_MODULES))
        .and_then(|()| write_all(ram, &map, layout::PVH_MEMORY_MAP))
        .map_err(BootError::memory("the PVH start info"))
}

fn module(initrd: Initrd) -> hvm_modlist_entry {
    hvm_modlist_entry {
        paddr: initrd.start.into(),
        size: initrd.bytes.into(),
        ..hvm_modlist_entry::default()
    }
}

fn entry(area: Area) -> hvm_memmap_table_entry {
    hvm_memmap_table_entry {
        addr: area.start,
        size: area.bytes,
        type_: area.kind.number(),
        reserved: 0,
    }
}

fn count<T>(items: &[T]) -> u32 {
    u32::try_from(items.len()).expect("one initramfs, and a handful of areas")
}

fn write_all<T: ByteValued>(ram: &Ram, items: &[T], at: GuestAddress) -> Result<(), GuestMemoryError> {
    let bytes: Vec<u8> = items.iter().flat_map(|item| item.as_slice().to_vec()).collect();
    ram.guest().write_slice(&bytes, at)
}
