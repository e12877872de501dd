//! Processes whose parent died come to this one, so that it knows when there are none, and how each ended.
//!
//! It takes every child of this process that ends: whoever uses it must have waited for its own, and be alone.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

/// From now on orphans among this process's descendants become its children.
///
/// # Panics
///
/// Not on Linux.
pub fn adopt() {
    prctl::set_child_subreaper(true).expect("every process may adopt its grandchildren");
}

/// The right to the children of this process, until the test ends: it adopts, and is alone with them.
pub fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    adopt();
    turn
}

/// Waits until this process has no child left; how they ended.
///
/// # Panics
///
/// If that takes longer than `limit`.
#[must_use]
pub fn all_ended_within(limit: Duration) -> Vec<WaitStatus> {
    let begun = Instant::now();
    let mut ended = Vec::new();
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Err(Errno::ECHILD) => return ended,
            Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => {
                assert!(begun.elapsed() < limit, "a process is left; before it ended {ended:?}");
                thread::sleep(Duration::from_millis(1));
            }
            Ok(status) => ended.push(status),
            Err(errno) => panic!("cannot wait for children: {errno}"),
        }
    }
}
