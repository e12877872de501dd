//! The filter under attack, in a machine of our own instead of the kernel's, so that thousands of calls cost nothing.

mod border;
pub(super) mod machine;
mod save;

use machine::{Verdict, X86_64, verdict_on};

use super::c_library::CLibrary;
use super::helper::{HelperDescriptors, helper_filter, helper_filter_over};
use super::{Action, Argument, Call, Filter, FilterError, Row, Value};

const BASE: u64 = 3;
const OVERLAY: u64 = 4;
const LISTENER: u64 = 5;
const CONTROL: u64 = 6;
const CONTROL_LISTENER: u64 = 7;
const OTHER: u64 = 8;
const SPARE: u64 = 9;
const OUTPUT: u64 = 10;
const NOTHING: u64 = 11;

fn helper() -> Filter {
    helper_filter_over(CLibrary::Glibc, &HelperDescriptors::example(3))
}

/// Of a helper that nobody controls, with an encrypted overlay.
fn alone(call: i64, arguments: [u64; 6]) -> Verdict {
    let filter = helper_filter(&HelperDescriptors {
        encrypted: true,
        control: None,
        control_listener: None,
        ..HelperDescriptors::example(3)
    });
    verdict_on(&filter, X86_64, call, arguments)
}

fn verdict(call: i64, arguments: [u64; 6]) -> Verdict {
    verdict_on(&helper(), X86_64, call, arguments)
}

fn read_only(call: i64, arguments: [u64; 6]) -> Verdict {
    let filter = helper_filter(&HelperDescriptors {
        base: 3,
        overlay: None,
        encrypted: false,
        output: None,
        listener: None,
        control: None,
        control_listener: None,
    });
    verdict_on(&filter, X86_64, call, arguments)
}

/// The first argument, and nothing else.
fn with(first: u64) -> [u64; 6] {
    [first, 0, 0, 0, 0, 0]
}

fn bits(value: i32) -> u64 {
    u64::from(value.cast_unsigned())
}

#[test]
fn reads_at_an_offset_are_for_the_disk_only() {
    let read = |fd, flags| verdict(libc::SYS_preadv2, [fd, 0, 0, 0, 0, bits(flags)]);
    for flags in [0, libc::RWF_NOWAIT] {
        assert_eq!(read(BASE, flags), Verdict::Allowed);
        assert_eq!(read(OVERLAY, flags), Verdict::Allowed);
        assert_eq!(read(OTHER, flags), Verdict::Killed);
    }
    for flags in [libc::RWF_HIPRI, libc::RWF_NOWAIT | libc::RWF_APPEND] {
        assert_eq!(read(BASE, flags), Verdict::Killed);
    }
}

#[test]
fn writes_at_an_offset_are_for_the_overlay_and_what_is_saved() {
    assert_eq!(verdict(libc::SYS_pwrite64, with(OUTPUT)), Verdict::Allowed);
    assert_eq!(verdict(libc::SYS_pwritev, with(OUTPUT)), Verdict::Killed);
    for call in [libc::SYS_pwrite64, libc::SYS_pwritev] {
        assert_eq!(verdict(call, with(OVERLAY)), Verdict::Allowed);
        assert_eq!(verdict(call, with(SPARE)), Verdict::Allowed);
        assert_eq!(verdict(call, with(BASE)), Verdict::Killed);
        assert_eq!(verdict(call, with(OTHER)), Verdict::Killed);
    }
}

#[test]
fn what_nobody_can_ask_for_is_not_possible() {
    assert_eq!(alone(libc::SYS_pwrite64, with(OVERLAY)), Verdict::Allowed);
    assert_eq!(alone(libc::SYS_pwritev, with(OVERLAY)), Verdict::Killed);
    for descriptor in [OVERLAY, SPARE, OUTPUT, OTHER] {
        assert_eq!(alone(libc::SYS_ftruncate, with(descriptor)), Verdict::Killed);
        assert_eq!(alone(libc::SYS_fsync, with(descriptor)), Verdict::Killed);
    }
    for call in [libc::SYS_pwrite64, libc::SYS_close, libc::SYS_write] {
        assert_eq!(alone(call, with(OUTPUT)), Verdict::Killed);
    }
    assert_eq!(alone(libc::SYS_getrandom, [0, 64, 0, 0, 0, 0]), Verdict::Killed);
    let dup = [OTHER, OUTPUT, bits(libc::O_CLOEXEC), 0, 0, 0];
    assert_eq!(alone(libc::SYS_dup3, dup), Verdict::Killed);
    assert_eq!(verdict(libc::SYS_dup3, dup), Verdict::Allowed);
}

