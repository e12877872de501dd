//! A running `mayfly run`: what it prints, what is typed to it, its processes, its end.
//!
//! It has pipes, or a terminal of its own (the other end of a pseudo-terminal, as its controlling one). Nothing here knows what a
//! guest does, nor which processes there should be.

mod family;
mod screen;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{Termios, tcgetattr};
use nix::unistd::Pid;

use self::screen::Screen;
use crate::helper::{Ended, beside_this_test};

pub use self::family::{assert_gone, children_of};

/// What is waited for in little steps.
const STEP: Duration = Duration::from_millis(5);

/// The longest that a run may take to end once it was told to: processes end at once, and space is freed quickly in tests.
pub const END: Duration = Duration::from_secs(10);

/// Exit codes of a run (docs/mayfly.1.md): it could not start,
pub const CANNOT_START: i32 = 1;
/// it lost its VMM,
pub const RUN_FAILED: i32 = 10;
/// or a disk.
pub const DISK_LOST: i32 = 12;

const BUILT: &str = "mayfly is built (cargo build --workspace)";
const DESCRIPTORS: &str = "there are descriptors left";

/// `mayfly` and its words, not started yet.
#[derive(Debug, Default)]
pub struct Supervised {
    words: Vec<OsString>,
    variables: Vec<(OsString, OsString)>,
}

impl Supervised {
    /// `mayfly` with these words behind it.
    #[must_use]
    pub fn new<W: AsRef<OsStr>>(words: impl IntoIterator<Item = W>) -> Self {
        Self::default().and(words)
    }

    /// More words.
    #[must_use]
    pub fn and<W: AsRef<OsStr>>(mut self, words: impl IntoIterator<Item = W>) -> Self {
        self.words
            .extend(words.into_iter().map(|word| word.as_ref().to_owned()));
        self
    }

