//! Namespaces: each tried on its own, each proved by the kernel's identity of it having changed.
//!
//! No PID namespace: after unsharing one, the process could start no threads. A launcher that wants one gives it with `clone3`.
//! The maps of a user namespace can only be written by a process that its user may inspect, which this one is not. So a process of
//! its own makes that namespace, one that has nothing, and this one joins it.

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill, raise};
use nix::sys::stat::stat;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Gid, Pid, Uid, getpid, getppid};
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use crate::error::StepError;
use crate::report::Layer;
use crate::sys;

/// What the kernel shows in place of a user that a namespace does not map, unless it was told otherwise.
const DEFAULT_OVERFLOW_UID: u32 = 65534;

/// A namespace of `enter`: its layer, its flag, its name below `/proc/self/ns`.
const OTHERS: [(&str, CloneFlags, &str); 5] = [
    ("network namespace", CloneFlags::CLONE_NEWNET, "net"),
    ("ipc namespace", CloneFlags::CLONE_NEWIPC, "ipc"),
    ("uts namespace", CloneFlags::CLONE_NEWUTS, "uts"),
    ("cgroup namespace", CloneFlags::CLONE_NEWCGROUP, "cgroup"),
    ("mount namespace", CloneFlags::CLONE_NEWNS, "mnt"),
];

/// The layer of the mount namespace, which the empty root needs.
pub(crate) const MOUNT: &str = "mount namespace";

/// Whether this is the only thread of the process.
pub(crate) fn is_single_threaded() -> bool {
    // With this flag alone unshare does nothing, and the kernel refuses it (EINVAL) to a process of several threads.
    match unshare(CloneFlags::CLONE_THREAD) {
        Ok(()) => true,
        Err(Errno::EINVAL) => false,
        // A seccomp filter of our launcher may forbid the call itself; then `/proc` knows.
        Err(_) => fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() == 1),
    }
}

/// A user namespace in which `uid` and `gid` are what they are outside, and nobody else exists.
///
/// By identity, because SO_PEERCRED must show the own uid as itself. Joined only when it is complete: some systems let one
/// enter a user namespace but not map it (Ubuntu's AppArmor restriction), and there is no way back out.
///
/// # Errors
///
/// It was joined, and is another one than was made.
pub(crate) fn user(uid: Uid, gid: Gid) -> Result<Layer, StepError> {
    const NAME: &str = "user namespace";
    if uid.as_raw() == overflow_uid() {
        let why =
            format!("uid {uid} is what the kernel shows for every unmapped peer, which would look like ourselves");
        return Ok(Layer::where_permitted(NAME, Err(why)));
    }
    let before = identity("user");
    if let Err(errno) = Maker::start(uid, gid).and_then(|maker| maker.join()) {
        return Ok(not_permitted(NAME, errno));
    }
    // Others of this user can reach the maker, and put another one in its place; not one that maps more than themselves.
    if nix::unistd::getuid() != uid || nix::unistd::getgid() != gid {
        return Err(StepError::NotInForce {
            layer: NAME,
            found: "the identity map is not in effect".to_owned(),
        });
    }
    Ok(changed(NAME, before, identity("user")))
}

/// How long the maker may take. Its user can stop or trace it, and then it would never come to its end.
const MOST: Duration = Duration::from_secs(2);

/// The process that made a user namespace and stopped there, so that the namespace stays until it is joined; none once it was
/// waited for, since its number may then be another's.
struct Maker(Option<Pid>);

impl Maker {
    /// Lets it make one in which `uid` and `gid` are themselves.
    fn start(uid: Uid, gid: Gid) -> Result<Self, Errno> {
        let this = getpid();
        let pid = sys::child(|| match make_and_stop(this, uid, gid) {
            Ok(()) => 0,
            Err(errno) => u8::try_from(sys::errno_number(errno)).unwrap_or(u8::MAX),
        })?;
        let mut maker = Self(Some(pid));
        match change_of(pid, WaitPidFlag::WUNTRACED)? {
            WaitStatus::Stopped(..) => return Ok(maker),
            WaitStatus::Exited(_, code @ 1..) => {
                maker.0 = None;
                return Err(Errno::from_raw(code));
            }
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => maker.0 = None,
            WaitStatus::PtraceEvent(..)
            | WaitStatus::PtraceSyscall(_)
            | WaitStatus::Continued(_)
            | WaitStatus::StillAlive => {}
        }
        // Somebody killed it, or let it go on.
        Err(Errno::EINTR)
    }

