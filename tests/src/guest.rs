//! A real guest: Debian's stock kernel in `qemu-system-x86_64`, driven over its serial console.
//!
//! QEMU always emulates the processor here (TCG), so a guest boots on every machine, slowly. On the console the
//! guest runs a loop of one line, the *agent*: it reads a numbered command, runs it, and prints its exit status in
//! a mark with that number, so nothing depends on prompts, echo or line editing.
//!
//! ```text
//!   us: 7 bHMgL2Rldg==          (number, command in base64, on one line)
//!   guest: ...output...
//!   guest: <<mayfly 7 0>>       (number, exit status)
//! ```
//!
//! Every wait has a limit, and every error carries the end of the console. QEMU is killed when its [`Guest`] is
//! dropped, and when the thread that started it ends. This file knows nothing of how a disk is served.

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

mod assets;
mod base64;
mod console;
mod error;
mod spec;

pub use assets::Assets;
pub use error::{GuestError, Transcript};
pub use spec::{Disk, Spec, System};

pub(crate) use assets::cached;
pub(crate) use spec::quoted;

use console::Console;

/// Turns a shell on the console into the agent. The mark is spelt so that its echo is not mistaken for it.
const AGENT: &str = "stty -echo; printf '\\n<<mayfly %s>>\\n' agent; while read -r n c; do \
     sh -c \"$(echo \"$c\" | base64 -d)\" </dev/null; printf '\\n<<mayfly %s %s>>\\n' \"$n\" $?; done 2>&1\n";

/// What the agent says when it begins.
const AGENT_BEGINS: &str = "<<mayfly agent>>";

/// How long the shell may take to become the agent before it is asked again: a getty throws away what was typed
/// before it was ready. A guess; asking twice does no harm.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// The longest command: a terminal's line ends at 4095 bytes, and base64 makes four of three.
const LONGEST_COMMAND: usize = 3000;

/// What a command in the guest did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its exit status.
    pub status: i32,
    /// What it wrote, standard output and error together, with plain newlines.
    pub text: String,
}

/// A running guest.
#[derive(Debug)]
pub struct Guest {
    qemu: Child,
    keyboard: ChildStdin,
    console: Arc<Console>,
    system: System,
    commands: u32,
}

impl Guest {
    /// Starts QEMU and waits until the guest takes commands.
    ///
    /// # Errors
    ///
    /// If an asset or QEMU is missing, QEMU ends, or the guest has no shell within `limit`.
    pub fn boot(spec: Spec, limit: Duration) -> Result<Self, GuestError> {
        let mut guest = Self::start(spec)?;
        guest.wait_for_shell(limit)?;
        Ok(guest)
    }

    /// Starts QEMU and returns at once: for guests that are not expected to get far.
    ///
    /// # Errors
    ///
    /// If an asset or QEMU is missing.
    pub fn start(spec: Spec) -> Result<Self, GuestError> {
        Self::of(spec.command(), spec.system, spec.watcher)
    }

    /// Starts a command that runs a `system` with its console on standard input and output, and returns at once: for
    /// other machines than those of a [`Spec`]. What is said here of QEMU then holds of that command.
    ///
    /// # Errors
    ///
    /// If the command cannot be started.
    ///
    /// # Panics
    ///
    /// Never: the pipes that are taken here were asked for here.
    pub fn of(mut command: Command, system: System, watcher: Option<Sender<String>>) -> Result<Self, GuestError> {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let program = command.get_program().to_string_lossy().into_owned();
        let mut qemu = command
            .spawn()
            .map_err(|source| GuestError::Start { program, source })?;
        let keyboard = qemu.stdin.take().expect("standard input was piped");
        let console = Console::watch(
            qemu.stdout.take().expect("standard output was piped"),
            qemu.stderr.take().expect("standard error was piped"),
            watcher,
        );
        Ok(Self {
            qemu,
            keyboard,
            console,
            system,
            commands: 0,
        })
    }

    /// Waits until the console shows `text` after what was waited for before; returns what it showed up to there.
    ///
    /// # Errors
    ///
    /// If the time runs out or QEMU ends first.
    pub fn wait_for(&mut self, text: &str, limit: Duration) -> Result<String, GuestError> {
        self.console.wait_for(text, limit)
    }

    /// Runs a shell command and waits for its end. Each command has a shell of its own, with nothing to read: a
    /// `cd` or a variable does not live on. One that took too long goes on, and what it still says comes before the
    /// output of the next.
    ///
    /// # Errors
    ///
    /// If the command is longer than 3000 bytes, takes longer than `limit`, or QEMU ends. That it *failed* is no error
    /// but [`Output::status`].
    pub fn sh(&mut self, command: &str, limit: Duration) -> Result<Output, GuestError> {
        self.sh_lines(command, limit, |_| ())
    }

