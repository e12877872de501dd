//! The guest's serial console: bytes from standard input to the VMM, and from the VMM to standard output.
//!
//! Each direction has one bounded buffer, and is read only when that is empty: who does not take what is for him makes the other
//! side wait, not us. One exception: a terminal is always read, because its keys are how one gets out; what is typed beyond
//! the buffer is lost, as on a real line.

use super::keys::{Action, Keys};
use super::terminal::{self, Raw, Stream};
use log::error;
use nix::errno::Errno;
use nix::unistd::{read, write};
use std::io::{Write, stderr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Bytes read at a time: what a pipe that is writable takes at once (pipe(7)).
const PIECE: usize = 4096;

/// Bytes typed that the guest has not taken.
const TYPED_MAX: usize = 64 << 10;

/// What became of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gone {
    /// The terminal hung up.
    Terminal,
    /// Nobody reads standard output any more.
    Output,
}

/// Both directions.
#[derive(Debug)]
pub(crate) struct Console {
    /// Until its end.
    input: Option<Stream>,
    output: Stream,
    /// The pipe to the VMM, and the one from it; there is a pair for each VMM.
    typed: Option<OwnedFd>,
    printed: Option<OwnedFd>,
    to_guest: Buffer,
    to_output: Buffer,
    keys: Option<Keys>,
    /// Whether a VMM was ever connected: before that, what is typed stays where it is.
    begun: bool,
    /// Whether the guest ever printed anything.
    spoken: bool,
    /// The operator's answer to a question, as far as it is typed.
    answer: Option<Vec<u8>>,
    /// Whether the cursor is at the beginning of a line, as far as the guest is concerned.
    line_begins: bool,
}

/// Bytes on their way.
#[derive(Debug, Default)]
struct Buffer {
    bytes: Vec<u8>,
    written: usize,
}

impl Buffer {
    fn waiting(&self) -> &[u8] {
        self.bytes.get(self.written..).unwrap_or_default()
    }

    fn is_empty(&self) -> bool {
        self.waiting().is_empty()
    }

    /// Writes what is taken at once, `most` bytes at most.
    fn write_to(&mut self, to: impl AsFd, most: usize) -> Result<(), Errno> {
        let waiting = self.waiting();
        let piece = waiting.get(..most).unwrap_or(waiting);
        match write(to, piece) {
            Ok(count) => self.written = self.written.saturating_add(count),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
        if self.is_empty() {
            self.clear();
        }
        Ok(())
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.written = 0;
    }
}

impl Console {
    /// The console between standard input and output; with keys if the input is a terminal.
    pub(crate) fn new() -> Self {
        Self {
            input: Some(Stream::input()),
            output: Stream::output(),
            typed: None,
            printed: None,
            to_guest: Buffer::default(),
            to_output: Buffer::default(),
            keys: terminal::is_there().then(Keys::default),
            begun: false,
            spoken: false,
            answer: None,
            line_begins: true,
        }
    }

    /// Connects a VMM: the end to write what is typed to, and the end to read what the guest prints from.
    pub(crate) fn connect(&mut self, typed: OwnedFd, printed: OwnedFd) {
        self.typed = Some(typed);
        self.printed = Some(printed);
        self.begun = true;
    }

    /// The VMM has ended: it takes nothing more, but what it printed is still to be passed on.
    pub(crate) fn hang_up(&mut self) {
        self.typed = None;
    }

    /// The run is over: nothing is taken from the input any more, which may be meant for whoever comes next.
    pub(crate) fn close(&mut self) {
        self.input = None;
        self.typed = None;
        self.printed = None;
        self.to_output.clear();
    }

    /// Whether the guest ever printed anything.
    pub(crate) const fn has_spoken(&self) -> bool {
        self.spoken
    }

    /// Whether there is a terminal, with keys.
    pub(crate) const fn has_keys(&self) -> bool {
        self.keys.is_some()
    }

    /// Whether all the guest printed is on standard output.
    pub(crate) fn is_drained(&self) -> bool {
        self.printed.is_none() && self.to_output.is_empty()
    }

    /// Readable when there is input that can be used.
    pub(crate) fn input_event(&self) -> Option<BorrowedFd<'_>> {
        let guest = self.begun && (self.keys.is_some() || self.to_guest.is_empty());
        let wanted = guest || self.answer.is_some();
        let input = self.input.as_ref().filter(|_| wanted);
        input.map(AsFd::as_fd)
    }

