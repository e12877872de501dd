//! The initramfs: as high as the kernel takes it, away from where the kernel unpacks itself.

use std::fs::File;
use std::io::{Seek, SeekFrom};

use vm_memory::{Bytes, GuestAddress};

use super::{BootError, Kernel};
use crate::contract::PAGE;
use crate::machine::memory::Ram;

/// Where the initramfs lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Initrd {
    /// On a page's boundary, and below 4 GiB, where kernels look for it.
    pub(super) start: u32,
    /// Its length.
    pub(super) bytes: u32,
}

impl Initrd {
    /// Puts what is in `file` into memory, where `kernel` finds it.
    ///
    /// # Errors
    /// It cannot be read or has no place.
    pub(super) fn load(ram: &Ram, kernel: &Kernel, file: &mut File) -> Result<Self, BootError> {
        let length = file.seek(SeekFrom::End(0)).map_err(BootError::read("initramfs"))?;
        file.rewind().map_err(BootError::read("initramfs"))?;
        let placed = Self::place(ram, kernel, length)?;
        let count = usize::try_from(placed.bytes).unwrap_or(usize::MAX);
        ram.guest()
            .read_exact_volatile_from(GuestAddress(placed.start.into()), file, count)
            .map_err(BootError::memory("the initramfs"))?;
        Ok(placed)
    }

    fn place(ram: &Ram, kernel: &Kernel, length: u64) -> Result<Self, BootError> {
        let first = kernel.end.next_multiple_of(PAGE);
        let most = kernel.initrd_end.saturating_sub(first);
        if length > most {
            return Err(BootError::InitrdTooLarge { bytes: length, most });
        }
        let end = kernel.initrd_end.min(ram.low_end());
        let start = end
            .checked_sub(length)
            .map(|start| start - start % PAGE)
            .filter(|&start| start >= first)
            .ok_or_else(|| BootError::TooLittleMemory {
                needs: first + length.next_multiple_of(PAGE),
                has: ram.bytes(),
            })?;
        let below_4_gib = |number| u32::try_from(number).expect("memory below the hole, and so below 4 GiB");
        Ok(Self {
            start: below_4_gib(start),
            bytes: below_4_gib(length),
        })
    }
}
