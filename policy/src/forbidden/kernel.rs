//! Acts on the kernel itself, and on parts of it that have been broken into before.
//!
//! Those that would change the machine are asked with arguments that the kernel refuses after having asked whether we may.

use nix::errno::Errno;

use super::{Act, NULL, call, number, text};
use crate::sys::Argument;

/// Room for whatever a call fills in.
const ROOM: usize = 256;

/// The acts.
pub(super) const ACTS: &[Act] = &[
    Act::new("io-uring", "make an io_uring", |_| {
        let mut parameters = [0_u8; ROOM];
        call(libc::SYS_io_uring_setup, [number(1), Argument::Buffer(&mut parameters)])
    }),
    Act::new("aio", "make a context for asynchronous I/O", |_| {
        let mut context = [0_u8; 8];
        call(libc::SYS_io_setup, [number(1), Argument::Buffer(&mut context)])
    }),
    // Flag 1: faults of user mode only, which an ordinary user may handle.
    Act::new("userfaultfd", "handle page faults", |_| {
        call(libc::SYS_userfaultfd, [number(1)])
    }),
    Act::new("bpf", "load a program into the kernel", |_| {
        let mut attributes = [0_u8; ROOM];
        call(libc::SYS_bpf, [NULL, Argument::Buffer(&mut attributes), number(48)])
    }),
    Act::new("perf", "count events", |_| {
        call(libc::SYS_perf_event_open, perf_arguments(&software_event()))
    }),
    Act::new("keyctl", "use the kernel's keys", |_| {
        // Operation 0: the id of a keyring, here the session's.
        call(libc::SYS_keyctl, [NULL, number(-3), NULL])
    }),
    Act::new("add-key", "add a key", |_| {
        // Into the keyring of this thread, which ends with it.
        let (kind, name) = (text(c"user"), text(c"forbidden"));
        call(
            libc::SYS_add_key,
            [kind, name, Argument::Bytes(b"x"), number(1), number(-1)],
        )
    }),
    Act::new("init-module", "load a module", |_| {
        call(libc::SYS_init_module, [NULL, NULL, text(c"")])
    }),
    Act::new("finit-module", "load a module from a descriptor", |_| {
        call(libc::SYS_finit_module, [number(-1), text(c""), NULL])
    }),
    Act::new("delete-module", "remove a module", |_| {
        call(
            libc::SYS_delete_module,
            [text(c"no-such-module"), number(libc::O_NONBLOCK)],
        )
    }),
    Act::new("kexec", "load another kernel", |_| {
        // No such flag.
        call(libc::SYS_kexec_load, [NULL, number(1), NULL, number(0x4000)])
    }),
    // No such magic numbers.
    Act::new("reboot", "reboot", |_| call(libc::SYS_reboot, [NULL, NULL, NULL, NULL])),
    Act::new("swapon", "swap to a file", |_| {
        call(libc::SYS_swapon, [text(c""), NULL])
    }),
    Act::new("quotactl", "change quotas", |_| {
        // No such command.
        call(libc::SYS_quotactl, [Argument::Number(0x7fff_0000), NULL, NULL, NULL])
    }),
    // Neither a time nor a zone.
    Act::new("settimeofday", "set the clock", |_| {
        call(libc::SYS_settimeofday, [NULL, NULL])
    }),
    Act::new("sethostname", "name the machine", |_| {
        // Longer than any name may be.
        call(libc::SYS_sethostname, [NULL, number(65)])
    }),
    // Action 10: how large the log is.
    Act::new("syslog", "read the kernel's log", |_| {
        call(libc::SYS_syslog, [number(10), NULL, NULL])
    }),
    Act::new("iopl", "use I/O ports", |_| call(libc::SYS_iopl, [number(3)])),
    Act::new("ldt", "read the own segment table", |_| {
        let mut table = [0_u8; ROOM];
        call(libc::SYS_modify_ldt, [NULL, Argument::Buffer(&mut table), number(8)])
    }),
    Act::new("x32", "make a call of the x32 interface", |_| {
        call(X32 | libc::SYS_getpid, [])
    }),
    Act::new("tiocsti-0", "type into the terminal behind standard input", |_| {
        type_into(0)
    }),
    Act::new("tiocsti-1", "type into the terminal behind standard output", |_| {
        type_into(1)
    }),
    Act::new("tiocsti-2", "type into the terminal behind standard error", |_| {
        type_into(2)
    }),
];

/// The bit that marks calls of the x32 interface, which filters forget.
const X32: libc::c_long = 0x4000_0000;

/// Pushes back a character that is nowhere: the kernel asks first whether we may.
fn type_into(stream: i32) -> Result<(), Errno> {
    let request = i64::try_from(libc::TIOCSTI).expect("an ioctl number has 32 bits");
    call(libc::SYS_ioctl, [number(stream), Argument::Number(request), NULL])
}

/// `struct perf_event_attr` of a software event that never happens (type 1, config 9), of user mode only.
fn software_event() -> [u8; 128] {
    let mut attributes = [0_u8; 128];
    attributes[0] = 1;
    attributes[4] = 128;
    attributes[8] = 9;
    // exclude_kernel and exclude_hv: bits 5 and 6 of the flags.
    attributes[40] = 0b0110_0000;
    attributes
}

/// Of this process, on any processor, in no group.
const fn perf_arguments(attributes: &[u8]) -> [Argument<'_>; 5] {
    [
        Argument::Bytes(attributes),
        NULL,
        Argument::Number(-1),
        Argument::Number(-1),
        NULL,
    ]
}
