//! A process that tries to get at another's nameless file, and an ordinary process to show that it knows its trade.
//!
//! Both run under the helper's uid. What came of each attempt is one line on standard output:
//! `WHOM <tab> ACT <tab> taken`, or the error instead of `taken`. Knows nothing of blk-helper but two numbers.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::ptrace;
use nix::unistd::Pid;
use rustix::fs::{AtFlags, CWD, linkat};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

/// What an attempt that succeeded says.
pub(crate) const TAKEN: &str = "taken";

/// Another process's file.
struct Target {
    pid: i32,
    descriptor: i32,
}

impl Target {
    fn directory(&self) -> String {
        format!("/proc/{}/fd", self.pid)
    }

    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", self.pid, self.descriptor)
    }

    /// Everything that gets a process at another's file. Being traced comes last, since it changes the target.
    fn acts(&self, loot: &Path) -> [(String, io::Result<()>); 5] {
        [
            (
                format!("list {}", self.directory()),
                fs::read_dir(self.directory()).map(drop),
            ),
            (format!("open {}", self.path()), File::open(self.path()).map(drop)),
            ("give it a name (linkat)".to_owned(), self.name(loot)),
            ("copy its descriptor (pidfd_getfd)".to_owned(), self.copy()),
            ("trace its process (ptrace)".to_owned(), self.trace()),
        ]
    }

    fn name(&self, loot: &Path) -> io::Result<()> {
        let name = loot.join(self.pid.to_string());
        linkat(CWD, self.path(), CWD, &name, AtFlags::SYMLINK_FOLLOW)?;
        fs::remove_file(name)
    }

    fn copy(&self) -> io::Result<()> {
        let pid = rustix::process::Pid::from_raw(self.pid).ok_or(Errno::ESRCH)?;
        let process = pidfd_open(pid, PidfdFlags::empty())?;
        pidfd_getfd(process, self.descriptor, PidfdGetfdFlags::empty())?;
        Ok(())
    }

    fn trace(&self) -> io::Result<()> {
        Ok(ptrace::seize(Pid::from_raw(self.pid), ptrace::Options::empty())?)
    }
}

/// Tries everything on the file `descriptor` of process `pid`, then on the file of an ordinary process.
pub(crate) fn steal(pid: &str, descriptor: &str, loot: &str) -> ExitCode {
    let (Ok(pid), Ok(descriptor)) = (pid.parse(), descriptor.parse()) else {
        return ExitCode::from(2);
    };
    let tried = try_both(Target { pid, descriptor }, Path::new(loot));
    if tried.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn try_both(helper: Target, loot: &Path) -> io::Result<()> {
    tell("helper", helper.acts(loot))?;
    let mut victim = Command::new("/proc/self/exe")
        .arg("victim")
        .arg(loot)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    if let Some(stdout) = victim.stdout.take() {
        BufReader::new(stdout).read_line(&mut line)?;
    }
    let pid = i32::try_from(victim.id()).map_err(io::Error::other)?;
    let descriptor = line.trim().parse().map_err(io::Error::other)?;
    tell("ordinary", Target { pid, descriptor }.acts(loot))?;
    // Its input ends with this, and that is its end.
    drop(victim.stdin.take());
    victim.wait().map(drop)
}

fn tell(whom: &str, acts: [(String, io::Result<()>); 5]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for (act, outcome) in acts {
        let outcome = outcome.map_or_else(|error| error_text(&error), |()| TAKEN.to_owned());
        writeln!(out, "{whom}\t{act}\t{outcome}")?;
    }
    out.flush()
}

/// An error with its name.
pub(crate) fn error_text(error: &io::Error) -> String {
    error
        .raw_os_error()
        .map(Errno::from_raw)
        .map_or_else(|| error.to_string(), |errno| format!("{errno:?}: {}", errno.desc()))
}

/// An ordinary process with a nameless file; it says the number of its descriptor and waits to be told to go.
pub(crate) fn be_ordinary(dir: &str) -> ExitCode {
    let wait = || -> io::Result<()> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .mode(0o600)
            .custom_flags(OFlag::O_TMPFILE.bits())
            .open(dir)?;
        writeln!(io::stdout(), "{}", file.as_raw_fd())?;
        io::stdin().read_to_end(&mut Vec::new()).map(drop)
    };
    if wait().is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
