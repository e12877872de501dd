//! From a kernel's file to a machine whose boot processor can be started.
//!
//! [`load`] recognises the file, puts the kernel, the initramfs, the command line and what the kernel's boot protocol wants to
//! know into memory, and says where the processor begins ([`Entry`]). `registers` says in which state it begins, `cpuid` what
//! every processor may know about itself. `format` tells kernels from other files; `bzimage` and `elf` each know one kind of
//! kernel; `zero_page` and `pvh` each know one way to tell it things; `memory_map` is what it is told about memory.
//!
//! Nothing here trusts the files: they are read through checked lengths, and go only where memory is. Nothing here has a processor:
//! whoever has one sets what is computed here.

mod bzimage;
pub(crate) mod cpuid;
mod elf;
mod error;
mod format;
mod initrd;
mod memory_map;
mod pvh;
pub(crate) mod registers;
#[cfg(test)]
mod tests;
mod zero_page;

use std::fs::File;

use linux_loader::loader::bootparam::setup_header;
use vm_memory::Bytes;

use super::layout;
use super::memory::Ram;
pub(crate) use error::BootError;
use format::Format;
use initrd::Initrd;

/// Where and how the boot processor begins. `registers` turns it into register values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The state it begins in.
    pub(crate) protocol: Protocol,
    /// Its first instruction.
    pub(crate) address: u64,
}

/// The two ways in which a kernel is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Linux's 64-bit boot protocol: long mode, RSI points to the zero page.
    Linux64,
    /// Xen's PVH: 32-bit protected mode without paging, EBX points to the start info.
    Pvh32,
}

/// A kernel that is in memory, and what it wants of the rest.
#[derive(Debug)]
struct Kernel {
    entry: Entry,
    /// The first address that it leaves alone.
    end: u64,
    /// The initramfs must end at this address or below.
    initrd_end: u64,
    /// The longest command line that it takes, without the final zero.
    cmdline_most: usize,
    /// For Linux's own protocol: the header that goes back to it, in the zero page.
    header: setup_header,
}

/// Puts `kernel`, `initrd` and `cmdline` into `ram`, with everything that the boot processor finds there when it begins.
///
/// # Errors
/// A file cannot be read or is not what it should be, or something does not fit.
pub(crate) fn load(ram: &Ram, kernel: &mut File, initrd: Option<&mut File>, cmdline: &str) -> Result<Entry, BootError> {
    let kernel = match Format::of(kernel)? {
        Format::BzImage => bzimage::load(ram, kernel)?,
        Format::Elf => elf::load(ram, kernel)?,
    };
    write_cmdline(ram, cmdline, kernel.cmdline_most)?;
    let initrd = initrd.map(|file| Initrd::load(ram, &kernel, file)).transpose()?;
    match kernel.entry.protocol {
        Protocol::Linux64 => zero_page::write(ram, kernel.header, initrd),
        Protocol::Pvh32 => pvh::write(ram, initrd),
    }?;
    registers::write_tables(ram.guest(), &kernel.entry)
        .map_err(BootError::memory("the first tables of the processor"))?;
    Ok(kernel.entry)
}

fn write_cmdline(ram: &Ram, cmdline: &str, kernel_takes: usize) -> Result<(), BootError> {
    let most = kernel_takes.min(layout::CMDLINE_MAX - 1);
    let bytes = cmdline.len();
    if bytes > most {
        return Err(BootError::CmdlineTooLong { bytes, most });
    }
    // Memory is zeros: the final one is there.
    ram.guest()
        .write_slice(cmdline.as_bytes(), layout::CMDLINE)
        .map_err(BootError::memory("the command line"))
}
