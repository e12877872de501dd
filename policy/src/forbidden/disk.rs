//! Acts on the open descriptors: using the base for more than reading, the overlay for more than reading, writing and punching.
//!
//! Lengths are 0 where that is still the act, so that nothing changes.

use super::Aim::{Base, Output, Overlay};
use super::{Act, NULL, call, number};
use crate::sys::Argument;

/// The acts.
pub(super) const ACTS: &[Act] = &[
    Act::on(Base, "write-base", "write the base", |targets| {
        call(libc::SYS_pwrite64, [Base.of(targets), Argument::Bytes(&[]), NULL, NULL])
    }),
    Act::on(Base, "writev-base", "write the base from several pieces", |targets| {
        call(libc::SYS_pwritev, [Base.of(targets), NULL, NULL, NULL, NULL])
    }),
    Act::on(Base, "append-base", "write the base at its position", |targets| {
        call(libc::SYS_write, [Base.of(targets), Argument::Bytes(&[]), NULL])
    }),
    Act::on(Base, "truncate-base", "change the base's length", |targets| {
        call(libc::SYS_ftruncate, [Base.of(targets), number(-1)])
    }),
    Act::on(Base, "punch-base", "punch a hole into the base", |targets| {
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        call(libc::SYS_fallocate, [Base.of(targets), number(mode), NULL, NULL])
    }),
    Act::on(Base, "read-position", "move the position of the base", |targets| {
        call(libc::SYS_lseek, [Base.of(targets), NULL, number(libc::SEEK_CUR)])
    }),
    Act::on(Base, "lock-base", "lock the base", |targets| {
        call(
            libc::SYS_flock,
            [Base.of(targets), number(libc::LOCK_SH | libc::LOCK_NB)],
        )
    }),
    Act::on(Base, "sync-base", "flush the base's file system", |targets| {
        call(libc::SYS_fsync, [Base.of(targets)])
    }),
    Act::on(Base, "ioctl-base", "control the base's file system", |targets| {
        // FS_IOC_GETFLAGS: it only reads, and shows that ioctls reach the file system.
        let mut flags = [0_u8; 8];
        call(
            libc::SYS_ioctl,
            [
                Base.of(targets),
                Argument::Number(0x8008_6601),
                Argument::Buffer(&mut flags),
            ],
        )
    }),
    Act::on(Base, "dup-base", "duplicate the base's descriptor", |targets| {
        call(libc::SYS_dup, [Base.of(targets)])
    }),
    Act::on(Overlay, "truncate-overlay", "change the overlay's length", |targets| {
        call(libc::SYS_ftruncate, [Overlay.of(targets), number(-1)])
    }),
    Act::on(
        Overlay,
        "allocate-overlay",
        "reserve space without counting it",
        |targets| call(libc::SYS_fallocate, [Overlay.of(targets), NULL, NULL, number(1)]),
    ),
    Act::on(Overlay, "collapse-overlay", "move the overlay's contents", |targets| {
        call(
            libc::SYS_fallocate,
            [
                Overlay.of(targets),
                number(libc::FALLOC_FL_COLLAPSE_RANGE),
                NULL,
                number(4096),
            ],
        )
    }),
    Act::on(Overlay, "chmod-overlay", "change the overlay's mode", |targets| {
        call(libc::SYS_fchmod, [Overlay.of(targets), NULL])
    }),
    Act::on(Overlay, "chown-overlay", "change the overlay's owner", |targets| {
        call(libc::SYS_fchown, [Overlay.of(targets), number(-1), number(-1)])
    }),
    Act::on(
        Overlay,
        "dup-overlay",
        "duplicate the overlay's descriptor",
        |targets| call(libc::SYS_dup, [Overlay.of(targets)]),
    ),
    Act::on(
        Overlay,
        "fcntl-dup-overlay",
        "duplicate the overlay's descriptor with fcntl",
        |targets| call(libc::SYS_fcntl, [Overlay.of(targets), number(libc::F_DUPFD), number(3)]),
    ),
    Act::on(
        Overlay,
        "write-overlay",
        "write the overlay at its position",
        |targets| call(libc::SYS_write, [Overlay.of(targets), Argument::Bytes(&[]), NULL]),
    ),
    Act::on(
        Overlay,
        "copy-range",
        "copy the base into the overlay inside the kernel",
        |targets| {
            call(
                libc::SYS_copy_file_range,
                [Base.of(targets), NULL, Overlay.of(targets), NULL, NULL, NULL],
            )
        },
    ),
    Act::on(Overlay, "sendfile", "send the base into the overlay", |targets| {
        call(libc::SYS_sendfile, [Overlay.of(targets), Base.of(targets), NULL, NULL])
    }),
    Act::on(
        Overlay,
        "close-overlay",
        "close the overlay so that its number can mean something else",
        |targets| call(libc::SYS_close, [Overlay.of(targets)]),
    ),
    Act::on(
        Output,
        "log-as-output",
        "make what standard error goes to the output of a save",
        |targets| call(libc::SYS_dup3, [number(2), Output.of(targets), number(libc::O_CLOEXEC)]),
    ),
];
