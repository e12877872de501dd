//! What each kind of thread may do, and that the common filter allows no more than what one of them does.

use super::{KVM_RUN, Role, VmmDescriptors, to_markdown};
use crate::seccomp::Filter;
use crate::seccomp::tests::machine::{Verdict, X86_64, verdict_on};

const CONSOLE_IN: u64 = 3;
const DISK: u64 = 5;
const OTHER_DISK: u64 = 6;
const TAP: u64 = 7;
const OTHER_TAP: u64 = 10;
const VCPU: u64 = 8;
const OTHER_VCPU: u64 = 9;
/// An eventfd, say.
const OTHER: u64 = 30;

const ROLES: [Role; 3] = [Role::Control, Role::Vcpu { vcpu: 8 }, Role::Net { tap: 7 }];

fn descriptors() -> VmmDescriptors {
    VmmDescriptors {
        disks: vec![5, 6],
        taps: vec![7, 10],
        console_in: 3,
        vcpus: vec![8, 9],
    }
}

fn common(call: i64, arguments: [u64; 6]) -> Verdict {
    verdict_on(&descriptors().common_filter(), X86_64, call, arguments)
}

fn own(role: Role, call: i64, arguments: [u64; 6]) -> Verdict {
    verdict_on(&descriptors().filter(role), X86_64, call, arguments)
}

/// Which of the three kinds may make the call.
fn who_may(call: i64, arguments: [u64; 6]) -> [bool; 3] {
    ROLES.map(|role| own(role, call, arguments) == Verdict::Allowed)
}

fn with(first: u64) -> [u64; 6] {
    [first, 0, 0, 0, 0, 0]
}

fn bits(value: i32) -> u64 {
    u64::from(value.cast_unsigned())
}

#[test]
fn every_kind_has_its_name() {
    assert_eq!(ROLES.map(Role::name), Role::NAMES);
}

#[test]
fn a_processor_runs_and_nothing_else_is_asked_of_kvm() {
    let ioctl = |fd, request| who_may(libc::SYS_ioctl, [fd, request, 0, 0, 0, 0]);

    assert_eq!(ioctl(VCPU, KVM_RUN), [false, true, false]);
    assert_eq!(ioctl(OTHER_VCPU, KVM_RUN), [false; 3], "not even another processor");
    for fd in 0..32 {
        for request in (0xae00..0xaf00).filter(|request| *request != KVM_RUN) {
            assert_eq!(ioctl(fd, request), [false; 3], "{fd} {request:#x}");
        }
    }
    assert_eq!(
        common(libc::SYS_ioctl, [OTHER_VCPU, KVM_RUN, 0, 0, 0, 0]),
        Verdict::Allowed
    );
    assert_eq!(common(libc::SYS_ioctl, [4, KVM_RUN, 0, 0, 0, 0]), Verdict::Killed);
}

#[test]
fn disks_are_spoken_to_by_the_control_thread_only() {
    for call in [libc::SYS_sendmsg, libc::SYS_recvmsg] {
        for disk in [DISK, OTHER_DISK] {
            assert_eq!(who_may(call, with(disk)), [true, false, false]);
        }
        assert_eq!(who_may(call, with(OTHER)), [false; 3]);
    }
    for call in [libc::SYS_read, libc::SYS_write] {
        assert_eq!(who_may(call, with(DISK)), [false; 3], "messages are whole");
    }
}

#[test]
fn without_disks_there_are_no_messages() {
    let none = VmmDescriptors {
        disks: Vec::new(),
        ..descriptors()
    };

    let verdict = verdict_on(&none.filter(Role::Control), X86_64, libc::SYS_sendmsg, with(DISK));

    assert_eq!(verdict, Verdict::Killed);
}

#[test]
fn every_shape_of_machine_has_filters() {
    for disks in [vec![], vec![5], vec![5, 6]] {
        for taps in [vec![], vec![7], vec![7, 10]] {
            let shape = VmmDescriptors {
                disks: disks.clone(),
                taps,
                ..descriptors()
            };
            let all = [shape.common_filter()]
                .into_iter()
                .chain(ROLES.map(|role| shape.filter(role)));
            for filter in all {
                let write = verdict_on(&filter, X86_64, libc::SYS_write, with(OTHER));
                assert_eq!(write, Verdict::Allowed, "{shape:?}");
            }
        }
    }
}

#[test]
fn a_tap_belongs_to_one_thread() {
    for call in [libc::SYS_read, libc::SYS_write] {
        assert_eq!(who_may(call, with(TAP)), [false, false, true]);
        assert_eq!(who_may(call, with(OTHER_TAP)), [false; 3], "not even another card's");
    }
}

#[test]
fn what_is_typed_is_read_by_the_control_thread_only_and_eventfds_by_nobody() {
    assert_eq!(who_may(libc::SYS_read, with(CONSOLE_IN)), [true, false, false]);
    assert_eq!(who_may(libc::SYS_read, with(OTHER)), [false; 3]);
}

