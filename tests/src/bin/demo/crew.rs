//! The processes of a running `mayfly run`: which they are, and what each reported when it was ready (`--report`).
//!
//! Who they are is in `/proc`, which everybody may read that far. What the confined ones hold only root can see there.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::guest::{Guest, GuestError};

use crate::failure::Failure;

/// How long they may take to be ready. It takes some milliseconds; the rest is a loaded machine.
const START: Duration = Duration::from_secs(60);

/// How often we look whether something happened.
const STEP: Duration = Duration::from_millis(5);

/// A process.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// Its program, as the kernel has it: 15 letters of it.
    pub(crate) program: String,
    report: Value,
}

/// Whose it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// All of them, for a guest with one disk.
#[derive(Debug, Clone)]
pub(crate) struct Crew {
    pub(crate) supervisor: Process,
    pub(crate) helper: Process,
    pub(crate) vmm: Process,
}

impl Process {
    fn new(pid: u32, report: Value) -> Result<Self, Failure> {
        let program = fs::read_to_string(format!("/proc/{pid}/comm"));
        let program = program.map_err(Failure::while_doing(format!("look at process {pid}")))?;
        Ok(Self {
            pid,
            program: program.trim_end().to_owned(),
            report,
        })
    }

    /// What it said of one side of its confinement: a helper says more than that.
    pub(crate) fn confinement(&self, side: &'static str) -> Result<&[Value], Failure> {
        let confinement = self.report.get("confinement").unwrap_or(&self.report);
        let found = confinement.get(side).and_then(Value::as_array);
        found.map(Vec::as_slice).ok_or_else(|| Failure::Report {
            program: self.program.clone(),
            what: side,
        })
    }

    /// Whether it is one that reports what confines it.
    pub(crate) fn is_ours(&self) -> bool {
        !self.report.is_null()
    }

    /// The number of a descriptor of which it said that it is this.
    pub(crate) fn descriptor(&self, what: &'static str) -> Result<u64, Failure> {
        let mut descriptors = self.confinement("descriptors")?.iter();
        let found =
            descriptors.find(|descriptor| descriptor["what"].as_str().is_some_and(|text| text.starts_with(what)));
        let number = found.and_then(|descriptor| descriptor["number"].as_u64());
        number.ok_or_else(|| Failure::Report {
            program: self.program.clone(),
            what,
        })
    }

    /// Whose it is, from `/proc/PID/status`.
    pub(crate) fn owner(&self) -> Result<Owner, Failure> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid));
        let status = status.map_err(Failure::while_doing(format!("read the status of {}", self.program)))?;
        let field = |name| {
            let value = status.lines().find_map(|line| line.strip_prefix(name))?;
            value.split_whitespace().next()?.parse().ok()
        };
        match (field("Uid:"), field("Gid:")) {
            (Some(uid), Some(gid)) => Ok(Owner { uid, gid }),
            _ => Err(Failure::Report {
                program: self.program.clone(),
                what: "Uid",
            }),
        }
    }

    /// Whether it is still there. One that nobody waits for has given everything back, once the last of its threads has
    /// ended: its first may have before.
    fn is_alive(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        let after_name = stat.rsplit_once(')').map_or("", |(_, after)| after);
        let threads = fs::read_dir(format!("/proc/{}/task", self.pid)).map_or(0, Iterator::count);
        match after_name.trim_start().chars().next() {
            None | Some('X') => false,
            Some('Z') => threads > 1,
            Some(_) => true,
        }
    }
}

impl Crew {
    /// Waits until all are ready and `report` says so.
    pub(crate) fn ready(guest: &mut Guest, report: &Path) -> Result<Self, Failure> {
        let begun = Instant::now();
        loop {
            let lines = reports(report);
            if let (Some(helper), Some(vmm)) = (last(&lines, "disk vda"), last(&lines, "vmm")) {
                return Ok(Self {
                    supervisor: Process::new(guest.pid(), Value::Null)?,
                    helper: process(helper)?,
                    vmm: process(vmm)?,
                });
            }
            match guest.wait_exit(STEP) {
                Err(GuestError::TimedOut { .. }) if begun.elapsed() < START => {}
                _ => {
                    let said = guest.transcript().0.trim_end().to_owned();
                    return Err(Failure::NotReady { said });
                }
            }
        }
    }

    /// All of them.
    pub(crate) fn all(&self) -> [&Process; 3] {
        [&self.supervisor, &self.helper, &self.vmm]
    }

    /// Waits until none is there any more; returns those that still are after `limit`.
    pub(crate) fn wait_gone(&self, limit: Duration) -> Vec<&Process> {
        let begun = Instant::now();
        loop {
            let left: Vec<_> = self.all().into_iter().filter(|process| process.is_alive()).collect();
            if left.is_empty() || begun.elapsed() > limit {
                return left;
            }
            thread::sleep(STEP);
        }
    }

    /// `/proc/PID/fd/N` of the overlay.
    pub(crate) fn overlay_path(&self) -> Result<PathBuf, Failure> {
        let number = self.helper.descriptor("overlay")?;
        Ok(format!("/proc/{}/fd/{number}", self.helper.pid).into())
    }

    /// The bytes that the overlay occupies; nothing unless we may look, which takes root.
    pub(crate) fn overlay_bytes(&self) -> Option<u64> {
        let metadata = fs::metadata(self.overlay_path().ok()?).ok()?;
        Some(metadata.blocks() * 512)
    }
}

/// The lines of the report that are whole.
fn reports(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

/// The newest line of the process whose name begins so.
fn last<'lines>(lines: &'lines [Value], name: &str) -> Option<&'lines Value> {
    let named = |line: &&Value| {
        line["process"]
            .as_str()
            .is_some_and(|process| process.starts_with(name))
    };
    lines.iter().rev().find(named)
}

fn process(line: &Value) -> Result<Process, Failure> {
    let pid = line["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
    let pid = pid.ok_or_else(|| Failure::Report {
        program: "mayfly".to_owned(),
        what: "pid",
    })?;
    Process::new(pid, line["ready"].clone())
}
