//! Signals that end the process: a handler says one line and is gone. Nothing needs cleaning up, the kernel burns.
//!
//! The handler reads a table that was filled before it could run, asks with `poll` whether standard error takes a line, writes it
//! and calls `_exit`. Each of these is async-signal-safe: two system calls on the standard error descriptor, an atomic load, no
//! allocation, no lock. It does not return, so the filter needs no `rt_sigreturn`.

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use std::os::fd::AsFd;
use std::sync::OnceLock;

use crate::sys::{self, Disposition};

/// How many signal numbers there are, real-time ones included.
const SIGNALS: usize = 65;

/// What a signal means.
#[derive(Debug)]
struct End {
    /// The exit code.
    code: u8,
    /// What to write to standard error.
    message: &'static str,
}

/// The end that belongs to each signal number.
static ENDS: [OnceLock<End>; SIGNALS] = [const { OnceLock::new() }; SIGNALS];

/// From now on `signal` writes `message` to standard error, if that takes it at once, and ends the process with `code`.
///
/// `message` is written as it is: end it with a newline.
///
/// # Errors
///
/// EALREADY when the signal has an end already; what `sigaction` says otherwise (EINVAL for SIGKILL and SIGSTOP).
pub fn exit_on(signal: Signal, code: u8, message: &'static str) -> Result<(), Errno> {
    let end = usize::try_from(signal_number(signal))
        .ok()
        .and_then(|number| ENDS.get(number))
        .ok_or(Errno::EINVAL)?;
    end.set(End { code, message }).map_err(|_| Errno::EALREADY)?;
    sys::install_handler(signal, on_signal)
}

/// Ignores a signal: SIGPIPE, because a vanished peer is an error to handle, and SIGXFSZ.
///
/// # Errors
///
/// EINVAL for a signal that cannot be ignored.
pub fn ignore(signal: Signal) -> Result<(), Errno> {
    sys::dispose(signal, Disposition::Ignore)
}

/// Undoes what a launcher may have left to us: a blocked signal would end nothing, and with SIGCHLD ignored there is no waiting
/// for a child.
///
/// # Errors
///
/// None that the kernel knows for these.
pub fn forget_inherited() -> Result<(), Errno> {
    SigSet::empty().thread_set_mask()?;
    sys::dispose(Signal::SIGCHLD, Disposition::Default)
}

/// Ends the process at once, without destructors or `atexit` functions, which could wait for somebody.
pub fn exit_now(code: u8) -> ! {
    sys::exit_now(code)
}

/// The signal as the kernel counts it.
#[expect(clippy::as_conversions, reason = "the discriminants are the numbers")]
const fn signal_number(signal: Signal) -> i32 {
    signal as i32
}

/// The handler; see the head of the file for why this is async-signal-safe.
extern "C" fn on_signal(number: libc::c_int) {
    let end = usize::try_from(number)
        .ok()
        .and_then(|number| ENDS.get(number))
        .and_then(OnceLock::get);
    let Some(End { code, message }) = end else {
        sys::exit_now(u8::MAX);
    };
    let stderr = std::io::stderr();
    let mut ready = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    let writable = poll(&mut ready, PollTimeout::ZERO) == Ok(1) && ready[0].revents() == Some(PollFlags::POLLOUT);
    if writable {
        // A line that cannot be written is lost: there is nobody left to tell.
        let _written = nix::unistd::write(&stderr, message.as_bytes());
    }
    sys::exit_now(*code)
}
