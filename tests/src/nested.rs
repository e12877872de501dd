//! A host with a real KVM, for machines that have none: QEMU emulates a processor with AMD-V, a Debian kernel runs on it,
//! and its root is this machine's own, so every program that is built here can be run there, as root.
//!
//! ```text
//!   this machine    QEMU, its processor emulated
//!     level 1       kvm-amd; /  = this machine's files, read-only, under a tmpfs that takes what is written
//!       level 2     a guest of whatever VMM is tested
//! ```
//!
//! Level 1 runs one shell command, whose output comes line by line over a port that nothing else writes to, and switches
//! off. Nothing is kept of what was written there. It boots in about 4 s; everything in it is slow, level 2 more so.
//! This file knows neither KVM nor what is run.

use std::env;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::guest::{GuestError, Transcript, cached, quoted};

mod verdict;

pub use verdict::{Outcome, Verdict};

/// What level 1 says on its console when the command ended; its exit status follows.
const ENDED: &str = "mayfly-nested: ended with ";

/// QEMU's complaints about the processor it does not wholly emulate: expected, and 34 lines of them.
const EXPECTED: &str = "TCG doesn't support requested feature";

/// Why nothing, or not enough, came back from level 1.
#[derive(Debug, thiserror::Error)]
pub enum NestedError {
    /// `make images` was not run.
    #[error("cannot find what the nested host boots from")]
    Images(#[source] GuestError),
    /// QEMU could not be started.
    #[error("cannot start qemu-system-x86_64 under setpriv (run 'make deps')")]
    Start(#[source] std::io::Error),
    /// Nothing was heard for too long, or it took too long as a whole.
    #[error("the nested host stalled: {what}; its console:\n{console}")]
    Stalled {
        /// Which limit was reached.
        what: String,
        /// All that its console showed.
        console: Transcript,
    },
    /// QEMU ended, and the command had not.
    #[error("the nested host ended before its command did; its console:\n{console}")]
    Crashed {
        /// All that its console showed.
        console: Transcript,
    },
}

/// How a command in level 1 ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status, as a shell gives it.
    pub status: i32,
    /// What the console of level 1 showed: its kernel's warnings, and QEMU's.
    pub console: Transcript,
}

/// A nested host that is not started yet.
#[derive(Debug)]
pub struct Nested {
    kernel: PathBuf,
    initramfs: PathBuf,
    cpus: u32,
    memory_mib: u32,
    silence: Duration,
    limit: Duration,
}

impl Nested {
    /// A host with two processors and 4 GiB, whose command may take `limit` as a whole.
    ///
    /// # Errors
    ///
    /// If an image is missing.
    pub fn new(limit: Duration) -> Result<Self, NestedError> {
        Ok(Self {
            kernel: cached("nested/vmlinuz").map_err(NestedError::Images)?,
            initramfs: cached("nested/initramfs.cpio").map_err(NestedError::Images)?,
            cpus: 2,
            memory_mib: 4096,
            silence: limit,
            limit,
        })
    }

    /// Another number of processors.
    #[must_use]
    pub const fn cpus(mut self, cpus: u32) -> Self {
        self.cpus = cpus;
        self
    }

    /// How long the command may be silent, and level 1 may take to start it.
    #[must_use]
    pub const fn silence(mut self, silence: Duration) -> Self {
        self.silence = silence;
        self
    }

    /// Boots level 1, runs a shell command there in this process's working directory and with its image cache, and hands
    /// on each line of its output as it comes. The thread that calls must live as long as the host.
    ///
    /// # Errors
    ///
    /// If an image or QEMU is missing, level 1 takes too long, or ends before the command does. That the command
    /// *failed* is no error but [`Ended::status`].
    pub fn run(&self, command: &str, line: impl FnMut(&str)) -> Result<Ended, NestedError> {
        let mut host = Running::start(self.command(command))?;
        let heard = host.listen(self, line);
        let console = host.end();
        let () = heard.map_err(|what| NestedError::Stalled {
            what,
            console: console.clone(),
        })?;
        // The kernel may write on the same line.
        let digits = |rest: &str| rest.chars().take_while(char::is_ascii_digit).collect::<String>();
        let said = console.0.split_once(ENDED).map(|(_, rest)| digits(rest));
        let status = said.and_then(|digits| digits.parse().ok());
        match status {
            Some(status) => Ok(Ended { status, console }),
            None => Err(NestedError::Crashed { console }),
        }
    }

