//! What a process printed, read all the time, by a thread of its own: until the end, or until it shall look away.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::STEP;

/// What was printed so far, growing.
#[derive(Clone, Debug)]
pub(super) struct Screen(Arc<State>);

#[derive(Debug, Default)]
struct State {
    text: Mutex<String>,
    grown: Condvar,
    /// Nothing more is read; for a reader that looks away, and for one that shall let go.
    closed: AtomicBool,
    paused: AtomicBool,
    reader: Mutex<Option<JoinHandle<()>>>,
}

impl Screen {
    pub(super) fn read(from: OwnedFd) -> Self {
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        let reader = thread::spawn(move || {
            let mut from = File::from(from);
            let mut piece = [0; 4096];
            while !shared.closed.load(Ordering::Relaxed) {
                let mut event = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
                let paused = shared.paused.load(Ordering::Relaxed);
                if paused || poll(&mut event, PollTimeout::from(20u8)) == Ok(0) {
                    thread::sleep(if paused { STEP } else { Duration::ZERO });
                    continue;
                }
                // A terminal whose other side is closed says EIO.
                let Ok(count @ 1..) = from.read(&mut piece) else {
                    break;
                };
                let text = String::from_utf8_lossy(&piece[..count]).replace('\r', "");
                shared
                    .text
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push_str(&text);
                shared.grown.notify_all();
            }
        });
        *state.reader.lock().unwrap_or_else(PoisonError::into_inner) = Some(reader);
        Self(state)
    }

    pub(super) fn text(&self) -> String {
        self.0.text.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for `wanted`; whether it came.
    pub(super) fn wait_for(&self, wanted: &str, limit: Duration) -> bool {
        let text = self.0.text.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .0
            .grown
            .wait_timeout_while(text, limit, |text| !text.contains(wanted));
        waited.unwrap_or_else(PoisonError::into_inner).0.contains(wanted)
    }

    pub(super) fn finish(&self) {
        let reader = self.0.reader.lock().unwrap_or_else(PoisonError::into_inner).take();
        reader.map(JoinHandle::join);
    }

    /// Reads nothing for now, or again.
    pub(super) fn pause(&self, paused: bool) {
        self.0.paused.store(paused, Ordering::Relaxed);
    }

    /// Reads nothing more, without waiting for that.
    pub(super) fn let_go(&self) {
        self.0.closed.store(true, Ordering::Relaxed);
    }

    /// Reads nothing more, and has closed its end.
    pub(super) fn close(&self) {
        self.let_go();
        self.finish();
    }
}