    /// A variable of its environment.
    #[must_use]
    pub fn variable(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.variables.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// Runs it to its end, without input.
    ///
    /// # Panics
    ///
    /// If `mayfly` is not built.
    #[must_use]
    pub fn output(&self) -> Ended {
        let mut command = Command::new(beside_this_test("mayfly"));
        let output = self.dress(&mut command).stdin(Stdio::null()).output().expect(BUILT);
        Ended {
            code: output.status.code(),
            signal: output.status.signal(),
            dumped_core: output.status.core_dumped(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Starts it on pipes.
    ///
    /// # Panics
    ///
    /// If `mayfly` is not built.
    #[must_use]
    pub fn on_pipes(&self) -> Running {
        let mut command = Command::new(beside_this_test("mayfly"));
        self.dress(&mut command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect(BUILT);
        let piped = "it was piped";
        let stdin = OwnedFd::from(child.stdin.take().expect(piped));
        let stdout = OwnedFd::from(child.stdout.take().expect(piped));
        let stderr = OwnedFd::from(child.stderr.take().expect(piped));
        Running {
            child,
            keyboard: Some(stdin.into()),
            slave: None,
            shown: Screen::read(stdout),
            said: Screen::read(stderr),
        }
    }

    /// Starts it on a terminal of its own: what it prints and what it says are one.
    ///
    /// # Panics
    ///
    /// If there are no terminals, or `mayfly` is not built.
    #[must_use]
    pub fn on_terminal(&self) -> Running {
        let pty = openpty(None, None).expect("/dev/ptmx is there");
        // Nobody else may keep the terminal from hanging up.
        for end in [&pty.master, &pty.slave] {
            fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).expect("an open descriptor has flags");
        }
        let slave = || Stdio::from(pty.slave.try_clone().expect(DESCRIPTORS));
        // It makes its standard input the controlling terminal, and becomes the program.
        let mut command = Command::new("setsid");
        command.arg("--ctty").arg(beside_this_test("mayfly"));
        self.dress(&mut command).stdin(slave()).stdout(slave()).stderr(slave());
        let child = command.spawn().expect(BUILT);
        // What the command still holds would keep the terminal from hanging up.
        drop(command);
        let shown = Screen::read(pty.master.try_clone().expect(DESCRIPTORS));
        Running {
            child,
            keyboard: Some(pty.master.into()),
            slave: Some(pty.slave),
            said: shown.clone(),
            shown,
        }
    }

    fn dress<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command.args(&self.words).envs(self.variables.iter().cloned())
    }
}

/// A run.
#[derive(Debug)]
pub struct Running {
    child: Child,
    keyboard: Option<File>,
    slave: Option<OwnedFd>,
    shown: Screen,
    said: Screen,
}

impl Running {
    /// The process.
    ///
    /// # Panics
    ///
    /// Never on Linux, where process numbers are positive and small.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("pid_max is below 2^22"))
    }

    /// Waits until the console shows `text`.
    ///
    /// # Panics
    ///
    /// If it does not within `limit`.
    pub fn wait_for(&self, text: &str, limit: Duration) {
        let came = self.shown.wait_for(text, limit);
        assert!(came, "waited for {text:?}: {}\n{}", self.shown.text(), self.said.text());
    }

    /// Waits until it says `text` on standard error.
    ///
    /// # Panics
    ///
    /// If it does not within `limit`.
    pub fn wait_for_said(&self, text: &str, limit: Duration) {
        let came = self.said.wait_for(text, limit);
        assert!(came, "waited for {text:?}: {}\n{}", self.shown.text(), self.said.text());
    }

    /// Waits until the console has shown `text` so often.
    ///
    /// # Panics
    ///
    /// If it does not within `limit`.
    pub fn wait_for_times(&self, text: &str, times: usize, limit: Duration) {
        let begun = Instant::now();
        while self.shown().matches(text).count() < times {
            assert!(begun.elapsed() < limit, "waited for {text:?}: {}", self.shown());
            thread::sleep(STEP);
        }
    }

    /// What the console showed.
    #[must_use]
    pub fn shown(&self) -> String {
        self.shown.text()
    }

    /// Types something.
    ///
    /// # Panics
    ///
    /// If nothing can be typed any more.
    pub fn type_in(&mut self, text: &str) {
        let keyboard = self.keyboard.as_mut().expect("the input was not closed");
        keyboard
            .write_all(text.as_bytes())
            .expect("somebody takes what is typed");
    }

    /// The end of the input; on a terminal, it hangs up.
    pub fn close_input(&mut self) {
        if self.slave.take().is_some() {
            self.shown.close();
        }
        self.keyboard = None;
    }

    /// From now on nobody reads what it prints, though somebody could.
    pub fn look_away(&self) {
        self.shown.pause(true);
    }

    /// Nobody can read what it prints any more.
    pub fn close_output(&self) {
        self.shown.close();
    }

    /// How its terminal is set.
    ///
    /// # Panics
    ///
    /// If it has none.
    #[must_use]
    pub fn terminal_settings(&self) -> Termios {
        let slave = self.slave.as_ref().expect("it was started on a terminal");
        tcgetattr(slave).expect("the terminal is open")
    }

    /// The terminal's own descriptor, as a shell would share it.
    ///
    /// # Panics
    ///
    /// If it has none.
    #[must_use]
    pub fn terminal(&self) -> &OwnedFd {
        self.slave.as_ref().expect("it was started on a terminal")
    }

    /// Sends it a signal.
    ///
    /// # Panics
    ///
    /// If it is gone.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("it was not waited for, so its pid is still its own");
    }

    /// Whether it has not ended.
    ///
    /// # Panics
    ///
    /// Never: it is a child of ours that was not waited for.
    pub fn is_running(&mut self) -> bool {
        let ended = self.child.try_wait().expect("the child is ours to wait for");
        ended.is_none()
    }

    /// Waits until it has at least `count` processes; their names and numbers.
    ///
    /// # Panics
    ///
    /// If it has not soon.
    #[must_use]
    pub fn processes(&self, count: usize) -> Vec<(String, Pid)> {
        let begun = Instant::now();
        loop {
            let children = children_of(self.pid());
            if children.len() >= count {
                return children;
            }
            assert!(begun.elapsed() < END, "{children:?}\n{}", self.said.text());
            thread::sleep(STEP);
        }
    }

    /// Waits until it has a process whose name begins with `name`.
    ///
    /// # Panics
    ///
    /// If it has not soon.
    #[must_use]
    pub fn process(&self, name: &str) -> Pid {
        let begun = Instant::now();
        loop {
            let children = children_of(self.pid());
            if let Some((_, pid)) = children.iter().find(|(found, _)| found.starts_with(name)) {
                return *pid;
            }
            assert!(begun.elapsed() < END, "no {name}: {children:?}\n{}", self.said.text());
            thread::sleep(STEP);
        }
    }

    /// Waits for its end.
    ///
    /// # Panics
    ///
    /// If it takes longer than `limit`.
    #[must_use]
    pub fn wait_within(&mut self, limit: Duration) -> Ended {
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("the child is ours to wait for") {
                break status;
            }
            assert!(
                begun.elapsed() < limit,
                "no end: {}\n{}",
                self.shown.text(),
                self.said.text()
            );
            thread::sleep(STEP);
        };
        self.shown.pause(false);
        if self.slave.take().is_none() {
            self.shown.finish();
            self.said.finish();
        }
        Ended {
            code: status.code(),
            signal: status.signal(),
            dumped_core: status.core_dumped(),
            stdout: self.shown.text(),
            stderr: self.said.text(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.shown.let_go();
        self.said.let_go();
    }
}
