//! What a guest's console showed, and waiting for it to show something.
//!
//! Two threads copy QEMU's standard output (the serial console) and standard error into one growing text, without
//! carriage returns. A reader has one position in it, which only goes forward. Knows neither commands nor QEMU.

use std::io::Read;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::{GuestError, Transcript};

/// How much of the console an error shows: about two screens.
const TAIL: usize = 4000;

/// Everything said so far, and how much of it was waited for.
#[derive(Debug, Default)]
struct State {
    text: Vec<u8>,
    read: usize,
    ended: bool,
}

/// The console of one guest.
#[derive(Debug, Default)]
pub(super) struct Console {
    state: Mutex<State>,
    changed: Condvar,
}

impl Console {
    /// Begins to read. `watcher` gets each piece of the console as it comes.
    pub(super) fn watch(
        serial: impl Read + Send + 'static,
        complaints: impl Read + Send + 'static,
        watcher: Option<Sender<String>>,
    ) -> Arc<Self> {
        let console = Arc::new(Self::default());
        let reader = Arc::clone(&console);
        thread::spawn(move || {
            reader.copy(serial, watcher.as_ref());
            reader.lock().ended = true;
            reader.changed.notify_all();
        });
        let reader = Arc::clone(&console);
        thread::spawn(move || reader.copy(complaints, None));
        console
    }

    /// Waits for `text` after the position; moves the position behind it and returns what was passed.
    pub(super) fn wait_for(&self, text: &str, limit: Duration) -> Result<String, GuestError> {
        let end = Instant::now() + limit;
        let mut state = self.lock();
        let mut searched = state.read;
        loop {
            if let Some(at) = find(&state.text, text.as_bytes(), searched) {
                let passed = String::from_utf8_lossy(&state.text[state.read..at]).into_owned();
                state.read = at;
                return Ok(passed);
            }
            searched = state.text.len().saturating_sub(text.len()).max(state.read);
            let left = end.saturating_duration_since(Instant::now());
            let (awaited, console) = (text.to_owned(), state.tail());
            if state.ended {
                return Err(GuestError::Closed { awaited, console });
            }
            if left.is_zero() {
                return Err(GuestError::TimedOut {
                    awaited,
                    limit,
                    console,
                });
            }
            state = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Waits until the other side closed the console.
    pub(super) fn wait_end(&self, limit: Duration) -> Result<(), GuestError> {
        let running = |state: &mut State| !state.ended;
        let waited = self.changed.wait_timeout_while(self.lock(), limit, running);
        let (state, result) = waited.unwrap_or_else(PoisonError::into_inner);
        if result.timed_out() {
            return Err(GuestError::TimedOut {
                awaited: "the end of QEMU".to_owned(),
                limit,
                console: state.tail(),
            });
        }
        Ok(())
    }

    /// Writes a line of ours into the transcript, where a reader will not wait for it.
    pub(super) fn note(&self, line: &str) {
        let mut state = self.lock();
        state.text.extend_from_slice(line.as_bytes());
        state.read = state.text.len();
    }

    pub(super) fn tail(&self) -> Transcript {
        self.lock().tail()
    }

    pub(super) fn transcript(&self) -> Transcript {
        Transcript(String::from_utf8_lossy(&self.lock().text).into_owned())
    }

    fn copy(&self, mut from: impl Read, watcher: Option<&Sender<String>>) {
        let mut piece = [0; 4096];
        while let Ok(length @ 1..) = from.read(&mut piece) {
            let shown = piece[..length].iter().copied().filter(|&byte| byte != b'\r');
            let mut state = self.lock();
            let before = state.text.len();
            state.text.extend(shown);
            if let Some(watcher) = watcher {
                // Who no longer listens misses nothing that the transcript does not have.
                let _ = watcher.send(String::from_utf8_lossy(&state.text[before..]).into_owned());
            }
            drop(state);
            self.changed.notify_all();
        }
    }

    /// A thread that panicked left the text as it was: a prefix of what was said, which is always a valid state.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn tail(&self) -> Transcript {
        Transcript(String::from_utf8_lossy(&self.text[self.text.len().saturating_sub(TAIL)..]).into_owned())
    }
}

/// Where the first `wanted` at or after `from` ends.
fn find(text: &[u8], wanted: &[u8], from: usize) -> Option<usize> {
    let at = text[from..].windows(wanted.len()).position(|window| window == wanted)?;
    Some(from + at + wanted.len())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Console, GuestError};

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn what_was_waited_for_is_not_found_again() {
        let console = Console::watch(&b"one\r\ntwo\r\none\r\n"[..], std::io::empty(), None);

        let first = console.wait_for("one", SOON).unwrap();
        let second = console.wait_for("one", SOON).unwrap();

        assert_eq!((first.as_str(), second.as_str()), ("one", "\ntwo\none"));
    }

    #[test]
    fn the_end_of_qemu_ends_a_wait() {
        let console = Console::watch(&b"Kernel panic"[..], std::io::empty(), None);

        let error = console.wait_for("login:", SOON).unwrap_err();

        assert!(matches!(error, GuestError::Closed { console, .. } if console.0 == "Kernel panic"));
    }

    #[test]
    fn a_wait_ends_when_its_time_is_over() {
        let (silent, _writer) = std::io::pipe().unwrap();
        let console = Console::watch(silent, std::io::empty(), None);

        let error = console.wait_for("login:", Duration::from_millis(10)).unwrap_err();

        assert!(matches!(error, GuestError::TimedOut { .. }));
    }
}
