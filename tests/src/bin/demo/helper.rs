//! A running `blk-helper`: its READY report, its overlay as seen from outside, its end.
//!
//! Unlike [`tests::helper`], whose failures are a test's panics, this returns them: the demo has to clean up.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::channel;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::failure::Failure;
use crate::workshop::Workshop;

/// How long it may take to become ready. It takes some milliseconds; the rest is a loaded machine.
const START: Duration = Duration::from_secs(20);

/// A helper that is ready; killed when this value goes.
#[derive(Debug)]
pub(crate) struct Helper {
    child: Child,
    report: Value,
    command_line: String,
    complaints: Option<JoinHandle<String>>,
}

/// How a helper ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Its exit status.
    pub(crate) status: ExitStatus,
    /// All it wrote to standard error.
    pub(crate) said: String,
}

impl Helper {
    /// Starts a helper with these options on top of what the demo always needs, and waits for READY.
    pub(crate) fn start(workshop: &Workshop, options: &[&str]) -> Result<Self, Failure> {
        let program = program()?;
        let mut command = Command::new(&program);
        command
            .arg("--blk-file")
            .arg(workshop.base())
            .arg("--socket-path")
            .arg(workshop.socket());
        command
            .arg("--overlay-dir")
            .arg(workshop.overlay_dir())
            .args(["--report", "json", "--die-with-parent"]);
        command
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let arguments = command.get_args().map(OsStr::to_string_lossy);
        let command_line = arguments.fold("blk-helper".to_owned(), |line, argument| format!("{line} {argument}"));
        let started = command.spawn();
        let mut child = started.map_err(Failure::while_doing(format!("start {}", program.display())))?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (sender, line) = channel();
        thread::spawn(move || {
            let mut text = String::new();
            let _ = stdout.map(|stdout| BufReader::new(stdout).read_line(&mut text));
            // Without a listener the helper was given up already.
            let _ = sender.send(text);
        });
        let complaints = thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = stderr.map(|mut stderr| stderr.read_to_end(&mut bytes));
            String::from_utf8_lossy(&bytes).trim_end().to_owned()
        });
        let mut helper = Self {
            child,
            report: Value::Null,
            command_line,
            complaints: Some(complaints),
        };
        let line = line.recv_timeout(START).unwrap_or_default();
        match serde_json::from_str(&line) {
            Ok(report) => helper.report = report,
            Err(_) => {
                return Err(Failure::NotReady {
                    said: helper.kill()?.said,
                });
            }
        }
        Ok(helper)
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What was typed, so to speak, to start it.
    pub(crate) fn command_line(&self) -> &str {
        &self.command_line
    }

    /// The part of the READY report at a JSON pointer.
    pub(crate) fn reported(&self, pointer: &'static str) -> Result<&Value, Failure> {
        self.report.pointer(pointer).ok_or(Failure::Report { what: pointer })
    }

    /// Whether it encrypts its overlay.
    pub(crate) fn encrypts(&self) -> Result<bool, Failure> {
        Ok(self.reported("/disk/overlay/encrypted")? == &Value::Bool(true))
    }

    /// The number of a descriptor of which the report says that it is this.
    pub(crate) fn descriptor(&self, what: &'static str) -> Result<u64, Failure> {
        let descriptors = self.reported("/confinement/descriptors")?.as_array();
        let found = descriptors
            .into_iter()
            .flatten()
            .find(|descriptor| descriptor["what"].as_str().is_some_and(|text| text.starts_with(what)));
        found
            .and_then(|descriptor| descriptor["number"].as_u64())
            .ok_or(Failure::Report { what })
    }

    /// `/proc/PID/fd/N` of the overlay.
    pub(crate) fn overlay_path(&self) -> Result<PathBuf, Failure> {
        Ok(format!("/proc/{}/fd/{}", self.pid(), self.descriptor("overlay")?).into())
    }

    /// The bytes that the overlay occupies; nothing unless we may look, which takes root.
    pub(crate) fn overlay_bytes(&self) -> Option<u64> {
        let metadata = std::fs::metadata(self.overlay_path().ok()?).ok()?;
        Some(metadata.blocks() * 512)
    }

    /// SIGTERM: stop serving at once and end.
    pub(crate) fn terminate(&self) -> Result<(), Failure> {
        let told = kill_process(Pid::from_child(&self.child), Signal::TERM);
        told.map_err(Failure::while_doing("tell blk-helper to end"))
    }

    /// SIGKILL, and the end of that.
    pub(crate) fn kill(&mut self) -> Result<Ended, Failure> {
        self.child.kill().map_err(Failure::while_doing("kill blk-helper"))?;
        self.wait(START)
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self, limit: Duration) -> Result<Ended, Failure> {
        let begun = Instant::now();
        while begun.elapsed() < limit {
            let ended = self
                .child
                .try_wait()
                .map_err(Failure::while_doing("wait for blk-helper"))?;
            if let Some(status) = ended {
                let said = self.complaints.take().and_then(|thread| thread.join().ok());
                return Ok(Ended {
                    status,
                    said: said.unwrap_or_default(),
                });
            }
            thread::sleep(Duration::from_millis(2));
        }
        Err(Failure::StillThere { limit })
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // Fails only for a process that ended and was waited for, which is what we want.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    /// The last line it wrote to standard error.
    pub(crate) fn last_words(&self) -> &str {
        self.said.lines().last().unwrap_or_default()
    }

    /// As a shell would say it.
    pub(crate) fn how(&self) -> String {
        match (self.status.code(), self.status.signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("killed by signal {signal}"),
            (None, None) => self.status.to_string(),
        }
    }
}

/// The helper's executable: `MAYFLY_BLK_HELPER`, or the one that cargo put beside this one.
fn program() -> Result<PathBuf, Failure> {
    if let Some(path) = std::env::var_os("MAYFLY_BLK_HELPER") {
        return Ok(path.into());
    }
    let this = std::env::current_exe().map_err(Failure::while_doing("find this program"))?;
    Ok(this.with_file_name("blk-helper"))
}
