//! `faulty PLAN TOLD PROGRAM ARGUMENTS…` runs a program under the faults that the file PLAN says, and ends as it does.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use nix::sys::signal::raise;
use tests::faults::tracer::{End, run};

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let ended = match &arguments[..] {
        [plan, told, program @ ..] if !program.is_empty() => run(Path::new(plan), Path::new(told), program),
        _ => Err(io::Error::other("give PLAN TOLD PROGRAM ARGUMENTS…")),
    };
    match ended {
        Ok(End::Code(code)) => ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)),
        Ok(End::Signal(signal)) => {
            let _ = raise(signal);
            ExitCode::FAILURE
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "faulty: {error}");
            ExitCode::FAILURE
        }
    }
}
