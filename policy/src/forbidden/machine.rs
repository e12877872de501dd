//! Acts on what only a VMM has: KVM, taps, connections to backends. Some are another thread's work and forbidden to the rest.

use nix::errno::Errno;

use super::Aim::{Backend, Console, Kernel, Tap, Vcpu, Vm};
use super::{Act, Aim, NULL, Targets, attempt, call, number, text};
use crate::sys::Argument;

/// What no thread of a VMM may do, beside [`super::all`].
const NOBODY: &[Act] = &[
    Act::new("open-kvm", "open /dev/kvm anew", |_| open(c"/dev/kvm")),
    Act::new("open-tun", "open a new tap", |_| open(c"/dev/net/tun")),
    Act::on(Vm, "create-vcpu", "add a processor to the virtual machine", |targets| {
        // Far more than there can be.
        ioctl(Vm, targets, 0xae41, number(1 << 20))
    }),
    Act::on(Vm, "guest-memory", "change which memory the guest has", |targets| {
        // A slot that does not exist, of no bytes.
        let mut region = [0_u8; 32];
        region[0] = 0xff;
        ioctl(Vm, targets, 0x4020_ae46, Argument::Buffer(&mut region))
    }),
    Act::on(Vm, "create-device", "make KVM create a device", |targets| {
        let mut device = [0xff_u8; 12];
        ioctl(Vm, targets, 0xc00c_aee0, Argument::Buffer(&mut device))
    }),
    Act::on(Vm, "irqfd", "connect an eventfd with an interrupt", |targets| {
        // Descriptor -1.
        let mut irqfd = [0_u8; 32];
        irqfd[..4].fill(0xff);
        ioctl(Vm, targets, 0x4020_ae76, Argument::Buffer(&mut irqfd))
    }),
    Act::on(Vm, "ask-kvm", "ask KVM what it can do", |targets| {
        ioctl(Vm, targets, 0xae03, NULL)
    }),
    Act::on(Vcpu, "read-registers", "read a processor's registers", |targets| {
        let mut registers = [0_u8; 144];
        ioctl(Vcpu, targets, 0x8090_ae81, Argument::Buffer(&mut registers))
    }),
    Act::on(Vcpu, "map-vcpu", "map a processor's shared page", |targets| {
        let length = number(4096);
        let access = number(libc::PROT_READ | libc::PROT_WRITE);
        let shared = number(libc::MAP_SHARED);
        call(libc::SYS_mmap, [NULL, length, access, shared, Vcpu.of(targets), NULL])
    }),
    Act::on(Kernel, "read-kernel", "read the kernel's file again", |targets| {
        let mut byte = [0];
        call(
            libc::SYS_pread64,
            [Kernel.of(targets), Argument::Buffer(&mut byte), number(1), NULL],
        )
    }),
    Act::on(Backend, "shut-backend", "shut a backend's connection down", |targets| {
        // No such way.
        call(libc::SYS_shutdown, [Backend.of(targets), number(99)])
    }),
    Act::on(
        Backend,
        "close-backend",
        "close a connection so that its number can mean something else",
        |targets| call(libc::SYS_close, [Backend.of(targets)]),
    ),
    Act::on(Tap, "configure-tap", "change what a tap is", |targets| {
        // TUNGETIFF: it only reads, and shows that ioctls reach the tap.
        let mut request = [0_u8; 40];
        ioctl(Tap, targets, 0x8004_54d2, Argument::Buffer(&mut request))
    }),
];

/// What one kind of thread may do and the others may not.
const ONLY: &[(&str, Act)] = &[
    (
        "control",
        Act::on(
            Backend,
            "tell-backend",
            "send a message to a disk's backend",
            |targets| {
                // No message: the kernel reads its head first.
                call(libc::SYS_sendmsg, [Backend.of(targets), NULL, NULL])
            },
        ),
    ),
    (
        "control",
        Act::on(
            Backend,
            "hear-backend",
            "take a message from a disk's backend",
            |targets| call(libc::SYS_recvmsg, [Backend.of(targets), NULL, NULL]),
        ),
    ),
    (
        "control",
        Act::new("entropy", "take entropy from the host", |_| {
            let mut byte = [0];
            let flags = number(i64::from(libc::GRND_NONBLOCK));
            call(libc::SYS_getrandom, [Argument::Buffer(&mut byte), number(1), flags])
        }),
    ),
    (
        "control",
        Act::on(Console, "read-console", "read what is typed", |targets| {
            call(libc::SYS_read, [Console.of(targets), NULL, NULL])
        }),
    ),
    (
        "vcpu",
        Act::on(Vcpu, "run-vcpu", "run the guest", |targets| {
            ioctl(Vcpu, targets, 0xae80, NULL)
        }),
    ),
    (
        "net",
        Act::on(Tap, "send-frame", "send a frame", |targets| {
            call(libc::SYS_write, [Tap.of(targets), NULL, NULL])
        }),
    ),
    (
        "net",
        Act::on(Tap, "take-frame", "take a frame", |targets| {
            call(libc::SYS_read, [Tap.of(targets), NULL, NULL])
        }),
    ),
];

/// What a thread does when it gets its own filter, and never again.
const ONCE: Act = Act::new("another-filter", "load another filter", |_| {
    let load = number(i64::from(libc::SECCOMP_SET_MODE_FILTER));
    call(libc::SYS_seccomp, [load, NULL, NULL])
});

/// Every act that is forbidden to the kind of thread of that name ([`Role::NAMES`](crate::seccomp::vmm::Role::NAMES)) under its own
/// filter; without a name, to all of them under the process's filter alone.
#[must_use]
pub fn acts(thread: Option<&str>) -> Vec<Act> {
    let mut acts = [super::all(), NOBODY].concat();
    if let Some(thread) = thread {
        acts.push(ONCE);
        acts.extend(ONLY.iter().filter(|(who, _)| *who != thread).map(|(_, act)| *act));
    }
    acts
}

/// Opens a device.
fn open(path: &std::ffi::CStr) -> Result<(), Errno> {
    let flags = number(libc::O_RDWR | libc::O_CLOEXEC);
    attempt(libc::SYS_openat, [number(libc::AT_FDCWD), text(path), flags]).map(drop)
}

/// Asks a descriptor for something.
fn ioctl(aim: Aim, targets: &Targets, request: i64, argument: Argument<'_>) -> Result<(), Errno> {
    call(libc::SYS_ioctl, [aim.of(targets), Argument::Number(request), argument])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seccomp::vmm::Role;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique() {
        let acts: Vec<Act> = Role::NAMES.iter().flat_map(|thread| acts(Some(thread))).collect();
        let different: BTreeSet<&str> = acts.iter().map(|act| act.name).collect();

        assert_eq!(
            different.len(),
            super::super::all().len() + NOBODY.len() + ONLY.len() + 1
        );
    }

    #[test]
    fn each_kind_of_thread_is_forbidden_the_others_work() {
        for (who, act) in ONLY {
            assert!(Role::NAMES.contains(who), "{who}");
            let forbidden = |thread| acts(thread).iter().any(|forbidden| forbidden.name == act.name);
            for thread in Role::NAMES {
                assert_eq!(forbidden(Some(thread)), thread != *who, "{} for {thread}", act.name);
            }
            assert!(!forbidden(None));
        }
    }
}
