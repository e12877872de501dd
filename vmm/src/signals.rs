//! The signals that `mayfly` answers, as something to wait for beside everything else. No handler runs.

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::os::fd::{AsFd, BorrowedFd};

/// What ends a run, or what `mayfly ctl` is at.
const ENDING: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];

/// Puts right what a launcher may have left to us, without which no end of a process could be waited for, and makes a file that
/// may not grow any more (a limit on file sizes) an error: as a signal it would leave the terminal raw.
///
/// # Errors
/// None that the kernel knows for these.
pub(crate) fn settle() -> Result<(), Errno> {
    policy::signals::forget_inherited()?;
    policy::signals::ignore(Signal::SIGXFSZ)
}

/// Signals, blocked and waiting to be read.
#[derive(Debug)]
pub(crate) struct Signals(SignalFd);

impl Signals {
    /// Takes them over, but for those that whoever started us wants ignored (nohup, a shell's background jobs). Processes that
    /// are started later get them back: [`crate::sys::detach`] sees to that.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub(crate) fn take() -> Result<Self, Errno> {
        let mut set = SigSet::empty();
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        for signal in ENDING.into_iter().filter(|signal| !is_ignored(&status, *signal)) {
            set.add(signal);
        }
        set.add(Signal::SIGCONT);
        set.thread_block()?;
        SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC).map(Self)
    }

    /// Lets them do again what they do by default: also those that came meanwhile.
    ///
    /// # Errors
    /// None that the kernel knows for this.
    pub(crate) fn give_back(self) -> Result<(), Errno> {
        SigSet::empty().thread_set_mask()
    }

    /// The next one, if one came.
    pub(crate) fn next(&self) -> Option<Signal> {
        let info = self.0.read_signal().ok().flatten()?;
        i32::try_from(info.ssi_signo)
            .ok()
            .and_then(|number| Signal::try_from(number).ok())
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The exit code of somebody whom a signal ended, as shells have it.
pub(crate) fn code(signal: Signal) -> u8 {
    #[expect(clippy::as_conversions, reason = "the discriminants are the numbers")]
    let number = signal as i32;
    u8::try_from(number).map_or(u8::MAX, |number| number.saturating_add(128))
}

/// Whether the mask in `/proc/self/status` says that a signal is ignored.
fn is_ignored(status: &str, signal: Signal) -> bool {
    #[expect(clippy::as_conversions, reason = "the discriminants are the numbers")]
    let bit = signal as u32 - 1;
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & (1 << bit) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_their_mask() {
        // SIGHUP and SIGPIPE.
        let status = "SigBlk:\tffffffffffffffff\nSigIgn:\t0000000000001001\n";

        assert!(is_ignored(status, Signal::SIGHUP));
        assert!(!is_ignored(status, Signal::SIGINT));
        assert!(!is_ignored("", Signal::SIGHUP));
    }
}