#[test]
fn a_read_only_disk_is_never_written() {
    for descriptor in 0..16 {
        assert_eq!(read_only(libc::SYS_pwrite64, with(descriptor)), Verdict::Killed);
        assert_eq!(read_only(libc::SYS_pwritev, with(descriptor)), Verdict::Killed);
        assert_eq!(read_only(libc::SYS_fallocate, with(descriptor)), Verdict::Killed);
        assert_eq!(read_only(libc::SYS_ftruncate, with(descriptor)), Verdict::Killed);
        assert_eq!(read_only(libc::SYS_dup3, with(descriptor)), Verdict::Killed);
    }
}

#[test]
fn the_overlay_is_punched_and_never_allocated() {
    let punch = bits(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE);
    for mode in 0..256 {
        let expected = if mode == punch {
            Verdict::Allowed
        } else {
            Verdict::Killed
        };
        assert_eq!(
            verdict(libc::SYS_fallocate, [OVERLAY, mode, 0, 0, 0, 0]),
            expected,
            "mode {mode:#x}"
        );
        assert_eq!(
            verdict(libc::SYS_fallocate, [OUTPUT, mode, 0, 0, 0, 0]),
            expected,
            "mode {mode:#x}"
        );
        assert_eq!(verdict(libc::SYS_fallocate, [BASE, mode, 0, 0, 0, 0]), Verdict::Killed);
    }
}

#[test]
fn plain_writes_and_closes_never_touch_the_disk() {
    for call in [libc::SYS_write, libc::SYS_close] {
        assert_eq!(verdict(call, with(2)), Verdict::Allowed);
        assert_eq!(verdict(call, with(OTHER)), Verdict::Allowed);
        assert_eq!(verdict(call, with(BASE)), Verdict::Killed);
        assert_eq!(verdict(call, with(OVERLAY)), Verdict::Killed);
    }
}

/// A frontend's descriptor with the number of the operator's would be the operator.
#[test]
fn the_operators_channel_stays_open() {
    for descriptor in [CONTROL, CONTROL_LISTENER] {
        assert_eq!(verdict(libc::SYS_close, with(descriptor)), Verdict::Killed);
        assert_eq!(read_only(libc::SYS_close, with(descriptor)), Verdict::Allowed);
    }
}

/// The kernel ignores the upper half of an int; a filter that compared it would see another descriptor.
#[test]
fn the_upper_half_of_a_descriptor_hides_nothing() {
    let upper = 1 << 32;

    assert_eq!(verdict(libc::SYS_write, with(OVERLAY | upper)), Verdict::Killed);
    assert_eq!(verdict(libc::SYS_close, with(BASE | upper)), Verdict::Killed);
    assert_eq!(verdict(libc::SYS_pwrite64, with(BASE | upper)), Verdict::Killed);
}