#[test]
fn entropy_is_taken_by_the_control_thread_which_does_not_wait_for_it() {
    let entropy = |flags: u32| who_may(libc::SYS_getrandom, [0, 0, flags.into(), 0, 0, 0]);

    assert_eq!(entropy(libc::GRND_NONBLOCK), [true, false, false]);
    assert_eq!(entropy(0), [false; 3]);
    assert_eq!(entropy(libc::GRND_RANDOM), [false; 3]);
}

#[test]
fn everybody_wakes_everybody() {
    assert_eq!(who_may(libc::SYS_write, with(OTHER)), [true; 3]);
}

#[test]
fn a_filter_is_loaded_once_on_each_thread() {
    let set = u64::from(libc::SECCOMP_SET_MODE_FILTER);
    let seccomp = |operation, flags| [operation, flags, 0, 0, 0, 0];

    assert_eq!(common(libc::SYS_seccomp, seccomp(set, 0)), Verdict::Allowed);
    for flags in 1..64 {
        assert_eq!(common(libc::SYS_seccomp, seccomp(set, flags)), Verdict::Killed);
    }
    for operation in (0..8).filter(|operation| *operation != set) {
        assert_eq!(common(libc::SYS_seccomp, seccomp(operation, 0)), Verdict::Killed);
    }
    for role in ROLES {
        assert_eq!(own(role, libc::SYS_seccomp, seccomp(set, 0)), Verdict::Failed(1));
        assert_eq!(own(role, libc::SYS_seccomp, seccomp(2, 0)), Verdict::Killed);
    }
}

#[test]
fn the_common_filter_allows_what_somebody_needs_and_no_more() {
    let common = descriptors().common_filter();
    let own: Vec<_> = [
        Role::Control,
        Role::Vcpu { vcpu: 8 },
        Role::Vcpu { vcpu: 9 },
        Role::Net { tap: 7 },
        Role::Net { tap: 10 },
    ]
    .iter()
    .flat_map(|role| descriptors().filter(*role).rows().to_vec())
    .filter(|row| row.call.name != "seccomp")
    .collect();

    for row in common.rows().iter().filter(|row| row.call.name != "seccomp") {
        assert!(own.contains(row), "{row:?}");
    }
    for row in &own {
        let known = |known: &&crate::seccomp::Row| known.call == row.call;
        assert!(common.rows().iter().any(|row| known(&row)), "{row:?}");
    }
}

#[test]
fn no_call_makes_processes_files_sockets_or_code() {
    let filters: Vec<Filter> = ROLES.iter().map(|role| descriptors().filter(*role)).collect();
    for filter in filters.iter().chain([&descriptors().common_filter()]) {
        for call in [
            libc::SYS_clone,
            libc::SYS_clone3,
            libc::SYS_execve,
            libc::SYS_socket,
            libc::SYS_connect,
            libc::SYS_accept4,
            libc::SYS_memfd_create,
            libc::SYS_dup,
            libc::SYS_close,
            libc::SYS_kill,
            libc::SYS_tgkill,
            libc::SYS_ptrace,
            libc::SYS_pread64,
            libc::SYS_pwrite64,
            libc::SYS_fallocate,
        ] {
            assert_eq!(verdict_on(filter, X86_64, call, [0; 6]), Verdict::Killed, "{call}");
        }
        let shared = bits(libc::MAP_SHARED);
        assert_eq!(
            verdict_on(filter, X86_64, libc::SYS_mmap, [0, 4096, 3, shared, OTHER, 0]),
            Verdict::Killed
        );
        let private = bits(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        assert_eq!(
            verdict_on(filter, X86_64, libc::SYS_mmap, [0, 4096, 7, private, OTHER, 0]),
            Verdict::Killed
        );
    }
}

/// The kernel takes programs of 4,096 instructions, and 32,768 in all on one thread.
#[test]
fn the_largest_machine_fits() {
    let largest = VmmDescriptors {
        disks: (10..20).collect(),
        taps: (20..29).collect(),
        console_in: 3,
        vcpus: (100..355).collect(),
    };
    let count = |filter: Filter| filter.compile().unwrap().len();

    assert!(count(largest.common_filter()) <= 4096);
    for role in ROLES {
        assert!(count(largest.filter(role)) <= 1024);
    }
}

#[test]
fn the_documentation_shows_these_filters() {
    let documentation = include_str!("../../../../docs/sandbox.md");
    let (_, rest) = documentation.split_once("<!-- vmm filters: begin -->\n").unwrap();
    let (shown, _) = rest.split_once("<!-- vmm filters: end -->").unwrap();

    let tables = to_markdown(&descriptors());

    assert!(
        shown.trim() == tables.trim(),
        "put this into docs/sandbox.md:\n{tables}"
    );
}