    /// QEMU behind `setpriv`, which lets it die with the thread that started it. Its standard output is the command's, its
    /// standard error the console.
    fn command(&self, command: &str) -> Command {
        let mut qemu = Command::new("setpriv");
        qemu.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
        qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        qemu.args([
            "-accel",
            "tcg,thread=multi",
            "-machine",
            "q35",
            "-cpu",
            "EPYC-Rome,+svm",
        ]);
        qemu.arg("-smp").arg(self.cpus.to_string());
        qemu.arg("-m").arg(format!("{}M", self.memory_mib));
        qemu.arg("-kernel").arg(&self.kernel);
        qemu.arg("-initrd").arg(&self.initramfs);
        qemu.args([
            "-append",
            "console=ttyS0 loglevel=4 panic=-1 mitigations=off tsc=reliable",
        ]);
        qemu.args([
            "-chardev",
            "file,id=console,path=/dev/stderr",
            "-serial",
            "chardev:console",
        ]);
        // A user who may not read all files sees those that he may.
        qemu.args([
            "-fsdev",
            "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap",
        ]);
        qemu.args(["-device", "virtio-9p-pci,fsdev=host,mount_tag=host"]);
        qemu.args([
            "-chardev",
            "stdio,id=command,signal=off",
            "-device",
            "virtio-serial-pci",
        ]);
        qemu.args(["-device", "virtserialport,chardev=command,name=mayfly"]);
        qemu.arg("-fw_cfg")
            .arg(format!("name=opt/mayfly/script,string={}", script(command)));
        qemu
    }
}

/// The command with what it inherits, as a value in one of QEMU's option lists.
fn script(command: &str) -> String {
    let mut script = String::new();
    for name in ["HOME", "XDG_CACHE_HOME", "MAYFLY_CACHE"] {
        if let Some(value) = env::var_os(name) {
            script.push_str(&format!("export {name}={}; ", in_shell(Path::new(&value))));
        }
    }
    let here = env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    quoted(Path::new(&format!("{script}cd {}; {command}", in_shell(&here))))
}

/// A path as one word of a shell.
#[must_use]
pub fn in_shell(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

/// QEMU, killed when this goes.
#[derive(Debug)]
struct Running {
    qemu: Child,
    lines: Receiver<String>,
    console: Option<JoinHandle<String>>,
}

impl Running {
    fn start(mut command: Command) -> Result<Self, NestedError> {
        let mut qemu = command
            // Never written to, never closed: at the end of its input QEMU would stop taking the command's output.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(NestedError::Start)?;
        let output = qemu.stdout.take().expect("standard output was piped");
        let console = qemu.stderr.take().expect("standard error was piped");
        let (sender, lines) = channel();
        thread::spawn(move || {
            let mut output = BufReader::new(output);
            let mut line = Vec::new();
            while let Ok(1..) = output.read_until(b'\n', &mut line) {
                let shown = String::from_utf8_lossy(&line).trim_end().to_owned();
                if sender.send(shown).is_err() {
                    break;
                }
                line.clear();
            }
        });
        let console = thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = BufReader::new(console).read_to_end(&mut bytes);
            let text = String::from_utf8_lossy(&bytes).replace('\r', "");
            let told = text.lines().filter(|line| !line.contains(EXPECTED));
            told.collect::<Vec<_>>().join("\n")
        });
        Ok(Self {
            qemu,
            lines,
            console: Some(console),
        })
    }

    /// Hands on lines until there are no more; says which limit was reached if one was.
    fn listen(&self, nested: &Nested, mut line: impl FnMut(&str)) -> Result<(), String> {
        let end = Instant::now() + nested.limit;
        let mut last = "nothing".to_owned();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left.min(nested.silence)) {
                Ok(heard) => {
                    line(&heard);
                    last = heard;
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
                Err(RecvTimeoutError::Timeout) if left > nested.silence => {
                    return Err(format!("silent for {:?} after {last:?}", nested.silence));
                }
                Err(RecvTimeoutError::Timeout) => return Err(format!("not done after {:?}", nested.limit)),
            }
        }
    }

    /// Ends QEMU, if it did not end itself; returns what the console showed.
    fn end(&mut self) -> Transcript {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        let console = self.console.take().map(JoinHandle::join);
        Transcript(
            console
                .map(|text| text.expect("reading a pipe does not panic"))
                .unwrap_or_default(),
        )
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails only for a process that ended and was waited for, which is what we want.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}
