//! Acts on the open descriptors: using the base for more than reading, the overlay for more than reading, writing and punching.
//!
//! Lengths are 0 where that is still the act, so that nothing changes.

use super::{Act, NULL, call, number, overlay};
use crate::sys::Argument;

/// The acts.
pub(super) const ACTS: &[Act] = &[
    Act::new("write-base", "write the base", |targets| {
        call(
            libc::SYS_pwrite64,
            [number(targets.base), Argument::Bytes(&[]), NULL, NULL],
        )
    }),
    Act::new("writev-base", "write the base from several pieces", |targets| {
        call(libc::SYS_pwritev, [number(targets.base), NULL, NULL, NULL, NULL])
    }),
    Act::new("append-base", "write the base at its position", |targets| {
        call(libc::SYS_write, [number(targets.base), Argument::Bytes(&[]), NULL])
    }),
    Act::new("truncate-base", "change the base's length", |targets| {
        call(libc::SYS_ftruncate, [number(targets.base), number(-1)])
    }),
    Act::new("punch-base", "punch a hole into the base", |targets| {
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        call(libc::SYS_fallocate, [number(targets.base), number(mode), NULL, NULL])
    }),
    Act::new("read-position", "move the position of the base", |targets| {
        call(libc::SYS_lseek, [number(targets.base), NULL, number(libc::SEEK_CUR)])
    }),
    Act::new("lock-base", "lock the base", |targets| {
        call(
            libc::SYS_flock,
            [number(targets.base), number(libc::LOCK_SH | libc::LOCK_NB)],
        )
    }),
    Act::new("sync-base", "flush the base's file system", |targets| {
        call(libc::SYS_fsync, [number(targets.base)])
    }),
    Act::new("ioctl-base", "control the base's file system", |targets| {
        // FS_IOC_GETFLAGS: it only reads, and shows that ioctls reach the file system.
        let mut flags = [0_u8; 8];
        call(
            libc::SYS_ioctl,
            [
                number(targets.base),
                Argument::Number(0x8008_6601),
                Argument::Buffer(&mut flags),
            ],
        )
    }),
    Act::new("dup-base", "duplicate the base's descriptor", |targets| {
        call(libc::SYS_dup, [number(targets.base)])
    }),
    Act::on_overlay("truncate-overlay", "change the overlay's length", |targets| {
        call(libc::SYS_ftruncate, [overlay(targets), number(-1)])
    }),
    Act::on_overlay("allocate-overlay", "reserve space without counting it", |targets| {
        call(libc::SYS_fallocate, [overlay(targets), NULL, NULL, number(1)])
    }),
    Act::on_overlay("collapse-overlay", "move the overlay's contents", |targets| {
        call(
            libc::SYS_fallocate,
            [
                overlay(targets),
                number(libc::FALLOC_FL_COLLAPSE_RANGE),
                NULL,
                number(4096),
            ],
        )
    }),
    Act::on_overlay("chmod-overlay", "change the overlay's mode", |targets| {
        call(libc::SYS_fchmod, [overlay(targets), NULL])
    }),
    Act::on_overlay("chown-overlay", "change the overlay's owner", |targets| {
        call(libc::SYS_fchown, [overlay(targets), number(-1), number(-1)])
    }),
    Act::on_overlay("dup-overlay", "duplicate the overlay's descriptor", |targets| {
        call(libc::SYS_dup, [overlay(targets)])
    }),
    Act::on_overlay(
        "fcntl-dup-overlay",
        "duplicate the overlay's descriptor with fcntl",
        |targets| call(libc::SYS_fcntl, [overlay(targets), number(libc::F_DUPFD), number(3)]),
    ),
    Act::on_overlay("write-overlay", "write the overlay at its position", |targets| {
        call(libc::SYS_write, [overlay(targets), Argument::Bytes(&[]), NULL])
    }),
    Act::on_overlay(
        "copy-range",
        "copy the base into the overlay inside the kernel",
        |targets| {
            call(
                libc::SYS_copy_file_range,
                [number(targets.base), NULL, overlay(targets), NULL, NULL, NULL],
            )
        },
    ),
    Act::on_overlay("sendfile", "send the base into the overlay", |targets| {
        call(libc::SYS_sendfile, [overlay(targets), number(targets.base), NULL, NULL])
    }),
    Act::on_overlay(
        "close-overlay",
        "close the overlay so that its number can mean something else",
        |targets| call(libc::SYS_close, [overlay(targets)]),
    ),
];
