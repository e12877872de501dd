//! Namespaces: each tried on its own, each proved by the kernel's identity of it having changed.
//!
//! No PID namespace: after unsharing one, the process could start no threads. A launcher that wants one gives it with `clone3`.
//! The user namespace comes in `prepare`, because its maps can only be written while the process is dumpable.

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::stat;
use nix::unistd::{Gid, Uid};
use std::fs;

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
/// By identity, because SO_PEERCRED must show the own uid as itself. Tried in a process of its own first: some systems let one
/// enter a user namespace but not map it (Ubuntu's AppArmor restriction), and there is no way back out.
///
/// # Errors
///
/// It worked in the trial and then did not.
pub(crate) fn user(uid: Uid, gid: Gid) -> Result<Layer, StepError> {
    const NAME: &str = "user namespace";
    if uid.as_raw() == overflow_uid() {
        let why =
            format!("uid {uid} is what the kernel shows for every unmapped peer, which would look like ourselves");
        return Ok(Layer::where_permitted(NAME, Err(why)));
    }
    let trial = sys::in_child(|| match enter_mapped(uid, gid) {
        Ok(()) => 0,
        Err(errno) => u8::try_from(sys::errno_number(errno)).unwrap_or(u8::MAX),
    });
    match trial {
        Ok(0) => {}
        Ok(code) => return Ok(not_permitted(NAME, Errno::from_raw(code.into()))),
        Err(errno) => return Ok(not_permitted(NAME, errno)),
    }
    let before = identity("user");
    enter_mapped(uid, gid).map_err(StepError::system("enter a user namespace that a trial could enter"))?;
    if nix::unistd::getuid() != uid || nix::unistd::getgid() != gid {
        return Err(StepError::NotInForce {
            layer: NAME,
            found: "the identity map is not in effect".to_owned(),
        });
    }
    Ok(changed(NAME, before, identity("user")))
}

/// Enters a user namespace and maps the own user and group, which an ordinary user may once it has given up `setgroups`.
fn enter_mapped(uid: Uid, gid: Gid) -> Result<(), Errno> {
    unshare(CloneFlags::CLONE_NEWUSER)?;
    write("/proc/self/setgroups", "deny")?;
    write("/proc/self/uid_map", &format!("{uid} {uid} 1"))?;
    write("/proc/self/gid_map", &format!("{gid} {gid} 1"))
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

/// The layer of a namespace that was unshared.
fn changed(name: &'static str, before: Option<u64>, after: Option<u64>) -> Layer {
    let result = match (before, after) {
        (Some(before), Some(after)) if before == after => {
            Err(format!("unshare succeeded, but the namespace is still {after}"))
        }
        (_, Some(after)) => Ok(format!("own namespace {after}")),
        (_, None) => Ok("unshare succeeded; no /proc to read it back from".to_owned()),
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
