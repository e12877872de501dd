//! How far it is, for whoever sits at a terminal and waits for longer than a second.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::time::{Duration, Instant};

/// Nothing is shown before.
const PATIENCE: Duration = Duration::from_secs(1);

/// A bar on standard error, if that is a terminal; gone in the end.
#[derive(Debug)]
pub(super) struct Progress {
    bar: ProgressBar,
    begun: Instant,
}

impl Progress {
    pub(super) fn new(what: String) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()).with_message(what);
        Self {
            bar,
            begun: Instant::now(),
        }
    }

    /// So much is done.
    pub(super) fn show(&self, done: u64, total: u64) {
        if self.bar.is_hidden() && self.begun.elapsed() >= PATIENCE {
            let style =
                ProgressStyle::with_template("{msg} [{wide_bar:.}] {percent}% of {binary_total_bytes}, {eta} left");
            // The template is ours, so this is the style it gets.
            self.bar.set_style(
                style
                    .unwrap_or_else(|_| ProgressStyle::default_bar())
                    .progress_chars("=> "),
            );
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.bar.set_length(total);
        self.bar.set_position(done);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
