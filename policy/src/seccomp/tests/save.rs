//! What the filter lets a save do, and a reset.

use super::*;

#[test]
fn only_what_is_saved_gets_a_length_and_the_overlay_none() {
    let truncated = |descriptor, length| verdict(libc::SYS_ftruncate, [descriptor, length, 0, 0, 0, 0]);
    for descriptor in [OVERLAY, SPARE] {
        assert_eq!(truncated(descriptor, 0), Verdict::Allowed);
        assert_eq!(truncated(descriptor, 1), Verdict::Killed);
        assert_eq!(truncated(descriptor, 1 << 32), Verdict::Killed);
    }
    assert_eq!(truncated(OUTPUT, 4096), Verdict::Allowed);
    for descriptor in [BASE, CONTROL, OTHER, NOTHING] {
        assert_eq!(truncated(descriptor, 0), Verdict::Killed);
    }
}

#[test]
fn only_the_reserved_number_changes_its_meaning() {
    let moved = |from, to| verdict(libc::SYS_dup3, [from, to, bits(libc::O_CLOEXEC), 0, 0, 0]);
    assert_eq!(moved(OTHER, OUTPUT), Verdict::Allowed);
    assert_eq!(moved(NOTHING, OUTPUT), Verdict::Allowed);
    for from in [BASE, OVERLAY, SPARE, CONTROL, CONTROL_LISTENER, LISTENER] {
        assert_eq!(moved(from, OUTPUT), Verdict::Killed, "{from}");
    }
    for to in [0, 1, 2, BASE, OVERLAY, SPARE, CONTROL, LISTENER, OTHER, NOTHING] {
        assert_eq!(moved(OTHER, to), Verdict::Killed, "{to}");
    }
    for lasting in [OUTPUT, NOTHING, SPARE] {
        assert_eq!(verdict(libc::SYS_close, with(lasting)), Verdict::Killed, "{lasting}");
    }
}

/// What standard output and standard error were redirected to is a file like any other; it used to be possible to make it the
/// output, and then to empty it.
#[test]
fn a_log_does_not_become_the_output_nor_memory() {
    let shared = bits(libc::MAP_SHARED | libc::MAP_NORESERVE);
    for log in 0..3 {
        let output = [log, OUTPUT, bits(libc::O_CLOEXEC), 0, 0, 0];
        assert_eq!(verdict(libc::SYS_dup3, output), Verdict::Killed, "{log}");
        let copy = [log, bits(libc::F_DUPFD_CLOEXEC), 3, 0, 0, 0];
        assert_eq!(verdict(libc::SYS_fcntl, copy), Verdict::Killed, "{log}");
        let mapped = [0, 4096, 3, shared, log, 0];
        assert_eq!(verdict(libc::SYS_mmap, mapped), Verdict::Killed, "{log}");
    }
    let copy = [OTHER, bits(libc::F_DUPFD_CLOEXEC), 3, 0, 0, 0];
    assert_eq!(verdict(libc::SYS_fcntl, copy), Verdict::Allowed);
}

#[test]
fn blocks_are_shared_from_the_base_to_what_is_saved_and_no_other_way() {
    let share = |to, command: u64, from| verdict(libc::SYS_ioctl, [to, command, from, 0, 0, 0]);
    assert_eq!(share(OUTPUT, libc::FICLONE, BASE), Verdict::Allowed);
    assert_eq!(share(OUTPUT, libc::FICLONE, OVERLAY), Verdict::Killed);
    assert_eq!(share(OVERLAY, libc::FICLONE, BASE), Verdict::Killed);
    assert_eq!(share(BASE, libc::FICLONE, OUTPUT), Verdict::Killed);
    assert_eq!(share(OUTPUT, libc::FICLONERANGE, BASE), Verdict::Killed);
}

#[test]
fn of_the_base_only_its_holes_are_sought() {
    for whence in 0..8 {
        let expected = if [libc::SEEK_DATA, libc::SEEK_HOLE].contains(&whence) {
            Verdict::Allowed
        } else {
            Verdict::Killed
        };
        assert_eq!(
            verdict(libc::SYS_lseek, [BASE, 0, bits(whence), 0, 0, 0]),
            expected,
            "{whence}"
        );
        assert_eq!(
            verdict(libc::SYS_lseek, [OVERLAY, 0, bits(whence), 0, 0, 0]),
            Verdict::Killed
        );
    }
}
