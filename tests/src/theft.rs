//! What a process can try in order to get at what another one holds, and the program of this crate that tries it as somebody else.
//!
//! Each act is one system call or one path under `/proc`; whether it should succeed is for the caller to say.

use std::fs::{self, File, Permissions};
use std::io::{self, IoSliceMut};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use nix::sys::ptrace;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;
use rustix::fs::{AtFlags, CWD, linkat};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::helper::beside_this_test;
use crate::place::Place;
use crate::process::copy_program;

/// A user that has nothing to do with any of this.
pub const NEIGHBOUR: u32 = 4711;

/// How many descriptor numbers are tried.
pub const DESCRIPTORS: i32 = 64;

/// An attempt and what came of it.
#[derive(Debug)]
pub struct Attempt {
    /// What was tried.
    pub act: String,
    /// Whether the system let it happen.
    pub outcome: io::Result<()>,
}

/// Runs the stranger, as `uid` where this process is root.
///
/// # Panics
///
/// If it is not built.
#[must_use]
pub fn stranger(place: &Place, uid: u32, arguments: &[&Path]) -> Output {
    // A copy, since the tree may lie where that user cannot go.
    let program = place.dir().join("stranger");
    copy_program(&beside_this_test("stranger"), &program);
    let mut command = Command::new(program);
    command.args(arguments).current_dir("/");
    if nix::unistd::geteuid().is_root() {
        command.uid(uid).gid(uid);
    }
    command.output().expect("a program of this crate runs")
}

/// Lets a stranger try everything on process `victim`, as the same user; of root's, as another.
///
/// # Panics
///
/// If it gets anything.
pub fn assert_gives_nothing(place: &Place, victim: Pid) {
    let status = fs::read_to_string(format!("/proc/{victim}/status")).expect("it lives");
    let uid = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:\t")?.split('\t').next());
    let uid = uid
        .and_then(|uid| uid.parse().ok())
        .expect("the kernel says whose it is");
    let uid = if uid == 0 { NEIGHBOUR } else { uid };
    let loot = place.dir().join(format!("loot-{victim}"));
    fs::create_dir(&loot).expect("the place can be written");
    fs::set_permissions(&loot, Permissions::from_mode(0o777)).expect("the place is ours");

    let pid = victim.to_string();
    let output = stranger(place, uid, &[Path::new("steal"), Path::new(&pid), &loot]);

    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fs::read_dir(&loot).expect("the place is ours").count(), 0);
}

/// Tries everything on process `pid`; a file that can be given a name gets one in `loot`.
///
/// Being traced comes last, since it changes the victim.
#[must_use]
pub fn attempts(pid: i32, loot: &Path) -> Vec<Attempt> {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let mut all = vec![attempt("list its descriptors", fs::read_dir(proc.join("fd")))];
    for name in ["mem", "maps", "environ", "auxv", "io", "syscall"] {
        // Some of these can be opened by anybody and refuse at the first read.
        let read = File::open(proc.join(name)).and_then(|mut file| io::Read::read(&mut file, &mut [0; 1]));
        all.push(attempt(name, read));
    }
    for name in ["root", "cwd", "exe"] {
        all.push(attempt(name, fs::read_link(proc.join(name))));
    }
    for number in 0..DESCRIPTORS {
        let path = proc.join("fd").join(number.to_string());
        all.push(attempt(&format!("open descriptor {number}"), File::open(&path)));
        let name = loot.join(format!("{pid}-{number}"));
        all.push(attempt(
            &format!("link descriptor {number}"),
            linkat(CWD, &path, CWD, &name, AtFlags::SYMLINK_FOLLOW),
        ));
        all.push(attempt(&format!("copy descriptor {number}"), copy(pid, number)));
    }
    let mut byte = [0];
    let remote = [RemoteIoVec { base: 0x1000, len: 1 }];
    let read = process_vm_readv(Pid::from_raw(pid), &mut [IoSliceMut::new(&mut byte)], &remote);
    // A victim that may be read has nothing at that address; only a refusal is a refusal.
    let read = if read == Err(nix::Error::EFAULT) { Ok(0) } else { read };
    all.push(attempt("read its memory", read));
    all.push(attempt(
        "trace it",
        ptrace::seize(Pid::from_raw(pid), ptrace::Options::empty()),
    ));
    all
}

fn attempt<T, E: Into<io::Error>>(act: &str, outcome: Result<T, E>) -> Attempt {
    Attempt {
        act: act.to_owned(),
        outcome: outcome.map(drop).map_err(Into::into),
    }
}

fn copy(pid: i32, number: i32) -> io::Result<()> {
    let pid = rustix::process::Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    pidfd_getfd(process, number, PidfdGetfdFlags::empty())?;
    Ok(())
}
