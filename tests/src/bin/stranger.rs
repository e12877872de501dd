//! Another process, for tests that need one: a thief, or a frontend that nobody invited.
//!
//! `stranger steal PID DIR` tries everything on PID (what can be given a name gets it in DIR) and fails if any of it was
//! possible, or if less was possible with an ordinary process of its own. `stranger ask SOCKET` fails unless it is answered as a
//! frontend, `stranger operate SOCKET` unless it is as an operator.
#![forbid(unsafe_code)]

use std::io::{self, ErrorKind};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use tests::operator::Operator;
use tests::theft::{Attempt, attempts};
use tests::wire::{Wire, code};

/// What a process of the same user lets happen, so that a refusal elsewhere means something.
const EASY: [&str; 5] = [
    "list its descriptors",
    "open descriptor 1",
    "copy descriptor 0",
    "read its memory",
    "trace it",
];

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments[..] {
        ["steal", pid, loot] => steal(pid, Path::new(loot)),
        ["ask", socket] => ask(Path::new(socket)),
        ["operate", socket] => operate(Path::new(socket)),
        _ => Err("give `steal PID DIR`, `ask SOCKET` or `operate SOCKET`".to_owned()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(complaint) => {
            let _ = io::Write::write_all(&mut io::stderr(), format!("stranger: {complaint}\n").as_bytes());
            ExitCode::FAILURE
        }
    }
}

fn steal(pid: &str, loot: &Path) -> Result<(), String> {
    let pid = pid.parse().map_err(|error| format!("{pid}: {error}"))?;
    let easy = from_an_ordinary_process(loot).map_err(|error| error.to_string())?;
    let is_taken = |act: &&str| {
        easy.iter()
            .any(|attempt| attempt.act == **act && attempt.outcome.is_ok())
    };
    if let Some(act) = EASY.iter().find(|act| !is_taken(act)) {
        return Err(format!("cannot even {act} of an ordinary process: {easy:?}"));
    }
    let is_refused = |attempt: &Attempt| {
        attempt
            .outcome
            .as_ref()
            .is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
    };
    match attempts(pid, loot).iter().find(|attempt| !is_refused(attempt)) {
        None => Ok(()),
        Some(attempt) => Err(format!("not refused: {attempt:?}")),
    }
}

fn from_an_ordinary_process(loot: &Path) -> io::Result<Vec<Attempt>> {
    let mut ordinary = Command::new("cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    // Until it has become `cat`, it is a copy of this process, which is another kind of victim.
    std::thread::sleep(Duration::from_millis(50));
    let pid = i32::try_from(ordinary.id()).map_err(io::Error::other)?;
    let all = attempts(pid, loot);
    ordinary.kill()?;
    ordinary.wait()?;
    Ok(all)
}

fn ask(socket: &Path) -> Result<(), String> {
    let answer = Wire::connect(socket).ask(code::GET_FEATURES, &[]);
    answer.map(drop).map_err(|error| format!("no answer: {error}"))
}

fn operate(socket: &Path) -> Result<(), String> {
    let operator = Operator::try_connect(socket).map_err(|errno| format!("no connection: {errno}"))?;
    if operator.closes_within(Duration::from_millis(500)) {
        return Err("no answer".into());
    }
    let _ = operator.status();
    Ok(())
}
