//! Acts on file systems: looking paths up, creating names, changing what is mounted.

use nix::errno::Errno;
use std::ffi::CStr;

use super::Aim::Overlay;
use super::{Act, NULL, Targets, attempt, call, number, text};
use crate::sys::Argument;

/// A file that everybody may read.
const PASSWD: &CStr = c"/etc/passwd";

/// A name that is made and removed again where making it is possible.
const NAME: &CStr = c".mayfly-forbidden";

/// The acts.
pub(super) const ACTS: &[Act] = &[
    Act::new("open", "open /etc/passwd", |_| openat(PASSWD, libc::O_RDONLY)),
    Act::new("open-old", "open /etc/passwd with the old call", |_| {
        call(libc::SYS_open, [text(PASSWD), number(libc::O_RDONLY)])
    }),
    Act::new("openat2", "open /etc/passwd with the new call", |_| {
        let mut how = [0_u8; 24];
        call(
            libc::SYS_openat2,
            [
                number(libc::AT_FDCWD),
                text(PASSWD),
                Argument::Buffer(&mut how),
                number(24),
            ],
        )
    }),
    Act::new("open-root", "list the root directory", |_| {
        openat(c"/", libc::O_RDONLY | libc::O_DIRECTORY)
    }),
    Act::new("open-path", "get a handle on the root directory (O_PATH)", |_| {
        openat(c"/", libc::O_PATH)
    }),
    Act::new(
        "open-at-descriptor",
        "look a path up from an open descriptor",
        |targets| {
            call(
                libc::SYS_openat,
                [number(targets.any()), text(c".."), number(libc::O_RDONLY)],
            )
        },
    ),
    Act::new(
        "dup-log",
        "get another descriptor for what standard error goes to",
        |_| call(libc::SYS_fcntl, [number(2), number(libc::F_DUPFD_CLOEXEC), number(3)]),
    ),
    Act::new("open-by-handle", "open a file by its handle", |targets| {
        // A handle of no bytes: the kernel first asks whether we may.
        let mut handle = [0_u8; 16];
        call(
            libc::SYS_open_by_handle_at,
            [number(targets.any()), Argument::Buffer(&mut handle), NULL],
        )
    }),
    Act::new("create", "create a file", |_| {
        openat(NAME, libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL)?;
        call(libc::SYS_unlink, [text(NAME)])
    }),
    Act::new("create-nameless", "create a nameless file", |_| {
        openat(c"/tmp", libc::O_RDWR | libc::O_TMPFILE)
    }),
    Act::new("mkdir", "create a directory", |_| {
        call(libc::SYS_mkdir, [text(NAME), number(0o700)])?;
        call(libc::SYS_rmdir, [text(NAME)])
    }),
    Act::new("stat", "examine /etc/passwd", |_| stat(0)),
    Act::new(
        "stat-empty-path",
        "examine /etc/passwd in a call for descriptors",
        |_| stat(libc::AT_EMPTY_PATH),
    ),
    Act::new("readlink", "read the link /proc/self/exe", |_| {
        let mut target = [0_u8; 256];
        call(
            libc::SYS_readlink,
            [text(c"/proc/self/exe"), Argument::Buffer(&mut target), number(256)],
        )
    }),
    Act::new("chdir", "change the directory", |_| call(libc::SYS_chdir, [text(c"/")])),
    Act::on(Overlay, "link-overlay", "give the overlay a name", |targets| {
        call(
            libc::SYS_linkat,
            [
                Overlay.of(targets),
                text(c""),
                number(libc::AT_FDCWD),
                text(NAME),
                number(libc::AT_EMPTY_PATH),
            ],
        )?;
        call(libc::SYS_unlink, [text(NAME)])
    }),
    Act::on(
        Overlay,
        "link-overlay-proc",
        "give the overlay a name through /proc",
        link_through_proc,
    ),
    Act::new("memfd", "create an anonymous file", |_| {
        call(libc::SYS_memfd_create, [text(c"forbidden"), number(libc::MFD_CLOEXEC)])
    }),
    Act::new("chroot", "change the root", |_| call(libc::SYS_chroot, [text(c"/")])),
    Act::new("mount", "mount a file system", |_| {
        // No file system has this type, which the kernel finds out after having asked whether we may mount.
        call(
            libc::SYS_mount,
            [text(c"none"), text(c"/"), text(c"no-such-type"), NULL, NULL],
        )
    }),
    Act::new("fsopen", "make a file system to mount", |_| {
        call(libc::SYS_fsopen, [text(c"tmpfs"), NULL])
    }),
    Act::new("open-tree", "take a copy of the mounts", |_| {
        call(libc::SYS_open_tree, [number(libc::AT_FDCWD), text(c"/"), number(1)])
    }),
    Act::new("inotify", "watch files", |_| call(libc::SYS_inotify_init1, [NULL])),
    Act::new("fanotify", "watch file systems", |_| {
        call(libc::SYS_fanotify_init, [NULL, NULL])
    }),
];

/// Examines the file that everybody may read.
fn stat(flags: i32) -> Result<(), Errno> {
    let mut status = [0_u8; 256];
    let status = Argument::Buffer(&mut status);
    call(
        libc::SYS_newfstatat,
        [number(libc::AT_FDCWD), text(PASSWD), status, number(flags)],
    )
}

/// Opens a path.
fn openat(path: &CStr, flags: libc::c_int) -> Result<(), Errno> {
    attempt(
        libc::SYS_openat,
        [
            number(libc::AT_FDCWD),
            text(path),
            number(flags | libc::O_CLOEXEC),
            number(0o600),
        ],
    )
    .map(drop)
}

/// The other way that `linkat` knows for a descriptor.
fn link_through_proc(targets: &Targets) -> Result<(), Errno> {
    let path = format!("/proc/self/fd/{}\0", Overlay.number(targets));
    call(
        libc::SYS_linkat,
        [
            number(libc::AT_FDCWD),
            Argument::Bytes(path.as_bytes()),
            number(libc::AT_FDCWD),
            text(NAME),
            number(libc::AT_SYMLINK_FOLLOW),
        ],
    )?;
    call(libc::SYS_unlink, [text(NAME)])
}
