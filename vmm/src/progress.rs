//! A bar for what takes longer than a second, on a terminal; elsewhere nothing.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

/// What takes less is not worth a bar.
const WORTH_IT: Duration = Duration::from_secs(1);

/// How it looks.
const LOOK: &str = "{msg} {wide_bar} {percent:>3} %  {binary_bytes} of {binary_total_bytes}, {eta} left";

/// The bar, drawn on standard error once it is worth it. It is wiped away at its end.
#[derive(Debug)]
pub(crate) struct Progress {
    began: Instant,
    what: String,
    bar: Option<ProgressBar>,
    wanted: bool,
}

impl Progress {
    /// A bar that says `what` is going on; never seen where `wanted` is not so, or standard error is no terminal.
    pub(crate) fn new(what: String, wanted: bool) -> Self {
        Self {
            began: Instant::now(),
            what,
            bar: None,
            wanted: wanted && stderr().is_terminal(),
        }
    }

    /// It is so far.
    pub(crate) fn show(&mut self, done: u64, total: u64) {
        if self.bar.is_none() && self.wanted && self.began.elapsed() >= WORTH_IT {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(5));
            bar.set_style(ProgressStyle::with_template(LOOK).unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_message(self.what.clone());
            self.bar = Some(bar);
        }
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_position(done);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_look_makes_sense() {
        ProgressStyle::with_template(LOOK).unwrap();
    }
}