    /// As [`Guest::sh`], and hands on every line of the output that is not empty as it comes.
    ///
    /// # Errors
    ///
    /// As [`Guest::sh`].
    pub fn sh_lines(
        &mut self,
        command: &str,
        limit: Duration,
        mut line: impl FnMut(&str),
    ) -> Result<Output, GuestError> {
        let mark = self.send(command)?;
        let end = Instant::now() + limit;
        let mut text = String::new();
        loop {
            let got = self
                .console
                .wait_for("\n", end.saturating_duration_since(Instant::now()))?;
            if let Some(status) = got
                .strip_prefix(&mark)
                .and_then(|rest| rest.trim_end().strip_suffix(">>"))
            {
                // The newline before the mark is the agent's, not the command's.
                text.truncate(text.strip_suffix('\n').map_or(text.len(), str::len));
                let status = status.parse().map_err(|_| GuestError::Garbled { line: got.clone() })?;
                return Ok(Output { status, text });
            }
            match got.trim_end_matches('\n') {
                "" => {}
                shown => line(shown),
            }
            text.push_str(&got);
        }
    }

    /// Restarts the guest from inside, as its user would, and waits until it takes commands again.
    ///
    /// # Errors
    ///
    /// If it does not within `limit`, or QEMU ends.
    pub fn reboot(&mut self, limit: Duration) -> Result<(), GuestError> {
        self.send(self.system.reboot_command())?;
        self.wait_for_shell(limit)
    }

    /// Switches the guest off from inside and waits for QEMU to end.
    ///
    /// # Errors
    ///
    /// If it does not end within `limit`, or not with success.
    pub fn poweroff(&mut self, limit: Duration) -> Result<(), GuestError> {
        self.send(self.system.poweroff_command())?;
        let status = self.wait_exit(limit)?;
        if status.success() {
            Ok(())
        } else {
            Err(GuestError::Ended {
                status,
                console: self.console.tail(),
            })
        }
    }

    /// Waits for QEMU to end by itself.
    ///
    /// # Errors
    ///
    /// If it does not within `limit`.
    pub fn wait_exit(&mut self, limit: Duration) -> Result<ExitStatus, GuestError> {
        self.console.wait_end(limit)?;
        self.qemu.wait().map_err(GuestError::Wait)
    }

    /// Kills QEMU with SIGKILL: a power cut.
    ///
    /// # Errors
    ///
    /// If it had ended before, by itself.
    pub fn kill(&mut self) -> Result<(), GuestError> {
        self.qemu.kill().map_err(GuestError::Wait)?;
        let status = self.qemu.wait().map_err(GuestError::Wait)?;
        if status.signal() == Some(9) {
            Ok(())
        } else {
            Err(GuestError::Ended {
                status,
                console: self.console.tail(),
            })
        }
    }

    /// QEMU's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.qemu.id()
    }

    /// All that the console and QEMU said so far.
    #[must_use]
    pub fn transcript(&self) -> Transcript {
        self.console.transcript()
    }

    /// Waits until the guest, started but not yet waited for, takes commands.
    ///
    /// # Errors
    ///
    /// If it does not within `limit`, or QEMU ends.
    pub fn wait_for_shell(&mut self, limit: Duration) -> Result<(), GuestError> {
        let end = Instant::now() + limit;
        let left = || end.saturating_duration_since(Instant::now());
        for sign in self.system.signs_of_a_shell() {
            self.console.wait_for(sign, left())?;
        }
        loop {
            self.keyboard
                .write_all(AGENT.as_bytes())
                .map_err(GuestError::Keyboard)?;
            match self.console.wait_for(AGENT_BEGINS, left().min(ASK_AGAIN)) {
                Err(GuestError::TimedOut { .. }) if !left().is_zero() => continue,
                answered => {
                    answered?;
                    break;
                }
            }
        }
        // What the agent makes of a second request, should there have been one, comes before the answer to this.
        self.sh("true", left()).map(drop)
    }

    /// Types a command for the agent; returns how the line with its exit status will begin.
    fn send(&mut self, command: &str) -> Result<String, GuestError> {
        if command.len() > LONGEST_COMMAND {
            return Err(GuestError::TooLong { length: command.len() });
        }
        self.commands += 1;
        let number = self.commands;
        self.console.note(&format!("[{number}] {command}\n"));
        let line = format!("{number} {}\n", base64::encode(command.as_bytes()));
        self.keyboard.write_all(line.as_bytes()).map_err(GuestError::Keyboard)?;
        Ok(format!("<<mayfly {number} "))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Fails only for a process that ended and was waited for, which is what we want.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}
