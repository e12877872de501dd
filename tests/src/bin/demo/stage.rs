//! What the watcher sees: headings, plain sentences, raw output, checks, progress, and a table at the end.
//!
//! Colours and lines that redraw themselves only on a terminal, and no colours with `NO_COLOR`. A watcher who goes away
//! (`demo | head`) stops nothing: the exit code still tells, so errors of writing are dropped here.

use std::io::{IsTerminal, Write};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// The width of the text; a terminal's usual one.
const WIDTH: usize = 80;

/// The length of a full progress bar.
const BAR: u64 = 30;

/// How often a line that says how long something takes is drawn again.
const TICK: Duration = Duration::from_millis(500);

const BOLD: &str = "1";
const DIM: &str = "2";
const GREEN: &str = "32";
const RED: &str = "1;31";
const CYAN: &str = "36";

struct Row {
    promise: &'static str,
    kept: bool,
    seen: String,
}

/// The place where everything is shown.
pub(crate) struct Stage {
    live: bool,
    colours: bool,
    steps: u32,
    quarter: u64,
    rows: Vec<Row>,
    all_kept: bool,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let live = std::io::stdout().is_terminal();
        let colours = live && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            live,
            colours,
            steps: 0,
            quarter: 0,
            rows: Vec::new(),
            all_kept: true,
        }
    }

    /// Begins a step.
    pub(crate) fn step(&mut self, title: &str) {
        self.steps += 1;
        let line = format!("{}. {title}", self.steps);
        put(&format!(
            "\n{}\n{}\n",
            self.paint(BOLD, &line),
            self.paint(DIM, &"-".repeat(WIDTH))
        ));
    }

    /// Says something in plain words, wrapped.
    pub(crate) fn say(&self, text: &str) {
        put(&wrap(text, WIDTH));
    }

    /// A command, as somebody would type it on the host to see the same.
    pub(crate) fn command(&self, command: &str) {
        self.prompt("$", command);
    }

    /// A command that was typed in the guest.
    pub(crate) fn guest_command(&self, command: &str) {
        self.prompt("guest#", command);
    }

    fn prompt(&self, prompt: &str, command: &str) {
        let lines = fold(options(command), WIDTH - 12);
        put(&format!(
            "\n  {}\n",
            self.paint(CYAN, &format!("{prompt} {}", lines.join(" \\\n      ")))
        ));
    }

    /// Raw output.
    pub(crate) fn show(&self, text: &str) {
        for line in text.lines() {
            put(&format!("  {}\n", self.paint(DIM, "| ") + line));
        }
    }

    /// Long lines of output, wrapped.
    pub(crate) fn show_wrapped(&self, lines: &[String]) {
        for line in lines {
            for (number, part) in wrap(line, WIDTH - 6).lines().enumerate() {
                let indent = if number == 0 { "" } else { "  " };
                self.show(&format!("{indent}{}", part.trim_start()));
            }
        }
    }

    /// A name and what is said of it, wrapped beside it.
    pub(crate) fn show_named(&self, name: &str, text: &str) {
        let mut name = name;
        for line in wrap(text, WIDTH - 20).lines() {
            self.show(&format!("{name:17}{line}"));
            name = "";
        }
    }

    /// An empty line.
    pub(crate) fn gap(&self) {
        put("\n");
    }

    /// A fact that must be so; returns whether it is.
    pub(crate) fn check(&mut self, holds: bool, fact: &str) -> bool {
        let mark = if holds {
            self.paint(GREEN, "ok  ")
        } else {
            self.paint(RED, "NOT ")
        };
        put(&format!("  {mark}{fact}\n"));
        self.all_kept &= holds;
        holds
    }

    /// A line of the summary.
    pub(crate) fn promise(&mut self, promise: &'static str, kept: bool, seen: impl Into<String>) {
        self.all_kept &= kept;
        self.rows.push(Row {
            promise,
            kept,
            seen: seen.into(),
        });
    }

    /// Does something that takes a while, and says how long it took.
    pub(crate) fn wait<T>(&self, what: &str, work: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let (done, waiting) = channel::<()>();
        let result = thread::scope(|scope| {
            if self.live {
                scope.spawn(move || {
                    loop {
                        put(&format!("\r  {what} ... {} s", begun.elapsed().as_secs()));
                        if waiting.recv_timeout(TICK) != Err(RecvTimeoutError::Timeout) {
                            break;
                        }
                    }
                });
            }
            let result = work();
            drop(done);
            result
        });
        self.wipe();
        put(&format!(
            "  {}\n",
            self.paint(DIM, &format!("{what}: {:.1} s", begun.elapsed().as_secs_f32()))
        ));
        result
    }

    /// How far something is: one line that grows, or, where lines cannot, one for each quarter.
    pub(crate) fn progress(&mut self, done: u64, total: u64, note: &str) {
        let full = done.saturating_mul(BAR).checked_div(total).unwrap_or(BAR).min(BAR);
        let bar: String = (0..BAR).map(|place| if place < full { '#' } else { '.' }).collect();
        let quarter = done.saturating_mul(4).checked_div(total).unwrap_or(4);
        let line = format!("  [{bar}] {done:>4} of {total} MiB   {note}");
        if self.live {
            put(&format!("\r{line}\x1b[K"));
        } else if quarter != self.quarter {
            put(&format!("{line}\n"));
        }
        self.quarter = quarter;
    }

    /// Ends the line that [`Stage::progress`] draws.
    pub(crate) fn progress_ends(&mut self) {
        self.quarter = 0;
        if self.live {
            put("\n");
        }
    }

    /// The table of promises; returns whether all were kept.
    pub(crate) fn summary(&mut self) -> bool {
        put(&format!(
            "\n{}\n{}\n",
            self.paint(BOLD, "What was promised, and what was seen"),
            self.paint(DIM, &"-".repeat(WIDTH))
        ));
        for row in &self.rows {
            let mark = if row.kept {
                self.paint(GREEN, "kept  ")
            } else {
                self.paint(RED, "BROKEN")
            };
            put(&format!("  {mark}  {}\n", row.promise));
            for line in wrap(&row.seen, WIDTH - 8).lines() {
                put(&format!("        {}\n", self.paint(DIM, line)));
            }
        }
        self.gap();
        self.all_kept
    }

    fn wipe(&self) {
        if self.live {
            put("\r\x1b[K");
        }
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.colours {
            format!("\x1b[{colour}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// Begins a new line in case something was drawing one.
pub(crate) fn end_line() {
    if std::io::stdout().is_terminal() {
        put("\n");
    }
}

fn put(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}

/// Breaks `text` at spaces into lines of at most `width` bytes, indented by two spaces.
fn wrap(text: &str, width: usize) -> String {
    let words = text.split_whitespace().map(str::to_owned);
    fold(words, width.saturating_sub(2))
        .iter()
        .map(|line| format!("  {line}\n"))
        .collect()
}

/// The words of a command, where an option and its value are one.
fn options(command: &str) -> Vec<String> {
    let mut options: Vec<String> = Vec::new();
    for word in command.split_whitespace() {
        match options.last_mut() {
            Some(option) if option.starts_with('-') && !word.starts_with('-') => *option += &format!(" {word}"),
            _ => options.push(word.to_owned()),
        }
    }
    options
}

/// Words put into lines of at most `width` bytes; a longer word gets a line of its own.
fn fold(words: impl IntoIterator<Item = String>, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in words {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= width => *line += &format!(" {word}"),
            _ => lines.push(word),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::{fold, options, wrap};

    #[test]
    fn long_text_is_broken_at_spaces() {
        let wrapped = wrap("one two three", 9);

        assert_eq!(wrapped, "  one two\n  three\n");
    }

    #[test]
    fn a_command_is_broken_before_its_options() {
        let folded = fold(options("program --first 1 --second 2 --third"), 20);

        assert_eq!(folded, ["program --first 1", "--second 2 --third"]);
    }
}