    /// Writable when the guest takes what was typed.
    pub(crate) fn typed_event(&self) -> Option<BorrowedFd<'_>> {
        let pipe = self.typed.as_ref().filter(|_| !self.to_guest.is_empty());
        pipe.map(AsFd::as_fd)
    }

    /// Readable when the guest printed something that can be passed on.
    pub(crate) fn printed_event(&self) -> Option<BorrowedFd<'_>> {
        let pipe = self
            .printed
            .as_ref()
            .filter(|_| self.to_output.is_empty() && self.answer.is_none());
        pipe.map(AsFd::as_fd)
    }

    /// Writable when somebody takes what the guest printed.
    pub(crate) fn output_event(&self) -> Option<BorrowedFd<'_>> {
        (!self.to_output.is_empty() && self.answer.is_none()).then(|| self.output.as_fd())
    }

    /// Reads what is typed; the keys that were for us.
    ///
    /// # Errors
    /// [`Gone::Terminal`].
    pub(crate) fn read_input(&mut self) -> Result<Vec<Action>, Gone> {
        let Some(input) = &self.input else {
            return Ok(Vec::new());
        };
        let mut piece = [0; PIECE];
        let count = match read(input, &mut piece) {
            Ok(count) => count,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(Vec::new()),
            Err(_) => 0,
        };
        let bytes = piece.get(..count).unwrap_or_default();
        if self.answer.is_some() {
            return Ok(self.read_answer(bytes).into_iter().collect());
        }
        let Some(keys) = &mut self.keys else {
            // The end of a pipe or file is only the end of the input.
            self.input.take_if(|_| count == 0);
            self.to_guest.bytes.extend(bytes);
            return Ok(Vec::new());
        };
        if count == 0 {
            return Err(Gone::Terminal);
        }
        let mut actions = Vec::new();
        for &byte in bytes {
            let (to_guest, action) = keys.press(byte);
            actions.extend(action);
            if self.to_guest.bytes.len() < TYPED_MAX {
                self.to_guest.bytes.extend(to_guest);
            }
        }
        Ok(actions)
    }

    /// Asks the operator; false where there is nobody to ask. What was typed before is not the answer: a guest can make a
    /// terminal type. The terminal is as shells have it until there is an answer ([`Action::Answer`]).
    pub(crate) fn ask(&mut self, raw: Option<&Raw>, question: &str) -> bool {
        if self.keys.is_none() || raw.is_some_and(|raw| raw.pause().is_err()) {
            return false;
        }
        // Before the question: who sees it may answer at once.
        terminal::discard_input();
        self.show(question);
        self.answer = Some(Vec::new());
        true
    }

    /// Whether the operator was asked and has not answered.
    pub(crate) const fn is_asking(&self) -> bool {
        self.answer.is_some()
    }

    /// The operator does not want to answer.
    pub(crate) fn give_up_asking(&mut self) -> Option<Action> {
        self.show("\n");
        self.answer.take().map(|_| Action::Answer(String::new()))
    }

    /// A line as a terminal gives it, or the end of the input, which is no answer.
    fn read_answer(&mut self, bytes: &[u8]) -> Option<Action> {
        let answer = self.answer.as_mut()?;
        let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
        if answer.len() < TYPED_MAX {
            answer.extend(line);
        }
        if line.len() == bytes.len() && !bytes.is_empty() {
            return None;
        }
        let answer = self.answer.take()?;
        Some(Action::Answer(String::from_utf8_lossy(&answer).into_owned()))
    }

    /// The guest is gone; the operator may still be asked.
    pub(crate) fn end_guest(&mut self) {
        self.begun = false;
        self.answer = None;
        self.typed = None;
        self.printed = None;
        self.to_output.clear();
    }

    /// Passes on what was typed. A VMM that is gone takes nothing; what was typed waits for the next one.
    pub(crate) fn write_typed(&mut self) {
        if let Some(pipe) = &self.typed
            && self.to_guest.write_to(pipe, PIECE).is_err()
        {
            self.typed = None;
        }
    }

    /// Reads what the guest printed.
    pub(crate) fn read_printed(&mut self) {
        let Some(pipe) = &self.printed else {
            return;
        };
        self.to_output.bytes.resize(PIECE, 0);
        let count = match read(pipe, &mut self.to_output.bytes) {
            Ok(count) => count,
            Err(Errno::EAGAIN | Errno::EINTR) => {
                self.to_output.clear();
                return;
            }
            Err(_) => 0,
        };
        self.to_output.bytes.truncate(count);
        match self.to_output.bytes.last() {
            None => self.printed = None,
            Some(last) => {
                self.line_begins = *last == b'\n';
                self.spoken = true;
            }
        }
    }

    /// Passes on what the guest printed; nothing more of it, once that has failed.
    ///
    /// # Errors
    /// [`Gone`].
    pub(crate) fn write_output(&mut self) -> Result<(), Gone> {
        let most = self.output.at_a_time();
        let Err(errno) = self.to_output.write_to(&self.output, most) else {
            return Ok(());
        };
        // It would fail again, and be said again, until the VMM is gone.
        self.to_output.clear();
        self.printed = None;
        if errno == Errno::EIO && self.keys.is_some() {
            return Err(Gone::Terminal);
        }
        if errno != Errno::EPIPE {
            error!("cannot write what the guest prints to standard output: {errno}");
        }
        Err(Gone::Output)
    }

    /// Shows something of ours on the terminal, on a line of its own.
    pub(crate) fn show(&mut self, text: &str) {
        let begin = if self.line_begins { "" } else { "\n" };
        // Nobody else would be told of a terminal that takes nothing.
        let _ = write!(stderr(), "{begin}{text}");
        self.line_begins = true;
    }
}
