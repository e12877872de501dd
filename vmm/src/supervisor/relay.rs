//! Passes on what a process writes to its standard error, line by line, as lines of ours.
//!
//! A guest that took the process over may write there: so a line is cut at a length, loses what steers a terminal, always
//! carries the process's name, and there are only so many in a second. When those are used up the pipe is not read until
//! the next second: who floods it waits, and nobody else.

use log::{Level, log, warn};
use nix::errno::Errno;
use nix::unistd::read;
use protocol::text::is_plain;
use std::fmt::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// The longest line that is passed on whole, in bytes.
const LINE_MAX: usize = 1000;

/// Lines a second and process. Enough for a person to read; a guess.
const LINES_A_SECOND: u32 = 40;

/// How long that is.
const SECOND: Duration = Duration::from_secs(1);

/// The pipe and what came through it.
#[derive(Debug)]
pub(crate) struct Relay {
    pipe: Option<OwnedFd>,
    lines: Lines,
    second: Instant,
    used: u32,
    lost: u32,
}

impl Relay {
    pub(super) fn new(pipe: OwnedFd) -> Self {
        Self {
            pipe: Some(pipe),
            lines: Lines::default(),
            second: Instant::now(),
            used: 0,
            lost: 0,
        }
    }

    /// Readable when there is something to pass on that may be passed on.
    pub(crate) fn event(&self) -> Option<BorrowedFd<'_>> {
        let open = self.pipe.as_ref().filter(|_| self.wait().is_none());
        open.map(AsFd::as_fd)
    }

    /// How long nothing may be passed on.
    pub(crate) fn wait(&self) -> Option<Duration> {
        let left = SECOND.saturating_sub(self.second.elapsed());
        (self.pipe.is_some() && self.used >= LINES_A_SECOND && !left.is_zero()).then_some(left)
    }

    /// Passes on what there is, once, for the process `name`; what it says in normal operation only if `verbose`.
    pub(super) fn pass_on(&mut self, name: &str, verbose: bool) {
        let Some(pipe) = &self.pipe else {
            return;
        };
        let mut piece = [0; 4096];
        let count = match read(pipe, &mut piece) {
            Err(Errno::EAGAIN | Errno::EINTR) => return,
            Err(_) | Ok(0) => 0,
            Ok(count) => count,
        };
        if self.second.elapsed() >= SECOND {
            self.begin_second(name);
        }
        let mut lines = self.lines.feed(piece.get(..count).unwrap_or_default());
        if count == 0 {
            self.pipe = None;
            lines.extend(self.lines.rest());
        }
        // Each piece counts, even one without a line to show: a flood of those is one too.
        self.used = self.used.saturating_add(1);
        for line in lines {
            self.used = self.used.saturating_add(1);
            if self.used <= LINES_A_SECOND {
                show(name, &line, verbose);
            } else {
                self.lost = self.lost.saturating_add(1);
            }
        }
    }

    fn begin_second(&mut self, name: &str) {
        if self.lost > 0 {
            warn!("{name}: {} lines lost", self.lost);
        }
        self.second = Instant::now();
        self.used = 0;
        self.lost = 0;
    }

    /// Passes on what is left, for a process that ended: of a pipe's worth the last lines, as many as fit a second. What it said
    /// last is why it ended.
    pub(super) fn finish(&mut self, name: &str, verbose: bool) {
        let left = self.rest();
        let most = usize::try_from(LINES_A_SECOND).unwrap_or(usize::MAX);
        let passed_over = left.len().saturating_sub(most);
        self.lost = self.lost.saturating_add(u32::try_from(passed_over).unwrap_or(u32::MAX));
        self.begin_second(name);
        for line in left.iter().skip(passed_over) {
            show(name, line, verbose);
        }
    }

    /// All the lines that are left in the pipe, which is not read any more then.
    fn rest(&mut self) -> Vec<String> {
        const PIPE_PIECES: usize = 16;
        let mut lines = Vec::new();
        if let Some(pipe) = self.pipe.take() {
            let mut piece = [0; 4096];
            for _ in 0..PIPE_PIECES {
                // Nothing, or nothing yet from somebody else who holds the other end: nobody waits for that.
                let count = read(&pipe, &mut piece).unwrap_or(0);
                lines.extend(self.lines.feed(piece.get(..count).unwrap_or_default()));
            }
            lines.extend(self.lines.rest());
        }
        lines
    }
}

/// Writes a line at the level that it says it has.
fn show(name: &str, line: &str, verbose: bool) {
    let (level, text) = level_of(line);
    if verbose || level <= Level::Warn {
        log!(level, "{name}: {text}");
    }
}