#[test]
fn no_mapping_is_code() {
    let shared = bits(libc::MAP_SHARED | libc::MAP_NORESERVE);
    let private = bits(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    for flags in [shared, private] {
        for protection in 0..4 {
            assert_eq!(
                verdict(libc::SYS_mmap, [0, 4096, protection, flags, OTHER, 0]),
                Verdict::Allowed
            );
        }
        for protection in [4, 5, 6, 7, 8, 1 << 24, 1 << 33] {
            assert_eq!(
                verdict(libc::SYS_mmap, [0, 4096, protection, flags, OTHER, 0]),
                Verdict::Killed
            );
        }
    }
    assert_eq!(verdict(libc::SYS_mprotect, [0, 4096, 3, 0, 0, 0]), Verdict::Allowed);
    assert_eq!(verdict(libc::SYS_mprotect, [0, 4096, 5, 0, 0, 0]), Verdict::Killed);
}

#[test]
fn the_disk_is_never_duplicated() {
    for command in [libc::F_DUPFD, libc::F_DUPFD_CLOEXEC] {
        for descriptor in [BASE, OVERLAY] {
            let arguments = [descriptor, bits(command), 0, 0, 0, 0];
            assert_eq!(verdict(libc::SYS_fcntl, arguments), Verdict::Killed);
        }
    }
    for call in [libc::SYS_dup, libc::SYS_dup2, libc::SYS_dup3] {
        assert_eq!(verdict(call, with(OVERLAY)), Verdict::Killed);
    }
}

#[test]
fn the_disk_is_never_mapped() {
    let shared = bits(libc::MAP_SHARED | libc::MAP_NORESERVE);
    for descriptor in [BASE, OVERLAY] {
        assert_eq!(
            verdict(libc::SYS_mmap, [0, 4096, 1, shared, descriptor, 0]),
            Verdict::Killed
        );
        let private = bits(libc::MAP_PRIVATE);
        assert_eq!(
            verdict(libc::SYS_mmap, [0, 4096, 1, private, descriptor, 0]),
            Verdict::Killed
        );
    }
}

#[test]
fn nothing_is_mapped_over_something_else() {
    for flags in [
        libc::MAP_SHARED | libc::MAP_NORESERVE,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
    ] {
        let fixed = bits(flags | libc::MAP_FIXED);
        assert_eq!(verdict(libc::SYS_mmap, [0, 4096, 3, fixed, OTHER, 0]), Verdict::Killed);
    }
    let fixed = bits(libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED);
    assert_eq!(verdict(libc::SYS_mremap, [0, 4096, 8192, fixed, 0, 0]), Verdict::Killed);
}

#[test]
fn locks_are_private() {
    for operation in 0..16_u64 {
        let private = operation | bits(libc::FUTEX_PRIVATE_FLAG);
        let expected = if [0, 1, 9].contains(&operation) {
            Verdict::Allowed
        } else {
            Verdict::Killed
        };
        assert_eq!(
            verdict(libc::SYS_futex, [0, private, 0, 0, 0, 0]),
            expected,
            "operation {operation}"
        );
        assert_eq!(verdict(libc::SYS_futex, [0, operation, 0, 0, 0, 0]), Verdict::Killed);
    }
}

#[test]
fn opening_to_read_fails_and_opening_to_write_kills() {
    let open = |flags: i32| verdict(libc::SYS_openat, [0, 0, bits(flags), 0, 0, 0]);

    assert_eq!(open(libc::O_RDONLY | libc::O_CLOEXEC), Verdict::Failed(13));
    for flags in [
        libc::O_WRONLY,
        libc::O_RDWR,
        libc::O_CREAT,
        libc::O_TMPFILE | libc::O_RDWR,
        libc::O_TRUNC,
    ] {
        assert_eq!(open(flags), Verdict::Killed);
    }
}

#[test]
fn frontends_arrive_at_the_listener_only() {
    for listener in [LISTENER, CONTROL_LISTENER] {
        assert_eq!(verdict(libc::SYS_accept4, with(listener)), Verdict::Allowed);
        assert_eq!(read_only(libc::SYS_accept4, with(listener)), Verdict::Killed);
    }
    assert_eq!(verdict(libc::SYS_accept4, with(OTHER)), Verdict::Killed);
}

#[test]
fn options_of_a_call_are_the_named_ones() {
    let allowed = |call, index: usize, value: i32| {
        let mut arguments = with(OTHER);
        arguments[1] = bits(libc::SOL_SOCKET);
        arguments[index] = bits(value);
        verdict(call, arguments) == Verdict::Allowed
    };
    let options = |call, index| {
        (0..2048)
            .filter(|value| allowed(call, index, *value))
            .collect::<Vec<_>>()
    };

    let fcntl = [libc::F_GETFD, libc::F_GETFL, libc::F_DUPFD_CLOEXEC, libc::F_GET_SEALS];
    assert_eq!(options(libc::SYS_fcntl, 1), fcntl);
    assert_eq!(options(libc::SYS_prctl, 0), [libc::PR_GET_SECCOMP]);
    assert_eq!(options(libc::SYS_madvise, 2), [libc::MADV_DONTNEED]);
    let kinds = [libc::SO_TYPE, libc::SO_PEERCRED, libc::SO_ACCEPTCONN, libc::SO_DOMAIN];
    assert_eq!(options(libc::SYS_getsockopt, 2), kinds);
    assert_eq!(options(libc::SYS_recvfrom, 3), [libc::MSG_PEEK | libc::MSG_DONTWAIT]);
}

#[test]
fn what_no_row_names_kills() {
    let filter = helper();
    let named = |number| filter.rows().iter().any(|row| row.call.number == number);
    for call in (0..600).filter(|number| !named(*number)) {
        assert_eq!(verdict(call, [0; 6]), Verdict::Killed, "call {call}");
    }
}

#[test]
fn other_interfaces_of_the_kernel_are_closed() {
    const I386: u32 = 0x4000_0003;
    let x32 = 0x4000_0000;

    assert_eq!(verdict_on(&helper(), I386, libc::SYS_brk, [0; 6]), Verdict::Killed);
    assert_eq!(verdict(x32 | libc::SYS_brk, [0; 6]), Verdict::Killed);
}

#[test]
fn the_table_stays_short() {
    assert!(helper().rows().len() <= 56, "{} rows", helper().rows().len());
}

#[test]
fn an_empty_filter_is_refused() {
    assert!(matches!(Filter::default().compile(), Err(FilterError::Empty)));
}

#[test]
fn a_row_that_says_nothing_is_refused() {
    let fd = Argument::int(0, "fd");
    let filter = Filter::new(table! {
        allow: SYS_close [] "any";
        allow: SYS_close [fd.is(Value::new(1, "one"))] "already allowed";
    });

    assert!(matches!(filter.compile(), Err(FilterError::Redundant("close"))));
}

#[test]
fn rows_of_one_call_are_alternatives() {
    let fd = Argument::int(0, "fd");
    let filter = Filter::new(table! {
        allow: SYS_close [fd.is(Value::new(1, "one"))] "one";
        allow: SYS_close [fd.is(Value::new(2, "two"))] "two";
    });

    assert_eq!(verdict_on(&filter, X86_64, libc::SYS_close, with(1)), Verdict::Allowed);
    assert_eq!(verdict_on(&filter, X86_64, libc::SYS_close, with(2)), Verdict::Allowed);
    assert_eq!(verdict_on(&filter, X86_64, libc::SYS_close, with(3)), Verdict::Killed);
}

#[test]
fn the_table_reads_as_it_was_written() {
    let fd = Argument::int(0, "fd");
    let mode = Argument::int(1, "mode");
    let filter = Filter::new(table! {
        deny EACCES: SYS_openat [] "a habit";
        allow: SYS_fallocate [fd.is_none_of(vec![Value::descriptor(3, "base"), Value::descriptor(4, "overlay")]),
            mode.is(named!(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE))] "gives space back";
    });

    let expected = "\
| call | condition | reason |
| --- | --- | --- |
| `fallocate` | fd ≠ base, ≠ overlay; mode = FALLOC_FL_PUNCH_HOLE \\| FALLOC_FL_KEEP_SIZE | gives space back |
| `openat` | | *soft-denied, EACCES:* a habit |
";
    assert_eq!(filter.to_markdown(), expected);
    assert_eq!(filter.rows()[0].action, Action::SoftDeny(nix::errno::Errno::EACCES));
}

#[test]
fn calls_have_the_names_of_their_constants() {
    let Row { call, .. } = helper().rows()[0].clone();

    assert_eq!(
        call,
        Call {
            name: "preadv2",
            number: libc::SYS_preadv2
        }
    );
}
