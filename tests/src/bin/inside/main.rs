//! What is checked inside the nested host: a machine with a real KVM, whose root is that of the machine it runs on.
//!
//! ```text
//!   inside               every check, one after another
//!   inside CHECK...      these
//!   inside --here CHECK  one, in this process (the other two start this for each)
//! ```
//!
//! Each check has a process of its own, so one that fails or hangs takes no other with it, and after each nothing of it
//! may be left. What a check says is passed on as it comes and is for people; then comes one line with its
//! [`Verdict`], for `tests/nested.rs`. A check that stalls is run once more, after a verdict that says so: the
//! processor is emulated twice here, and not every lost interrupt is ours.

#![deny(unsafe_code)]

use std::io::Write;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tests::guest::GuestError;
use tests::nested::{Outcome, Verdict};

mod boot_time;
mod debian;
mod disk;
mod machine;
mod network;
mod peer;
mod processes;
mod processors;

/// A check gives what it measured. What is wrong it says with a panic; an error is a guest that did not play its part.
type Check = fn() -> Result<String, GuestError>;

const CHECKS: [(&str, Check); 6] = [
    ("peer", peer::boots),
    ("disk", disk::is_used_and_survives_a_reboot),
    ("processors", processors::four_of_them_work),
    ("network", network::answers_over_a_tap),
    ("debian", debian::boots_to_its_login),
    ("boot-time", boot_time::is_not_longer_than_the_peers),
];

/// How long a check may take: three times what the longest takes on two idle processors.
const LIMIT: Duration = Duration::from_secs(300);

/// The exit code of a check that waited in vain.
const STALLED: u8 = 75;

/// How long processes of a check may take to be gone.
const GONE: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let names: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match names[..] {
        ["--here", name] => here(name),
        [] => all(&CHECKS.map(|(name, _)| name)),
        _ => all(&names),
    }
}

fn all(names: &[&str]) -> ExitCode {
    let mut good = true;
    for name in names {
        let mut verdict = in_a_process(name);
        if verdict.outcome == Outcome::Stalled {
            say(&verdict.to_string());
            verdict = in_a_process(name);
        }
        good &= verdict.outcome == Outcome::Good;
        say(&verdict.to_string());
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs a check here. The last thing it says is what it measured.
fn here(name: &str) -> ExitCode {
    let Some((_, check)) = CHECKS.iter().find(|(known, _)| *known == name) else {
        say(&format!("there is no check {name:?}"));
        return ExitCode::FAILURE;
    };
    match check() {
        Ok(measured) => {
            say(&measured);
            ExitCode::SUCCESS
        }
        Err(error) => {
            say(&format!("{error}"));
            match error {
                GuestError::TimedOut { .. } => ExitCode::from(STALLED),
                GuestError::NoAsset { .. }
                | GuestError::Start { .. }
                | GuestError::Wait(_)
                | GuestError::Keyboard(_)
                | GuestError::TooLong { .. }
                | GuestError::Garbled { .. }
                | GuestError::Closed { .. }
                | GuestError::Ended { .. } => ExitCode::FAILURE,
            }
        }
    }
}

fn in_a_process(name: &str) -> Verdict {
    let begun = Instant::now();
    let mut check = Command::new("/proc/self/exe")
        .args(["--here", name])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("what runs can be run again");
    let output = check.stdout.take().expect("standard output was piped");
    let reader = thread::spawn(move || pass_on(output));
    let ended = wait(&mut check);
    let last = reader.join().expect("reading a pipe does not panic");
    let left = processes::left_behind(GONE);
    let outcome = match ended {
        None => Outcome::Stalled,
        Some(status) if status.code() == Some(i32::from(STALLED)) => Outcome::Stalled,
        Some(status) if status.success() && left.is_empty() => Outcome::Good,
        Some(_) => Outcome::Bad,
    };
    let detail = match (outcome, ended) {
        (Outcome::Good, _) => last,
        (_, Some(_)) if !left.is_empty() => format!("processes left behind: {left:?}"),
        (_, Some(status)) => status.to_string(),
        (_, None) => format!("not done after {LIMIT:?}"),
    };
    Verdict::new(name, outcome, begun.elapsed(), &detail)
}

/// Waits for a check's end; ends it when its time is over, and its guests with it.
fn wait(check: &mut Child) -> Option<ExitStatus> {
    let end = Instant::now() + LIMIT;
    while Instant::now() < end {
        if let Some(status) = check.try_wait().expect("the child is ours to wait for") {
            return Some(status);
        }
        thread::sleep(Duration::from_millis(20));
    }
    let _ = check.kill();
    let _ = check.wait();
    None
}

/// Says every line; returns the last.
fn pass_on(output: impl std::io::Read) -> String {
    let mut last = String::new();
    for line in std::io::BufRead::lines(std::io::BufReader::new(output)).map_while(Result::ok) {
        say(&line);
        last = line;
    }
    last
}

/// For who reads our output; if nobody does, nobody misses it.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
