//! A running helper: its READY report, its signals, its end.
//!
//! Both its outputs are read all the time, so that it never waits for this side. Nothing here knows how it was started.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protocol::launch::ExitCode;

/// How long a helper may take to start, or to end in a test of something else. It takes some milliseconds; the rest is a
/// loaded machine.
pub(crate) const START: Duration = Duration::from_secs(20);

/// How long a helper may take to end once told to: the promise that design and manual make.
pub const END: Duration = Duration::from_secs(1);

/// Copies a program, by another process: a thread of this one that starts something in the meantime would pass the copy's
/// descriptor on for a moment, and a program that somebody may still write cannot be started ("text file busy").
///
/// # Panics
///
/// If `to` cannot be written.
pub fn copy_program(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("--").args([from, to]).status();
    assert!(
        copied.is_ok_and(|status| status.success()),
        "cannot copy {} to {}",
        from.display(),
        to.display()
    );
}

/// A process with its output being read.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    first_line: Receiver<String>,
    stdout: Option<JoinHandle<String>>,
    stderr: Option<JoinHandle<String>>,
}

impl Process {
    pub(crate) fn watch(mut child: Child) -> Self {
        let (sender, first_line) = channel();
        let stdout = child.stdout.take().expect("standard output was piped");
        let stderr = child.stderr.take().expect("standard error was piped");
        let stdout = std::thread::spawn(move || {
            let mut reader = BufReader::new(stdout);
            let mut text = String::new();
            let _ = reader.read_line(&mut text);
            let _ = sender.send(text.clone());
            let _ = reader.read_to_string(&mut text);
            text
        });
        let stderr = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = BufReader::new(stderr).read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        });
        Self {
            child,
            first_line,
            stdout: Some(stdout),
            stderr: Some(stderr),
        }
    }

    /// The first line it prints; none if it closed its standard output, or ended, or took too long.
    pub(crate) fn first_line(&self) -> Option<String> {
        self.first_line.recv_timeout(START).ok().filter(|line| !line.is_empty())
    }

    /// SIGKILL, and the end of that.
    pub(crate) fn kill(&mut self) -> Ended {
        let _ = self.child.kill();
        self.wait_within(START)
    }

    pub(crate) fn wait_within(&mut self, limit: Duration) -> Ended {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("the child is ours to wait for") {
                return self.ended(status);
            }
            if begun.elapsed() > limit {
                let pid = self.child.id();
                let _ = self.child.kill();
                let status = self.child.wait().expect("the child is ours to wait for");
                let ended = self.ended(status);
                panic!("process {pid} had not ended after {limit:?}; killed: {ended:?}");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn ended(&mut self, status: ExitStatus) -> Ended {
        let collect = |thread: Option<JoinHandle<String>>| {
            thread
                .map(|thread| thread.join().expect("reading a pipe does not panic"))
                .unwrap_or_default()
        };
        Ended {
            code: status.code(),
            signal: status.signal(),
            dumped_core: status.core_dumped(),
            stdout: collect(self.stdout.take()),
            stderr: collect(self.stderr.take()),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A helper that is ready; it is killed when this value goes.
#[derive(Debug)]
pub struct Helper {
    process: Process,
    /// As it says itself: what was started may be a program that traces it.
    pid: Pid,
    report: serde_json::Value,
    socket: PathBuf,
}

impl Helper {
    pub(crate) fn new(process: Process, report: serde_json::Value, socket: PathBuf) -> Self {
        let pid = report["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        Self {
            process,
            pid: Pid::from_raw(pid.expect("the report has the process's number")),
            report,
            socket,
        }
    }

    /// What it said at READY.
    #[must_use]
    pub const fn report(&self) -> &serde_json::Value {
        &self.report
    }

    /// Where it listens.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its process.
    #[must_use]
    pub const fn pid(&self) -> Pid {
        self.pid
    }

    /// The numbers of the descriptors which the report describes with a text that begins so.
    ///
    /// # Panics
    ///
    /// If there is none.
    #[must_use]
    pub fn descriptors(&self, what: &str) -> Vec<i32> {
        let reported = self.report["confinement"]["descriptors"].as_array();
        let is_meant = |known: &&serde_json::Value| known["what"].as_str().is_some_and(|text| text.starts_with(what));
        let meant = reported.into_iter().flatten().filter(is_meant);
        let number = |known: &serde_json::Value| known["number"].as_i64().and_then(|number| i32::try_from(number).ok());
        let numbers: Vec<_> = meant.filter_map(number).collect();
        assert!(!numbers.is_empty(), "the report knows no {what}");
        numbers
    }

    /// The base, and the overlay's two files.
    ///
    /// # Panics
    ///
    /// If it has no overlay.
    #[must_use]
    pub fn disk(&self) -> Vec<i32> {
        [self.descriptors("base"), self.descriptors("overlay")].concat()
    }

    /// `/proc/PID/name`.
    #[must_use]
    pub fn proc(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.pid))
    }

    /// Sends it a signal.
    ///
    /// # Panics
    ///
    /// If it is gone.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("the helper was not waited for, so its pid is still its own");
    }

    /// Waits for its end.
    ///
    /// # Panics
    ///
    /// If it takes longer than `limit`.
    #[must_use]
    pub fn wait_within(mut self, limit: Duration) -> Ended {
        self.process.wait_within(limit)
    }

    /// SIGTERM, and the end that must follow.
    ///
    /// # Panics
    ///
    /// If it does not follow, or not with [`ExitCode::Burnt`].
    pub fn terminate(self) {
        self.signal(Signal::SIGTERM);
        self.wait_within(START).assert_code(ExitCode::Burnt);
    }

    /// The same, for tests of the promise that it takes no longer than a second.
    ///
    /// # Panics
    ///
    /// As [`Self::terminate`], and if it takes longer.
    pub fn terminate_at_once(self) {
        self.signal(Signal::SIGTERM);
        self.wait_within(END).assert_code(ExitCode::Burnt);
    }

    /// SIGKILL, and the end of that.
    ///
    /// # Panics
    ///
    /// If it had ended before.
    pub fn kill(mut self) {
        let ended = self.process.kill();
        assert_eq!(ended.signal, Some(9), "it had ended before: {ended:?}");
    }

    /// Checks that it is still there.
    ///
    /// # Panics
    ///
    /// If it ended; the message has what it wrote to standard error.
    pub fn assert_alive(&mut self) {
        if let Some(status) = self.process.child.try_wait().expect("the child is ours to wait for") {
            let ended = self.process.ended(status);
            panic!("the helper ended: {ended:?}");
        }
    }
}

/// How a helper ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code, unless a signal killed it.
    pub code: Option<i32>,
    /// The signal that killed it.
    pub signal: Option<i32>,
    /// Whether the kernel wrote a core file, or gave one to a program.
    pub dumped_core: bool,
    /// All it wrote to standard output.
    pub stdout: String,
    /// All it wrote to standard error.
    pub stderr: String,
}

impl Ended {
    /// Checks the exit code.
    ///
    /// # Panics
    ///
    /// If it is another one, or a signal.
    pub fn assert_code(&self, code: ExitCode) {
        assert_eq!(self.code, Some(i32::from(code.number())), "expected {code:?}: {self:?}");
    }
}
