//! Acts on memory: making code, mapping the disk, making memory that others can have.

use nix::errno::Errno;

use super::Aim::{Base, Overlay};
use super::{Act, NULL, attempt, call, number};
use crate::sys::Argument;

/// One page.
const LENGTH: i64 = 4096;

/// Anonymous memory.
const ANONYMOUS: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;

/// The acts.
pub(super) const ACTS: &[Act] = &[
    Act::new("map-code", "map memory that can be executed", |_| {
        map(
            libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC,
            ANONYMOUS,
            number(-1),
        )
        .map(drop)
    }),
    Act::new("make-code", "make written memory executable", |_| {
        let page = map(libc::PROT_READ | libc::PROT_WRITE, ANONYMOUS, number(-1))?;
        protect(libc::SYS_mprotect, page)
    }),
    Act::new("make-code-key", "make written memory executable, with a key", |_| {
        let page = map(libc::PROT_READ | libc::PROT_WRITE, ANONYMOUS, number(-1))?;
        protect(libc::SYS_pkey_mprotect, page)
    }),
    Act::on(Base, "map-base", "map the base", |targets| {
        map(
            libc::PROT_READ,
            libc::MAP_SHARED | libc::MAP_NORESERVE,
            Base.of(targets),
        )
        .map(drop)
    }),
    Act::on(Overlay, "map-overlay", "map the overlay", |targets| {
        map(
            libc::PROT_READ,
            libc::MAP_SHARED | libc::MAP_NORESERVE,
            Overlay.of(targets),
        )
        .map(drop)
    }),
    Act::new("memfd-secret", "make a secret file", |_| {
        call(libc::SYS_memfd_secret, [NULL])
    }),
    Act::new("shared-memory", "make System V shared memory", |_| {
        let key = number(libc::IPC_PRIVATE);
        let segment = attempt(libc::SYS_shmget, [key, number(LENGTH), number(libc::IPC_CREAT | 0o600)])?;
        call(
            libc::SYS_shmctl,
            [Argument::Number(segment), number(libc::IPC_RMID), NULL],
        )
    }),
    Act::new("lock-memory", "lock all memory", |_| {
        call(libc::SYS_mlockall, [number(libc::MCL_FUTURE)])
    }),
];

/// Maps one page.
fn map(protection: i32, flags: i32, descriptor: Argument<'_>) -> Result<i64, Errno> {
    attempt(
        libc::SYS_mmap,
        [
            NULL,
            number(LENGTH),
            number(protection),
            number(flags),
            descriptor,
            NULL,
        ],
    )
}

/// Makes a page of [`map`] executable and no longer writable.
fn protect(call_number: libc::c_long, page: i64) -> Result<(), Errno> {
    let protection = number(libc::PROT_READ | libc::PROT_EXEC);
    call(
        call_number,
        [Argument::Number(page), number(LENGTH), protection, number(-1)],
    )
}