/// The level of a line of `blk-helper`, `mayfly-vmm` or `mayfly-import` ("blk-helper: warning: ..."), and its text. Others' lines
/// are warnings: QEMU says nothing unless something is wrong.
fn level_of(line: &str) -> (Level, &str) {
    let ours = ["blk-helper: ", "mayfly-vmm: ", "mayfly-import: "];
    let Some(rest) = ours.iter().find_map(|program| line.strip_prefix(program)) else {
        return (Level::Warn, line);
    };
    let levels = [
        ("error: ", Level::Error),
        ("warning: ", Level::Warn),
        ("info: ", Level::Info),
        ("debug: ", Level::Debug),
    ];
    let found = levels
        .into_iter()
        .find_map(|(word, level)| rest.strip_prefix(word).map(|text| (level, text)));
    found.unwrap_or((Level::Warn, rest))
}

/// Bytes into lines.
#[derive(Debug, Default)]
struct Lines {
    begun: Vec<u8>,
    /// The line was so long that its beginning was passed on, and the rest is not.
    cut: bool,
}

impl Lines {
    fn feed(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for &byte in bytes {
            match byte {
                b'\n' => lines.extend(self.rest()),
                _ if self.cut => {}
                _ if self.begun.len() >= LINE_MAX => {
                    lines.push(format!("{}…", readable(&self.begun)));
                    self.begun.clear();
                    self.cut = true;
                }
                _ => self.begun.push(byte),
            }
        }
        lines
    }

    /// The line so far, if there is one.
    fn rest(&mut self) -> Option<String> {
        self.cut = false;
        let line = std::mem::take(&mut self.begun);
        (!line.trim_ascii().is_empty()).then(|| readable(&line))
    }
}

/// Text without what steers a terminal or turns the reading direction; a carriage return at the end is none of it.
pub(super) fn readable(bytes: &[u8]) -> String {
    let mut text = String::new();
    for letter in String::from_utf8_lossy(bytes.trim_ascii_end()).chars() {
        if is_plain(letter) {
            text.push(letter);
        } else {
            // Writing to a String cannot fail.
            let _ = write!(text, "{}", letter.escape_default());
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::OFlag;

    #[test]
    fn lines_are_put_together_from_pieces() {
        let mut lines = Lines::default();

        assert!(lines.feed(b"blk-helper: err").is_empty());
        assert_eq!(lines.feed(b"or: x\r\n\n  \nnext"), ["blk-helper: error: x"]);
        assert_eq!(lines.rest(), Some("next".to_owned()));
        assert_eq!(lines.rest(), None);
    }

    #[test]
    fn of_a_process_that_ended_the_last_line_is_there() {
        let (ours, theirs) = nix::unistd::pipe2(OFlag::O_NONBLOCK).unwrap();
        let said: String = (0..2000).map(|number| format!("line {number}\n")).collect();
        nix::unistd::write(&theirs, format!("{said}why").as_bytes()).unwrap();
        drop(theirs);
        let mut relay = Relay::new(ours);

        let left = relay.rest();

        assert_eq!((left.len(), left.last().map(String::as_str)), (2001, Some("why")));
        assert!(relay.event().is_none());
    }

    #[test]
    fn a_long_line_is_cut_and_its_rest_is_lost() {
        let mut lines = Lines::default();

        let first = lines.feed(&[b'x'; 5000]);

        assert_eq!(first.len(), 1);
        assert_eq!(first[0].chars().count(), LINE_MAX + 1);
        assert!(lines.feed(b"more\n").is_empty());
        assert_eq!(lines.feed(b"next\n"), ["next"]);
    }

    #[test]
    fn nothing_steers_the_terminal() {
        let mut lines = Lines::default();

        let shown = lines.feed("\x1b]0;evil\x07 a\tb \u{202e}fdp\u{9b}31m é\u{7f}\rx\n".as_bytes());

        assert_eq!(shown, [r"\u{1b}]0;evil\u{7} a\tb \u{202e}fdp\u{9b}31m é\u{7f}\rx"]);
        assert_eq!(lines.feed(b"\xff\xfe\n"), [r"\u{fffd}\u{fffd}"]);
    }

    #[test]
    fn a_line_has_the_level_it_says() {
        assert_eq!(level_of("blk-helper: error: x"), (Level::Error, "x"));
        assert_eq!(level_of("mayfly-vmm: info: x"), (Level::Info, "x"));
        assert_eq!(level_of("mayfly-vmm: x"), (Level::Warn, "x"));
        assert_eq!(
            level_of("qemu-system-x86_64: x"),
            (Level::Warn, "qemu-system-x86_64: x")
        );
    }
}
