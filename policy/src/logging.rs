//! Log lines on standard error that never make anybody wait.
//!
//! A line goes out if standard error takes it at once, and if there were not too many this second; otherwise it is
//! counted, and the next line says how many are missing. Only the project's own lines are written: the libraries below
//! log what a guest does to them, as often as it does it.
//!
//! It does not know what is logged, nor whose crates the project has: the program says so when it [`start`]s.

use log::{Level, LevelFilter, Log, Metadata, Record};
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::dup2_stderr;
use std::error::Error;
use std::fmt::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines a second. Enough for a person to read and for an event not to be missed; a guess.
const LINES_A_SECOND: u32 = 50;

/// The writer.
#[derive(Debug)]
struct Stderr {
    /// What every line begins with.
    program: &'static str,
    /// The crates whose lines are written.
    own: &'static [&'static str],
    /// How many more lines may be written.
    budget: Mutex<Budget>,
}

/// Lines written and lost.
#[derive(Debug)]
struct Budget {
    /// When the second that is counted began.
    second: Instant,
    /// Lines of this second.
    used: u32,
    /// Lines that nobody saw since the last one that somebody saw.
    lost: u64,
}

impl Budget {
    /// Nothing written and nothing lost at `now`.
    const fn new(now: Instant) -> Self {
        Self {
            second: now,
            used: 0,
            lost: 0,
        }
    }

    /// Whether another line may be written at `now`.
    fn admit(&mut self, now: Instant) -> bool {
        if now.duration_since(self.second) >= Duration::from_secs(1) {
            self.second = now;
            self.used = 0;
        }
        self.used = self.used.saturating_add(1);
        self.used <= LINES_A_SECOND
    }
}

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let target = metadata.target();
        let root = target.split("::").next().unwrap_or(target);
        self.own.contains(&root)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let level = match record.level() {
            Level::Error => "error",
            Level::Warn => "warning",
            Level::Info => "info",
            Level::Debug | Level::Trace => "debug",
        };
        // Before the lock is taken: formatting may run into a bug, whose report comes here too.
        let mut line = format!("{}: {level}: {}\n", self.program, record.args());
        let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
        if budget.lost > 0 {
            line.insert_str(
                0,
                &format!("{}: warning: {} log lines lost\n", self.program, budget.lost),
            );
        }
        // An error is why the process ends: there are few in a life, and they are what a flood would want to hide.
        let admitted = budget.admit(Instant::now()) || record.level() == Level::Error;
        if admitted && written(&line) {
            budget.lost = 0;
        } else {
            budget.lost = budget.lost.saturating_add(1);
        }
    }

    fn flush(&self) {}
}

/// Most bytes written at a time: a pipe that is writable takes a page without waiting.
const AT_A_TIME: usize = 4096;

/// Writes a line, or its beginning if it is very long, if that takes no waiting.
fn written(line: &str) -> bool {
    let bytes = line.as_bytes();
    let stderr = std::io::stderr();
    let mut ready = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    let writable = poll(&mut ready, PollTimeout::ZERO) == Ok(1)
        && ready[0]
            .revents()
            .is_some_and(|events| events.contains(PollFlags::POLLOUT));
    writable && nix::unistd::write(&stderr, bytes.get(..AT_A_TIME).unwrap_or(bytes)).is_ok()
}

/// Makes writes to standard error fail where they would wait, if it is a terminal or a pipe: both promise less room than a
/// line may need. The flag belongs to the open file, which others share, so this process opens the same thing once more
/// for itself. Where that cannot be done, looking before each write has to do.
fn stop_waiting_for_stderr() -> nix::Result<()> {
    let kind = SFlag::from_bits_truncate(fstat(std::io::stderr())?.st_mode) & SFlag::S_IFMT;
    if kind == SFlag::S_IFCHR || kind == SFlag::S_IFIFO {
        let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let own = open("/proc/self/fd/2", flags, Mode::empty())?;
        dup2_stderr(&own)?;
    }
    Ok(())
}

/// Starts logging for `program`, with the lines of its `own` crates: everything an operator should know, and with `verbose`
/// also what guests and peers do wrong. Before the process is confined: it opens standard error once more.
pub fn start(program: &'static str, own: &'static [&'static str], verbose: bool) {
    let _ = stop_waiting_for_stderr();
    let logger = Stderr {
        program,
        own,
        budget: Mutex::new(Budget::new(Instant::now())),
    };
    let level = if verbose { LevelFilter::Debug } else { LevelFilter::Info };
    // It fails only if there is a logger already, and this is called once.
    if log::set_boxed_logger(Box::new(logger)).is_ok() {
        log::set_max_level(level);
    }
}

/// How long standard output and standard error may become if they are files: as long as they are, and room for many lines.
#[must_use]
pub fn room_for_log() -> u64 {
    /// Bytes of lines to come.
    const LINES: u64 = 64 << 20;
    let length = |stream: BorrowedFd<'_>| fstat(stream).map_or(0, |info| u64::try_from(info.st_size).unwrap_or(0));
    let (out, err) = (std::io::stdout(), std::io::stderr());
    length(out.as_fd()).max(length(err.as_fd())).saturating_add(LINES)
}

/// Something that is worth a line, but not each time it happens: once a minute at most.
#[derive(Debug, Default)]
pub struct Seldom(Mutex<Option<Instant>>);

impl Seldom {
    /// Whether it is time for a line.
    #[must_use]
    pub fn is_due(&self) -> bool {
        let now = Instant::now();
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.is_none_or(|last| now.duration_since(last) >= Duration::from_secs(60));
        if due {
            *last = Some(now);
        }
        due
    }
}

/// An error with all its causes, joined as messages are written: each says its own part once.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_the_next_second_is_new() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let admitted = (0..1000).filter(|_| budget.admit(start)).count();
        assert_eq!(admitted, usize::try_from(LINES_A_SECOND).unwrap());
        assert!(budget.admit(start + Duration::from_secs(1)));
    }

    #[test]
    fn only_our_own_lines_are_written() {
        let logger = Stderr {
            program: "blk-helper",
            own: &["blk_helper", "policy"],
            budget: Mutex::new(Budget::new(Instant::now())),
        };
        let enabled = |target| logger.enabled(&Metadata::builder().target(target).build());
        assert!(enabled("blk_helper::ring"));
        assert!(!enabled("virtio_queue::queue"));
        assert!(!enabled("blk_helper_impostor"));
    }
}
