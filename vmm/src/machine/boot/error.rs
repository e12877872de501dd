//! Why a machine cannot be booted, in words for whoever gave the kernel, the initramfs and the size of the memory.

use std::io;

use thiserror::Error;
use vm_memory::GuestMemoryError;

/// What [`super::load`] can fail with.
#[derive(Debug, Error)]
pub(crate) enum BootError {
    /// Some other file.
    #[error(
        "the kernel is neither a bzImage nor an ELF file: it {0}; give the file that distributions install as /boot/vmlinuz-*, \
         or an uncompressed vmlinux"
    )]
    NotAKernel(String),
    /// A kernel, but not one that can be started here.
    #[error("the kernel cannot be booted: {0}")]
    Unfit(String),
    /// The file ends before its own header says so.
    #[error("the kernel is cut short: it has {has} bytes and should have at least {needs}; copy or download it again")]
    CutShort {
        /// Its length.
        has: u64,
        /// What its header promises.
        needs: u64,
    },
    /// Kernel and initramfs do not fit.
    #[error(
        "the kernel and the initramfs need {} MiB of memory to start, and the guest has {} MiB: give it more (--memory)",
        .needs.div_ceil(1 << 20),
        .has >> 20
    )]
    TooLittleMemory {
        /// Bytes up to the end of what must be placed.
        needs: u64,
        /// Bytes that there are.
        has: u64,
    },
    /// The initramfs has no place that the kernel would look at.
    #[error("the initramfs is too large: it has {bytes} bytes, and this kernel takes at most {most}")]
    InitrdTooLarge {
        /// Its length.
        bytes: u64,
        /// What fits between the kernel and the highest address that it takes an initramfs from.
        most: u64,
    },
    /// The command line has no place.
    #[error("the kernel's command line is too long: it has {bytes} bytes, and this kernel takes at most {most}")]
    CmdlineTooLong {
        /// Its length.
        bytes: usize,
        /// What the kernel, or the place for it, takes.
        most: usize,
    },
    /// A file could not be read.
    #[error("cannot read the {what}")]
    Read {
        /// "kernel" or "initramfs".
        what: &'static str,
        /// What the kernel of the host said.
        #[source]
        source: io::Error,
    },
    /// Guest memory refused: the layout and the size of the memory do not agree, or a file changed while it was read.
    #[error("cannot put {what} into guest memory")]
    Memory {
        /// What was to be put there.
        what: &'static str,
        /// Which address.
        #[source]
        source: GuestMemoryError,
    },
    /// The kernel was recognised and checked, and could not be loaded all the same.
    #[error("cannot load the kernel")]
    Load(#[source] linux_loader::loader::Error),
}

impl BootError {
    /// For `map_err`: `what` could not be read.
    pub(super) fn read(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Read { what, source }
    }

    /// For `map_err`: `what` could not be put into memory.
    pub(in crate::machine) fn memory(what: &'static str) -> impl FnOnce(GuestMemoryError) -> Self {
        move |source| Self::Memory { what, source }
    }
}
