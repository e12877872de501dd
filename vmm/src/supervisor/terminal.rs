//! The operator's terminal, or what stands in its place: raw while the guest has it, and as it was at every end that can be
//! caught (returning, a panic, a signal that asks; not SIGKILL, after which `reset` helps).
//!
//! Whether a descriptor waits (O_NONBLOCK) is a property of the open file, which the shell and others share: it is not changed.
//! Instead the same thing is opened once more for ourselves, and where that cannot be done, looking first has to do.

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::sys::termios::{
    FlushArg, InputFlags, LocalFlags, OutputFlags, SetArg, SpecialCharacterIndices, Termios, tcflush, tcgetattr,
    tcsetattr,
};
use std::io::{IsTerminal, Stdin, Stdout, stdin, stdout};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

/// How the terminal was before it became raw, for whoever ends the process. Not `Copy`, and not to be asked of the terminal
/// later: by then it is raw.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Standard input or output.
#[derive(Debug)]
pub(crate) enum Stream {
    /// Opened once more: nothing waits.
    Own(OwnedFd),
    /// Shared, so that a read may wait if somebody else was faster.
    Input(Stdin),
    /// Shared, so that a write may wait if it is longer than there is room.
    Output(Stdout),
}

/// What is written at a time where a write may wait: a terminal or socket that says it is writable has room for more. A guess.
const CAUTIOUS: usize = 256;

impl Stream {
    /// Standard input.
    pub(crate) fn input() -> Self {
        reopened("/proc/self/fd/0", OFlag::O_RDONLY, stdin()).map_or_else(|| Self::Input(stdin()), Self::Own)
    }

    /// Standard output.
    pub(crate) fn output() -> Self {
        reopened("/proc/self/fd/1", OFlag::O_WRONLY, stdout()).map_or_else(|| Self::Output(stdout()), Self::Own)
    }

    /// How many bytes may be written after it was found writable.
    pub(crate) const fn at_a_time(&self) -> usize {
        match self {
            Self::Own(_) => usize::MAX,
            Self::Input(_) | Self::Output(_) => CAUTIOUS,
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Own(own) => own.as_fd(),
            Self::Input(stdin) => stdin.as_fd(),
            Self::Output(stdout) => stdout.as_fd(),
        }
    }
}

/// Opens once more what is a terminal or a pipe. Never a file: that has a position, which belongs to the open file too.
fn reopened(path: &str, mode: OFlag, shared: impl AsFd) -> Option<OwnedFd> {
    let kind = SFlag::from_bits_truncate(fstat(shared).ok()?.st_mode) & SFlag::S_IFMT;
    let flags = mode | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let wanted = kind == SFlag::S_IFCHR || kind == SFlag::S_IFIFO;
    wanted.then(|| open(path, flags, Mode::empty()).ok()).flatten()
}

/// Whether standard input is a terminal.
pub(crate) fn is_there() -> bool {
    stdin().is_terminal()
}

/// The terminal is raw as long as this lives.
#[derive(Debug)]
pub(crate) struct Raw(());

impl Raw {
    /// Makes the terminal raw: each key goes to the guest, C-c and C-z included.
    ///
    /// # Errors
    /// The terminal is gone.
    pub(crate) fn enter() -> Result<Self, Errno> {
        let before = tcgetattr(stdin())?;
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        let raw = Self(());
        raw.again()?;
        Ok(raw)
    }

    /// Makes it as it was, for a while.
    ///
    /// # Errors
    /// The terminal is gone.
    pub(crate) fn pause(&self) -> Result<(), Errno> {
        let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner);
        before
            .as_ref()
            .map_or(Ok(()), |before| tcsetattr(stdin(), SetArg::TCSANOW, before))
    }

    /// Makes it raw again, after a shell had it in between (SIGCONT).
    ///
    /// # Errors
    /// The terminal is gone.
    pub(crate) fn again(&self) -> Result<(), Errno> {
        let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner);
        // From the background this stops us, as it should: the terminal is somebody else's then.
        let set = |before: &Termios| tcsetattr(stdin(), SetArg::TCSANOW, &raw_from(before.clone()));
        before.as_ref().map_or(Ok(()), set)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// Throws away what was typed and not read. A guest can make a terminal type, by printing what terminals answer to (where is
/// the cursor, what is the title): that must not reach the shell that comes after us. What is still on its way when this is
/// called gets through.
pub(crate) fn discard_input() {
    if is_there() {
        // It fails only if the terminal is gone.
        let _ = tcflush(stdin(), FlushArg::TCIFLUSH);
    }
}

/// Gives the terminal back as it was. Does nothing the second time, or if it never was raw.
pub(crate) fn restore() {
    // Taken even from a thread that panicked with the lock held: there is one thread.
    let before = BEFORE.try_lock().map_or_else(|_| None, |mut before| before.take());
    if let Some(before) = before {
        discard_input();
        // It fails only if the terminal is gone.
        let _ = set_even_from_background(&before);
    }
}

/// As QEMU does: output keeps its "\n" to "\r\n", so that lines of ours look right among the guest's.
fn raw_from(mut termios: Termios) -> Termios {
    termios.input_flags &= !(InputFlags::IGNBRK
        | InputFlags::BRKINT
        | InputFlags::PARMRK
        | InputFlags::ISTRIP
        | InputFlags::INLCR
        | InputFlags::IGNCR
        | InputFlags::ICRNL
        | InputFlags::IXON);
    termios.output_flags |= OutputFlags::OPOST;
    termios.local_flags &=
        !(LocalFlags::ECHO | LocalFlags::ECHONL | LocalFlags::ICANON | LocalFlags::IEXTEN | LocalFlags::ISIG);
    for (index, value) in [(SpecialCharacterIndices::VMIN, 1), (SpecialCharacterIndices::VTIME, 0)] {
        #[expect(clippy::as_conversions, reason = "the discriminants are the places in the array")]
        if let Some(place) = termios.control_chars.get_mut(index as usize) {
            *place = value;
        }
    }
    termios
}

/// Also from the background, where the kernel would stop us for it (SIGTTOU).
fn set_even_from_background(termios: &Termios) -> Result<(), Errno> {
    let mut stopping = SigSet::empty();
    stopping.add(Signal::SIGTTOU);
    let before = stopping.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let done = tcsetattr(stdin(), SetArg::TCSANOW, termios);
    before.thread_set_mask()?;
    done
}
