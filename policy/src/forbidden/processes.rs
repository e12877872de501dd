//! Acts on processes: becoming another program, making processes and threads, reaching into the parent.

use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use std::io::{IoSlice, IoSliceMut};

use super::{Act, NULL, Targets, attempt, call, number, text};
use crate::signals::exit_now;
use crate::sys::Argument;

/// An address in the first page, which no process has.
const NOWHERE: usize = 8;

/// The acts.
pub(super) const ACTS: &[Act] = &[
    // Without arguments and environment: the kernel supplies an empty argv[0].
    Act::new("execve", "become another program", |_| {
        call(libc::SYS_execve, [text(c"/bin/true"), NULL, NULL])
    }),
    Act::new("execveat", "become another program with the new call", |_| {
        call(
            libc::SYS_execveat,
            [number(libc::AT_FDCWD), text(c"/bin/true"), NULL, NULL, NULL],
        )
    }),
    Act::new("fork", "make a process", |_| fork()),
    Act::new("thread", "make a thread", |_| {
        let thread = std::thread::Builder::new().spawn(|| ()).map_err(|_| Errno::EAGAIN)?;
        thread.join().map_err(|_| Errno::EAGAIN)
    }),
    Act::new("ptrace", "trace the parent", |targets| {
        // Seizing does not stop it, and it is released when this process is thrown away.
        call(
            libc::SYS_ptrace,
            [number(libc::PTRACE_SEIZE), parent(targets), NULL, NULL],
        )
    }),
    Act::new("kill", "signal the parent", |targets| {
        call(libc::SYS_kill, [parent(targets), NULL])
    }),
    Act::new("read-parent", "read the parent's memory", |targets| {
        // Nothing is mapped there: the kernel asks first whether we may.
        let remote = RemoteIoVec { base: NOWHERE, len: 1 };
        process_vm_readv(targets.parent, &mut [IoSliceMut::new(&mut [0])], &[remote]).map(drop)
    }),
    Act::new("write-parent", "write the parent's memory", |targets| {
        let remote = RemoteIoVec { base: NOWHERE, len: 1 };
        process_vm_writev(targets.parent, &[IoSlice::new(&[0])], &[remote]).map(drop)
    }),
    Act::new("pidfd", "get a handle on the parent", |targets| {
        call(libc::SYS_pidfd_open, [parent(targets), NULL])
    }),
    Act::new("pidfd-getfd", "take a descriptor from the parent", |targets| {
        let pidfd = attempt(libc::SYS_pidfd_open, [parent(targets), NULL])?;
        call(libc::SYS_pidfd_getfd, [Argument::Number(pidfd), NULL, NULL])
    }),
    Act::new("kcmp", "compare the parent's descriptors with our own", |targets| {
        // Type 2: the same open files?
        call(
            libc::SYS_kcmp,
            [parent(targets), parent(targets), number(2), NULL, NULL],
        )
    }),
    Act::new("prlimit-parent", "read the parent's limits", |targets| {
        let mut limit = [0_u8; 16];
        call(
            libc::SYS_prlimit64,
            [
                parent(targets),
                Argument::Number(libc::RLIMIT_NOFILE.into()),
                NULL,
                Argument::Buffer(&mut limit),
            ],
        )
    }),
    Act::new("setsid", "leave the session", |_| {
        match call(libc::SYS_setsid, []) {
            // The leader of a process group may not: that is about who we are, not about what we may.
            Err(Errno::EPERM) => Err(Errno::EBUSY),
            other => other,
        }
    }),
    Act::new("priority", "change the own priority", |_| {
        call(libc::SYS_setpriority, [NULL, NULL, number(19)])
    }),
    Act::new("affinity", "choose the own processors", |_| {
        call(
            libc::SYS_sched_setaffinity,
            [NULL, number(8), Argument::Bytes(&[0xff; 8])],
        )
    }),
    Act::new("scheduler", "choose the own scheduling class", |_| {
        call(
            libc::SYS_sched_setscheduler,
            [NULL, number(libc::SCHED_OTHER), Argument::Bytes(&[0; 4])],
        )
    }),
];

/// The parent.
fn parent(targets: &Targets) -> Argument<'static> {
    number(targets.parent.as_raw())
}

/// A child that ends at once.
fn fork() -> Result<(), Errno> {
    if attempt(libc::SYS_fork, [])? == 0 {
        exit_now(0);
    }
    nix::sys::wait::wait().map(drop)
}
