//! `mayfly ctl` as a person or a script starts it.

use std::ffi::OsStr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::helper::{Ended, beside_this_test};

/// The socket of a helper to be.
#[derive(Debug, Clone)]
pub struct Ctl {
    socket: PathBuf,
}

/// A `mayfly ctl` that runs.
#[derive(Debug)]
pub struct Order {
    child: Child,
}

impl Ctl {
    /// Orders to the helper at `socket`.
    #[must_use]
    pub fn at(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Starts it with these words behind the socket.
    ///
    /// # Panics
    ///
    /// If `mayfly` is not built.
    #[must_use]
    pub fn start<W: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = W>) -> Order {
        let mut command = Command::new(beside_this_test("mayfly"));
        command.arg("ctl").arg(&self.socket).args(words);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Order {
            child: command.spawn().expect("mayfly is built (cargo build --workspace)"),
        }
    }

    /// Runs it to its end.
    #[must_use]
    pub fn run<W: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = W>) -> Ended {
        self.start(words).end()
    }

    /// Runs it, and it must succeed; what it printed.
    ///
    /// # Panics
    ///
    /// If it fails.
    #[must_use]
    pub fn done<W: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = W>) -> String {
        let ended = self.run(words);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        ended.stdout
    }

    /// The same with `--json`; the line it printed.
    ///
    /// # Panics
    ///
    /// If it fails, or prints anything else than one line of JSON.
    #[must_use]
    pub fn json<'w>(&self, words: impl IntoIterator<Item = &'w str>) -> serde_json::Value {
        let line = self.done(words.into_iter().chain(["--json"]));
        assert_eq!(line.matches('\n').count(), 1, "{line}");
        serde_json::from_str(&line).expect("a line of JSON")
    }

    /// Runs it, and it must be refused, which changes nothing; what it said.
    ///
    /// # Panics
    ///
    /// If it is not.
    #[must_use]
    pub fn refused<W: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = W>) -> String {
        let ended = self.run(words);
        assert_eq!(ended.code, Some(22), "{ended:?}");
        ended.stderr
    }
}

impl Order {
    /// Sends it a signal.
    ///
    /// # Panics
    ///
    /// Never: it is a child of ours that was not waited for.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("pid_max is below 2^22");
        kill(Pid::from_raw(pid), signal).expect("it was not waited for, so its pid is still its own");
    }

    /// Its standard output, to be read while it runs.
    ///
    /// # Panics
    ///
    /// The second time.
    #[must_use]
    pub fn stdout(&mut self) -> std::process::ChildStdout {
        self.child.stdout.take().expect("it was piped, and taken once")
    }

    /// Waits for its end.
    ///
    /// # Panics
    ///
    /// Never: it is a child of ours.
    #[must_use]
    pub fn end(self) -> Ended {
        let output: Output = self.child.wait_with_output().expect("the child is ours to wait for");
        Ended {
            code: output.status.code(),
            signal: output.status.signal(),
            dumped_core: output.status.core_dumped(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}
