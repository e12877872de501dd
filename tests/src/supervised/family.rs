//! Whose child a process is, and whether it is still there.

use std::fs;
use std::thread;
use std::time::Instant;

use nix::unistd::Pid;

use super::{END, STEP};

/// Waits until none of these processes is left.
///
/// # Panics
///
/// If that takes longer than [`END`].
pub fn assert_gone(processes: &[(String, Pid)]) {
    let begun = Instant::now();
    loop {
        let left: Vec<_> = processes.iter().filter(|(_, pid)| is_alive(*pid)).collect();
        if left.is_empty() {
            return;
        }
        assert!(begun.elapsed() < END, "still there: {left:?}");
        thread::sleep(STEP);
    }
}

/// Process number, name, state and parent, from the line that the kernel has for it.
fn stat(text: &str) -> Option<(Pid, String, char, Pid)> {
    let (before, after) = text.rsplit_once(')')?;
    let (pid, name) = before.split_once(" (")?;
    let mut fields = after.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    Some((
        Pid::from_raw(pid.parse().ok()?),
        name.to_owned(),
        state,
        Pid::from_raw(parent),
    ))
}

fn is_alive(pid: Pid) -> bool {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // One that nobody waits for has given everything back.
    stat(&text).is_some_and(|(_, _, state, _)| !matches!(state, 'Z' | 'X'))
}

/// Name and number of each child of a process.
///
/// # Panics
///
/// If `/proc` is not mounted.
#[must_use]
pub fn children_of(parent: Pid) -> Vec<(String, Pid)> {
    let processes = fs::read_dir("/proc").expect("/proc is mounted").flatten();
    processes
        .filter_map(|entry| stat(&fs::read_to_string(entry.path().join("stat")).ok()?))
        .filter(|(_, _, state, above)| *above == parent && *state != 'Z')
        .map(|(pid, name, _, _)| (name, pid))
        .collect()
}
