//! Runs a command under a real KVM, emulated, for a person: `nested [--cpus N] [--limit SECONDS] COMMAND...`.
//!
//! The command is given to a shell as it is. Everything of this machine is there, in the same places and read-only in
//! effect; `/scratch` is a tmpfs. Ends as the command did. Takes no input.

#![forbid(unsafe_code)]

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use tests::nested::{Ended, Nested, NestedError};

const USAGE: &str = "usage: nested [--cpus N] [--limit SECONDS] COMMAND...";

/// Unless told otherwise.
const LIMIT: u64 = 300;

fn main() -> ExitCode {
    let Some((cpus, limit, command)) = arguments(std::env::args().skip(1).collect()) else {
        complain(USAGE);
        return ExitCode::from(2);
    };
    match run(cpus, limit, &command) {
        Ok(ended) => {
            complain(&ended.console.0);
            ExitCode::from(u8::try_from(ended.status).unwrap_or(1))
        }
        Err(error) => {
            let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
            complain(&format!("nested: {error}{}", source.unwrap_or_default()));
            ExitCode::FAILURE
        }
    }
}

fn run(cpus: u32, limit: u64, command: &str) -> Result<Ended, NestedError> {
    let mut out = std::io::stdout();
    Nested::new(Duration::from_secs(limit))?
        .cpus(cpus)
        .run(command, |line| {
            // Who closed our output does not want to see it.
            let _ = writeln!(out, "{line}");
        })
}

fn arguments(mut words: Vec<String>) -> Option<(u32, u64, String)> {
    let (mut cpus, mut limit) = (2, LIMIT);
    while words.first()?.starts_with("--") {
        let value = words.get(1)?;
        match words[0].as_str() {
            "--cpus" => cpus = value.parse().ok()?,
            "--limit" => limit = value.parse().ok()?,
            _ => return None,
        }
        words.drain(..2);
    }
    Some((cpus, limit, words.join(" ")))
}

fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
