//! Starting children and collecting how they end.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use serde_json::Value;

/// Who a child starts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// Whoever runs the test.
    Us,
    /// Another user; only root can start one.
    Uid(u32),
}

/// An ordinary user.
pub(crate) const ORDINARY: Who = Who::Uid(65533);

/// The ordinary user whom the kernel also shows for unmapped ones.
pub(crate) const OVERFLOW: Who = Who::Uid(65534);

/// Whether the tests run as root.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Everybody a test should run as.
pub(crate) fn everybody() -> Vec<Who> {
    if is_root() {
        vec![Who::Us, ORDINARY]
    } else {
        vec![Who::Us]
    }
}

/// Whether a child of `who` starts as root.
pub(crate) fn starts_as_root(who: Who) -> bool {
    who == Who::Us && is_root()
}

/// How a child ended.
#[derive(Debug)]
pub(crate) struct End {
    /// Its status.
    pub(crate) status: ExitStatus,
    /// What it printed.
    pub(crate) stdout: String,
    /// What it complained about.
    pub(crate) stderr: String,
}

impl End {
    /// Its exit code.
    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The signal that killed it.
    pub(crate) fn signal(&self) -> Option<i32> {
        self.status.signal()
    }

    /// The report that a confined child printed.
    pub(crate) fn report(&self) -> Value {
        assert_eq!(self.code(), Some(0), "{self:?}");
        serde_json::from_str(&self.stdout).expect("the child prints its report")
    }
}

/// A child that is about to be started.
pub(crate) fn command(who: Who, arguments: &[&str]) -> Command {
    command_of(Path::new("/proc/self/exe"), who, arguments)
}

/// The same of a copy of this program.
pub(crate) fn command_of(program: &Path, who: Who, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command
        .arg("child")
        .args(arguments)
        .env("LEFT_BEHIND", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Who::Uid(uid) = who {
        command.uid(uid).gid(uid);
    }
    command
}

/// Starts a child.
pub(crate) fn start(who: Who, arguments: &[&str]) -> Child {
    command(who, arguments).spawn().expect("the child starts")
}

/// Runs a child to its end.
pub(crate) fn run(who: Who, arguments: &[&str]) -> End {
    finish(start(who, arguments))
}

/// Waits for a child's end.
pub(crate) fn finish(child: Child) -> End {
    let output = child.wait_with_output().expect("the child can be waited for");
    End {
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A layer of a report.
pub(crate) fn layer<'a>(report: &'a Value, name: &str) -> &'a Value {
    report["layers"]
        .as_array()
        .expect("a report has layers")
        .iter()
        .find(|layer| layer["name"] == name)
        .unwrap_or_else(|| panic!("no layer {name} in {report:#}"))
}
