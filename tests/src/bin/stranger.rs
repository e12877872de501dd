//! Another process, for tests that need one: a thief, or a frontend that nobody invited.
//!
//! `stranger steal PID DIR` tries everything on PID (what can be given a name gets it in DIR) and fails if any of it was
//! possible, or if less was possible with an ordinary process of its own. `stranger ask SOCKET` fails unless it is answered as a
//! frontend, `stranger operate SOCKET` unless it is as an operator. `stranger lurk TIMES PROGRAM ARGUMENT…` starts a helper
//! so often, tries to get a hold on its memory while it starts, and says how often that held. `stranger listen SOCKET` is
//! where a helper should be, and fails if the first who comes says a word.
#![forbid(unsafe_code)]

use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::iter;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, bind, listen, recv, socket};
use protocol::control::MAX_BYTES;
use rustix::net::{SocketFlags, accept_with};
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

/// How often memory is opened before it is noted that it is never refused.
const MOST_TRIES: usize = 1_000_000;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments[..] {
        ["steal", pid, loot] => steal(pid, Path::new(loot)),
        ["ask", socket] => ask(Path::new(socket)),
        ["operate", socket] => operate(Path::new(socket)),
        ["lurk", times, program, ref arguments @ ..] => lurk(times, program, arguments),
        ["listen", socket] => listen_at(Path::new(socket)),
        _ => Err(
            "give `steal PID DIR`, `ask SOCKET`, `operate SOCKET`, `lurk TIMES PROGRAM ARGUMENT…` or `listen SOCKET`"
                .to_owned(),
        ),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(complaint) => {
            let _ = writeln!(io::stderr(), "stranger: {complaint}");
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

fn lurk(times: &str, program: &str, arguments: &[&str]) -> Result<(), String> {
    let times: u32 = times.parse().map_err(|error| format!("{times}: {error}"))?;
    let mut held = 0;
    for _ in 0..times {
        let holds = holds_memory_of(Command::new(program).args(arguments)).map_err(|error| error.to_string())?;
        held += u32::from(holds);
    }
    writeln!(io::stdout(), "{held}").map_err(|error| error.to_string())
}

/// Whether what was opened while the helper started still leads into its memory when it is ready.
fn holds_memory_of(helper: &mut Command) -> io::Result<bool> {
    // Returns when the child is the helper's program, and no copy of this one any more.
    let mut helper = helper.stdout(Stdio::piped()).spawn()?;
    let path = format!("/proc/{}/mem", helper.id());
    let open = || OpenOptions::new().read(true).write(true).open(&path);
    // It is refused sooner or later; what was opened before stays open.
    let hold = iter::from_fn(|| open().ok()).take(MOST_TRIES).last();
    let mut ready = String::new();
    if let Some(stdout) = helper.stdout.take() {
        BufReader::new(stdout).read_line(&mut ready)?;
    }
    // Nothing is mapped there; of memory that is gone, or another's, the kernel says neither.
    let alive = hold.map(|memory| memory.read_at(&mut [0], 0x1000));
    helper.kill()?;
    helper.wait()?;
    if ready.is_empty() {
        return Err(io::Error::other("the helper did not start"));
    }
    Ok(
        alive
            .is_some_and(|read| read.is_err_and(|error| error.raw_os_error().map(Errno::from_raw) == Some(Errno::EIO))),
    )
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

fn listen_at(path: &Path) -> Result<(), String> {
    let heard = || {
        let listener = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
        bind(listener.as_raw_fd(), &UnixAddr::new(path)?)?;
        listen(&listener, Backlog::new(1)?)?;
        wait(&listener)?;
        let client =
            accept_with(&listener, SocketFlags::CLOEXEC).map_err(|errno| Errno::from_raw(errno.raw_os_error()))?;
        wait(&client)?;
        recv(client.as_raw_fd(), &mut [0; MAX_BYTES], MsgFlags::empty())
    };
    match heard() {
        Ok(0) => Ok(()),
        Ok(count) => Err(format!("heard {count} bytes")),
        Err(errno) => Err(format!("nobody came: {errno}")),
    }
}

/// Waits until there is something to hear, for as long as nobody hangs.
fn wait(from: &impl AsFd) -> nix::Result<()> {
    let mut event = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
    match poll(&mut event, PollTimeout::from(20_000u16))? {
        0 => Err(Errno::ETIMEDOUT),
        _ => Ok(()),
    }
}
