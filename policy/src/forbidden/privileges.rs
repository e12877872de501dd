//! Acts that would take back what the process gave up.

use super::{Act, NULL, call, number};
use crate::sys::Argument;

/// The acts.
pub(super) const ACTS: &[Act] = &[
    Act::new("setuid", "become uid 0", |_| call(libc::SYS_setuid, [NULL])),
    Act::new("setgid", "become gid 0", |_| call(libc::SYS_setgid, [NULL])),
    Act::new("setgroups", "join a group", |_| call(libc::SYS_setgroups, [NULL, NULL])),
    Act::new("capset", "change the capability sets", |_| {
        // Version 3, the own process; all sets empty, which everybody may ask for.
        let header = [0x22, 0x05, 0x08, 0x20, 0, 0, 0, 0];
        call(libc::SYS_capset, [Argument::Bytes(&header), Argument::Bytes(&[0; 24])])
    }),
    Act::new("setrlimit", "change a limit", |_| {
        call(
            libc::SYS_setrlimit,
            [Argument::Number(libc::RLIMIT_CORE.into()), Argument::Bytes(&[0; 16])],
        )
    }),
    Act::new("dumpable", "let others inspect the process", |_| {
        prctl(libc::PR_SET_DUMPABLE, 1)
    }),
    Act::new("parent-death", "outlive the parent", |_| {
        prctl(libc::PR_SET_PDEATHSIG, 0)
    }),
    Act::new("new-privileges", "allow new privileges", |_| {
        prctl(libc::PR_SET_NO_NEW_PRIVS, 0)
    }),
    Act::new("keep-capabilities", "keep capabilities over a change of user", |_| {
        prctl(libc::PR_SET_KEEPCAPS, 0)
    }),
    Act::new("ptracer", "choose who may trace the process", |_| {
        prctl(libc::PR_SET_PTRACER, 0)
    }),
    Act::new("filter", "talk to seccomp", |_| {
        // Operation 2: asks whether an action is known.
        call(libc::SYS_seccomp, [number(2), NULL, Argument::Bytes(&[0; 4])])
    }),
    Act::new("landlock", "make landlock rules", |_| {
        // Flag 1: asks for the version.
        call(libc::SYS_landlock_create_ruleset, [NULL, NULL, number(1)])
    }),
    Act::new("unshare-user", "make a user namespace", |_| {
        call(libc::SYS_unshare, [number(libc::CLONE_NEWUSER)])
    }),
    Act::new("unshare-mount", "make a mount namespace", |_| {
        call(libc::SYS_unshare, [number(libc::CLONE_NEWNS)])
    }),
    Act::new("setns", "join a namespace", |targets| {
        call(libc::SYS_setns, [number(targets.any()), NULL])
    }),
    Act::new("personality", "change the personality", |_| {
        // All bits: asks for the present one.
        call(libc::SYS_personality, [Argument::Number(0xffff_ffff)])
    }),
    Act::new("umask", "change the umask", |_| call(libc::SYS_umask, [number(0o077)])),
];

/// A prctl with a number.
fn prctl(option: libc::c_int, value: i64) -> Result<(), nix::errno::Errno> {
    call(libc::SYS_prctl, [number(option), number(value), NULL, NULL, NULL])
}
