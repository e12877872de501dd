//! `mayfly-vmm` as its supervisor would start it, or as nobody would: any words, any descriptors.
//!
//! It knows the command line and the descriptors, nothing of what a guest does.

use std::ffi::OsString;
use std::fs::File;
use std::io::{PipeReader, PipeWriter, Write, pipe};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::helper::{Ended, beside_this_test, spawn_with};
use crate::process::{Process, START};

/// Exit codes of the VMM, as far as tests say them by name.
#[expect(missing_docs, reason = "the names are the manual's")]
pub mod code {
    pub const POWERED_OFF: i32 = 0;
    pub const CANNOT_START: i32 = 1;
    pub const USAGE: i32 = 2;
    pub const NOT_CONFINED: i32 = 3;
    pub const RUN_FAILED: i32 = 10;
    pub const DISK_GONE: i32 = 12;
    pub const CRASHED: i32 = 13;
    pub const TOLD: i32 = 15;
    pub const REBOOT: i32 = 16;
}

const DESCRIPTORS: &str = "there are descriptors left";

/// A VMM that is not started yet.
#[derive(Debug)]
pub struct VmmBuilder {
    launcher: Vec<OsString>,
    words: Vec<(String, String)>,
    inherited: Vec<OwnedFd>,
    keyboard: PipeWriter,
    screen: PipeReader,
}

impl VmmBuilder {
    /// A machine of 64 MiB with one processor, this kernel, a console, and no disk.
    ///
    /// # Panics
    ///
    /// If there is no /dev/kvm.
    #[must_use]
    pub fn new(kernel: impl Into<OwnedFd>) -> Self {
        let (typed, keyboard) = pipe().expect(DESCRIPTORS);
        let (screen, printed) = pipe().expect(DESCRIPTORS);
        let kvm = File::options().read(true).write(true).open("/dev/kvm");
        Self {
            launcher: Vec::new(),
            words: Vec::new(),
            inherited: Vec::new(),
            keyboard,
            screen,
        }
        .descriptor("kvm", kvm.expect("the test requires kvm"))
        .descriptor("kernel", kernel)
        .word("cmdline", "")
        .word("cpus", "1")
        .word("memory", "67108864")
        .descriptor("console-in", typed)
        .descriptor("console-out", printed)
    }

    /// `--name=value`, instead of what it was.
    #[must_use]
    pub fn word(self, name: &str, value: &str) -> Self {
        self.without(name).another(name, value)
    }

    /// `--name=value`, once more.
    #[must_use]
    pub fn another(mut self, name: &str, value: &str) -> Self {
        self.words.push((name.to_owned(), value.to_owned()));
        self
    }

    /// No `--name`.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.words.retain(|(word, _)| word != name);
        self
    }

    /// `--name` with an open descriptor, instead of what it was.
    #[must_use]
    pub fn descriptor(self, name: &str, descriptor: impl Into<OwnedFd>) -> Self {
        self.without(name).another_descriptor(name, descriptor)
    }

    /// `--name` with an open descriptor, once more.
    #[must_use]
    pub fn another_descriptor(mut self, name: &str, descriptor: impl Into<OwnedFd>) -> Self {
        let descriptor = descriptor.into();
        let number = descriptor.as_raw_fd().to_string();
        self.inherited.push(descriptor);
        self.another(name, &number)
    }

    /// What a word says now.
    ///
    /// # Panics
    ///
    /// If it is not there.
    #[must_use]
    pub fn value(&self, name: &str) -> String {
        let found = self.words.iter().find(|(word, _)| word == name);
        found.expect("it was given").1.clone()
    }

    /// Its standard output takes nothing, as a pipe that nobody reads any more.
    #[must_use]
    pub fn deaf(mut self) -> Self {
        let script = r#"exec "$0" "$@" >/dev/full"#;
        self.launcher = ["sh", "-c", script].map(OsString::from).to_vec();
        self
    }

    /// Starts it.
    ///
    /// # Panics
    ///
    /// If it is not built.
    #[must_use]
    pub fn start(self) -> Vmm {
        let program = beside_this_test("mayfly-vmm").into_os_string();
        let mut words = self.launcher.into_iter().chain([program]);
        let mut command = Command::new(words.next().expect("the program is one"));
        command
            .args(words)
            .args(self.words.iter().map(|(name, value)| format!("--{name}={value}")))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let child = spawn_with(&mut command, &self.inherited).expect("mayfly-vmm is built (cargo build -p vmm)");
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("pid_max is below 2^22"));
        Vmm {
            process: Process::watch(child),
            pid,
            keyboard: self.keyboard,
            _screen: self.screen,
        }
    }
}

/// A VMM; it is killed when this value goes.
#[derive(Debug)]
pub struct Vmm {
    process: Process,
    pid: Pid,
    keyboard: PipeWriter,
    /// What is never read: enough for it fits.
    _screen: PipeReader,
}

impl Vmm {
    /// Types something, if there is still somebody to take it.
    pub fn type_in(&mut self, text: &str) {
        let _ = self.keyboard.write_all(text.as_bytes());
    }

    /// Waits until it says that it is ready; false if it ended before.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.process.first_line().is_some()
    }

    /// Sends it a signal.
    ///
    /// # Panics
    ///
    /// If it was waited for.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid, signal).expect("it was not waited for, so its pid is still its own");
    }

    /// Waits for its end.
    ///
    /// # Panics
    ///
    /// If it takes longer than `limit`.
    #[must_use]
    pub fn wait_within(&mut self, limit: Duration) -> Ended {
        self.process.wait_within(limit)
    }

    /// Waits for an end that is due, however busy the machine is.
    ///
    /// # Panics
    ///
    /// If it does not come.
    #[must_use]
    pub fn wait(&mut self) -> Ended {
        self.wait_within(START)
    }
}
