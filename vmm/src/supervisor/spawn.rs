//! Starts a process with exactly the descriptors of its table.
//!
//! It is in a session of its own, so that neither the terminal's keys nor its hang-up reach it, and is killed when the thread
//! that started it ends: to the kernel that is the parent. Its environment has `TMPDIR` at most.

use super::child::Child;
use super::plan::{Job, Role};
use crate::sys;
use command_fds::{CommandFdExt, FdMapping};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use thiserror::Error;

/// Why a process was not started.
#[derive(Debug, Error)]
pub(crate) enum SpawnError {
    #[error("cannot find {}: it belongs beside the mayfly program; build or install both together", .0.display())]
    Missing(PathBuf),
    #[error(
        "cannot find {}, which runs the guest where KVM does not; install it (Debian: apt install qemu-system-x86)",
        .0.display()
    )]
    NoQemu(PathBuf),
    #[error("cannot start {}", program.display())]
    Start {
        program: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot make a pipe to {}", program.display())]
    Pipe {
        program: PathBuf,
        #[source]
        source: Errno,
    },
}

impl SpawnError {
    /// What it means that `program` does not start. Only QEMU is searched for; our own programs have absolute paths.
    fn of_starting(program: PathBuf, source: io::Error) -> Self {
        match (source.kind() == io::ErrorKind::NotFound, program.is_absolute()) {
            (true, true) => Self::Missing(program),
            (true, false) => Self::NoQemu(program),
            (false, _) => Self::Start { program, source },
        }
    }
}

/// Starts `job`; `take` gives the descriptor for each role, and our copies are closed afterwards.
///
/// # Errors
/// [`SpawnError`].
pub(crate) fn spawn(job: &Job, mut take: impl FnMut(Role) -> OwnedFd) -> Result<Child, SpawnError> {
    let failed = |source| SpawnError::of_starting(job.program.clone(), source);
    let pipe = || {
        pipe2(OFlag::O_CLOEXEC).map_err(|source| SpawnError::Pipe {
            program: job.program.clone(),
            source,
        })
    };
    let mut command = Command::new(&job.program);
    command.args(&job.args).env_clear().stdin(Stdio::null());
    command.envs(std::env::var_os("TMPDIR").map(|dir| ("TMPDIR", dir)));
    let (log, log_end) = pipe()?;
    command.stderr(log_end);

    let mut ready = None;
    if !job.table.iter().any(|(number, _)| *number == 1) {
        let (reader, writer) = pipe()?;
        command.stdout(writer);
        ready = Some(reader);
    }
    let mut mappings = Vec::new();
    for &(number, role) in &job.table {
        match number {
            0 => drop(command.stdin(take(role))),
            1 => drop(command.stdout(take(role))),
            child_fd => mappings.push(FdMapping {
                parent_fd: take(role),
                child_fd,
            }),
        }
    }
    let highest = job.table.iter().map(|(number, _)| *number).fold(2, RawFd::max);
    command.fd_mappings(mappings).expect("a table gives each number once");
    if let Some(user) = job.user {
        command.uid(user.uid).gid(user.gid);
    }
    sys::detach(&mut command);

    let held = hold_up_to(highest).map_err(failed)?;
    let process = command.spawn().map_err(failed)?;
    drop(held);
    Child::new(job.name.clone(), process, log, ready).map_err(|source| SpawnError::Pipe {
        program: job.program.clone(),
        source,
    })
}

/// Holds every free number up to `highest`. The standard library tells of a failed exec through a pipe; if that had a number
/// of the table, the table would be put over it, and the failure would pass for a start.
fn hold_up_to(highest: RawFd) -> io::Result<Vec<File>> {
    let mut held = Vec::new();
    loop {
        let file = File::open("/dev/null")?;
        let enough = file.as_raw_fd() > highest;
        held.push(file);
        if enough {
            return Ok(held);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal::{SigSet, Signal};
    use std::io::{Seek, Write};
    use std::time::{Duration, Instant};

    /// A shell with these descriptors.
    fn shell(script: &str, table: Vec<(RawFd, Role)>) -> Job {
        Job {
            name: "shell".into(),
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            table,
            user: None,
        }
    }

    fn file(text: &str) -> OwnedFd {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.rewind().unwrap();
        file.into()
    }

    /// The first line that the process prints.
    fn line(mut child: Child) -> String {
        let begun = Instant::now();
        while child.is_ready().is_none() {
            assert!(begun.elapsed() < Duration::from_secs(20));
            std::thread::sleep(Duration::from_millis(1));
            child.read_ready();
        }
        child.report().expect("it printed a line").to_owned()
    }

    #[test]
    fn a_process_has_its_table_and_nothing_else() {
        // What this process was given by whoever started it; the supervisor does this first of all.
        sys::pass_nothing_on().unwrap();
        let job = shell(
            "a=$(cat <&4); b=$(cat <&9); echo $a $b $(cd /proc/self/fd; echo *) ${HOME:-no-home}",
            vec![(4, Role::Kernel), (9, Role::Initrd)],
        );

        let child = spawn(&job, |role| {
            file(if role == Role::Kernel { "kernel" } else { "initrd" })
        })
        .unwrap();

        let said = line(child);
        // Shells open 3 to look, and keep 10.
        let said: Vec<_> = said.split(' ').filter(|word| !["3", "10"].contains(word)).collect();
        assert_eq!(said, ["kernel", "initrd", "0", "1", "2", "4", "9", "no-home"]);
    }

    #[test]
    fn a_process_hears_signals_that_this_one_has_blocked() {
        let mut blocked = SigSet::empty();
        blocked.add(Signal::SIGTERM);
        blocked.thread_block().unwrap();

        let child = spawn(&shell("grep SigBlk: /proc/self/status", Vec::new()), |_| file("")).unwrap();

        blocked.thread_unblock().unwrap();
        let mask = line(child);
        assert!(mask.ends_with("\t0000000000000000"), "{mask}");
    }

    #[test]
    fn a_program_that_is_missing_is_noticed_whatever_the_table() {
        let job = Job {
            program: "/nowhere/program".into(),
            ..shell("", (3..40).map(|number| (number, Role::Disk(0))).collect())
        };

        let error = spawn(&job, |_| file("")).unwrap_err();

        assert!(matches!(error, SpawnError::Missing(_)), "{error}");
    }
}
