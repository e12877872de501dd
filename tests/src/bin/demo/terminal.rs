//! The terminal's settings, put back at the end: QEMU changes them for `demo shell`, and cannot put them back when it is killed.

use std::io::IsTerminal;
use std::process::{Command, Stdio};

/// How the terminal was set; nothing where there is none.
#[derive(Debug)]
pub(crate) struct Terminal(Option<String>);

impl Terminal {
    pub(crate) fn remember() -> Self {
        if !std::io::stdin().is_terminal() {
            return Self(None);
        }
        let output = Command::new("stty").arg("-g").stdin(Stdio::inherit()).output();
        let settings = output.ok().filter(|output| output.status.success());
        Self(settings.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()))
    }

    /// A terminal that went away needs no settings, so a failure is none of ours.
    pub(crate) fn restore(&self) {
        if let Some(settings) = &self.0 {
            let _ = Command::new("stty").arg(settings).stdin(Stdio::inherit()).status();
        }
    }
}
