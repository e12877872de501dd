//! The calls that nix lacks, each behind a safe function.
#![allow(unsafe_code, reason = "listed: raw calls live here")]

use nix::errno::Errno;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};

nix::ioctl_read_bad!(
    /// FIONREAD: how many bytes wait in a socket's receive queue.
    fionread,
    libc::FIONREAD,
    libc::c_int
);

/// The number of bytes that can be received from `socket` without waiting.
///
/// # Errors
/// Whatever the kernel says; a socket always answers.
pub(crate) fn bytes_waiting(socket: &impl AsFd) -> Result<usize, Errno> {
    let mut waiting: libc::c_int = 0;
    // SAFETY: FIONREAD writes one `int` through the pointer, which is this function's own local, and keeps none of it.
    unsafe { fionread(socket.as_fd().as_raw_fd(), &raw mut waiting) }?;
    Ok(usize::try_from(waiting).unwrap_or(0))
}

/// What kind of file `file` is, and how long.
///
/// The system call itself, because the C library spells it as one that could also look paths up, and that one the filter
/// then could not tell from this.
///
/// # Errors
/// Whatever the kernel says; an open descriptor always answers.
pub(crate) fn file_status(file: &impl AsFd) -> Result<libc::stat, Errno> {
    let mut status = MaybeUninit::<libc::stat>::uninit();
    let number = file.as_fd().as_raw_fd();
    // SAFETY: on success the kernel fills the whole structure, which is this function's own local, and keeps no pointer.
    let result = unsafe { libc::syscall(libc::SYS_fstat, number, status.as_mut_ptr()) };
    Errno::result(result)?;
    // SAFETY: the call succeeded, so the structure is filled; any bit pattern is one of its values.
    Ok(unsafe { status.assume_init() })
}