    /// Makes its namespace this process's own. Not by a path: `/proc` may be that of another PID namespace.
    fn join(self) -> Result<(), Errno> {
        setns(sys::pidfd(self.0.ok_or(Errno::ESRCH)?)?, CloneFlags::CLONE_NEWUSER)
    }
}

impl Drop for Maker {
    fn drop(&mut self) {
        // A launcher's filter may forbid it; then it ends when this process does.
        if let Some(pid) = self.0
            && kill(pid, Signal::SIGKILL).is_ok()
        {
            // It fails only where somebody else traces it, and will not let it go.
            let _ = change_of(pid, WaitPidFlag::empty());
        }
    }
}

/// Waits until that child has ended; with WUNTRACED, or stopped.
fn change_of(child: Pid, flags: WaitPidFlag) -> Result<WaitStatus, Errno> {
    let begun = Instant::now();
    loop {
        let status = waitpid(child, Some(flags | WaitPidFlag::WNOHANG))?;
        if status != WaitStatus::StillAlive {
            return Ok(status);
        }
        if begun.elapsed() > MOST {
            return Err(Errno::ETIMEDOUT);
        }
        // It takes a few of these.
        thread::sleep(Duration::from_micros(50));
    }
}

/// The maker's life. Its user can do what it likes to it, so it has nothing: no descriptor, and memory in which there is no secret
/// yet but where things are (it is a copy: addresses and the stack's guard are those of this process). Its map has its own user
/// and group, which an ordinary user may write once it has given up `setgroups`.
fn make_and_stop(parent: Pid, uid: Uid, gid: Gid) -> Result<(), Errno> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    // A parent that died before that line would leave it stopped for ever.
    if getppid() != parent {
        return Err(Errno::ESRCH);
    }
    sys::close_range(0, u32::MAX)?;
    prctl::set_dumpable(true)?;
    unshare(CloneFlags::CLONE_NEWUSER)?;
    write("/proc/self/setgroups", "deny")?;
    write("/proc/self/uid_map", &format!("{uid} {uid} 1"))?;
    write("/proc/self/gid_map", &format!("{gid} {gid} 1"))?;
    raise(Signal::SIGSTOP)
}

/// The other namespaces, each on its own.
pub(crate) fn others() -> Vec<Layer> {
    let before = OTHERS.map(|(_, _, file)| identity(file));
    let mut layers = Vec::new();
    for ((name, flag, file), before) in OTHERS.into_iter().zip(before) {
        layers.push(match unshare(flag) {
            Ok(()) => changed(name, before, identity(file)),
            Err(errno) => not_permitted(name, errno),
        });
    }
    layers
}

/// The kernel's identity of one of our namespaces, where `/proc` shows it.
fn identity(file: &str) -> Option<u64> {
    stat(format!("/proc/self/ns/{file}").as_str())
        .ok()
        .map(|status| status.st_ino)
}

/// The layer of a namespace that is our own now.
fn changed(name: &'static str, before: Option<u64>, after: Option<u64>) -> Layer {
    let result = match (before, after) {
        (Some(before), Some(after)) if before == after => {
            Err(format!("the kernel agreed, but the namespace is still {after}"))
        }
        (_, Some(after)) => Ok(format!("own namespace {after}")),
        (_, None) => Ok("the kernel agreed; no /proc to read it back from".to_owned()),
    };
    Layer::where_permitted(name, result)
}

/// The layer of a namespace that the kernel, or the launcher's filter, did not give us.
fn not_permitted(name: &'static str, errno: Errno) -> Layer {
    Layer::where_permitted(name, Err(format!("not permitted: {errno}")))
}

/// The uid that stands for all unmapped ones.
fn overflow_uid() -> u32 {
    fs::read_to_string("/proc/sys/kernel/overflowuid")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(DEFAULT_OVERFLOW_UID)
}

/// Writes one of the files that define a user namespace, in one call.
fn write(path: &str, content: &str) -> Result<(), Errno> {
    fs::write(path, content).map_err(|error| error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw))
}
