//! The calls that nix lacks, each behind a safe function.
#![allow(unsafe_code, reason = "listed: raw calls live here")]

use crate::contract::MachineExit;
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{getpid, getppid, setsid};
use policy::signals::exit_now;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use vmm_sys_util::eventfd::EventFd;

/// The descriptor of an eventfd, which its library hands out as a number only.
pub(crate) fn eventfd(eventfd: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: `eventfd` owns the descriptor and keeps it open, and by the signature the borrow cannot outlive it.
    unsafe { BorrowedFd::borrow_raw(eventfd.as_raw_fd()) }
}

/// Lets the process that `command` will start have a session of its own and be killed when the calling thread ends, and hear
/// every signal: those that this process has blocked would stay blocked.
pub(crate) fn detach(command: &mut Command) {
    let parent = getpid();
    // SAFETY: what runs between fork and exec must be async-signal-safe: these are five system calls on plain numbers, one
    // of which ends the process, without allocation or locks, and what they return is made into an error without either.
    unsafe {
        command.pre_exec(move || {
            setsid()?;
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            // A parent that died before the last line does not die again. Nobody is there to be told either: an error would
            // be reported to it through a pipe, and the standard library aborts where that fails.
            if getppid() != parent {
                exit_now(MachineExit::ParentGone.number());
            }
            SigSet::empty().thread_set_mask()?;
            Ok(())
        });
    }
}

/// Keeps every descriptor above standard error from the programs that this process will start.
///
/// # Errors
/// EINVAL on a kernel before 5.11.
pub(crate) fn pass_nothing_on() -> Result<(), Errno> {
    let flags = libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: with this flag the call closes nothing here, it only marks; it takes three numbers and no address.
    let result = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, flags) };
    Errno::result(result).map(drop)
}

nix::ioctl_readwrite_bad!(
    /// TUNSETIFF: attaches an open /dev/net/tun to an interface.
    tunsetiff,
    libc::TUNSETIFF,
    libc::ifreq
);
nix::ioctl_read_bad!(
    /// TUNGETIFF: which interface, and how.
    tungetiff,
    libc::TUNGETIFF,
    libc::ifreq
);
nix::ioctl_write_ptr_bad!(
    /// TUNSETVNETHDRSZ: how long the header before each frame is.
    tunsetvnethdrsz,
    libc::TUNSETVNETHDRSZ,
    libc::c_int
);

/// Attaches `tun`, an open /dev/net/tun, to the interface `name` in the mode `flags` (IFF_*).
///
/// # Errors
/// EBUSY when somebody else has it, EPERM when it is not ours to have, EINVAL for a name that does not fit.
pub(crate) fn attach_tap(tun: &impl AsFd, name: &str, flags: i32) -> Result<(), Errno> {
    let mut request = interface_request();
    if name.len() >= request.ifr_name.len() {
        return Err(Errno::EINVAL);
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).map_err(|_| Errno::EINVAL)?;
    // SAFETY: TUNSETIFF reads and writes one `ifreq` through the pointer, which is this function's own local, and keeps none.
    unsafe { tunsetiff(tun.as_fd().as_raw_fd(), &raw mut request) }.map(drop)
}

/// The mode (IFF_*) of an open tap.
///
/// # Errors
/// EBADFD or ENOTTY when it is none.
pub(crate) fn tap_flags(tap: &impl AsFd) -> Result<i32, Errno> {
    let mut request = interface_request();
    // SAFETY: TUNGETIFF writes one `ifreq` through the pointer, which is this function's own local, and keeps none.
    unsafe { tungetiff(tap.as_fd().as_raw_fd(), &raw mut request) }?;
    // SAFETY: the member is a number, and the whole union was filled with zeros before the kernel wrote there.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    // The kernel's flags go beyond 15 bits; what looks negative is one of them.
    Ok(i32::from(u16::from_ne_bytes(flags.to_ne_bytes())))
}

/// Makes the header before each frame `bytes` long.
///
/// # Errors
/// ENOTTY or EBADFD when it is no tap.
pub(crate) fn set_tap_header(tap: &impl AsFd, bytes: libc::c_int) -> Result<(), Errno> {
    // SAFETY: TUNSETVNETHDRSZ reads one `int` through the pointer, which is this function's own argument, and keeps none of it.
    unsafe { tunsetvnethdrsz(tap.as_fd().as_raw_fd(), &raw const bytes) }.map(drop)
}

/// A request about an interface in which nothing is said yet.
fn interface_request() -> libc::ifreq {
    // SAFETY: the structure consists of numbers, for which zero is a value.
    unsafe { std::mem::zeroed() }
}
