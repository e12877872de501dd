//! Forbidden acts, each in a process of its own: impossible when confined, and the check can fail when not.

use policy::forbidden;

use crate::Test;
use crate::child::{REACHED, REFUSED};
use crate::run::{End, Who, everybody, run};

/// The tests.
pub(crate) const TESTS: &[Test] = &[
    ("a_confined_process_can_do_its_work", a_confined_process_can_do_its_work),
    (
        "without_the_filter_other_layers_still_refuse",
        without_the_filter_other_layers_still_refuse,
    ),
    ("no_forbidden_act_is_possible", no_forbidden_act_is_possible),
    (
        "no_forbidden_act_is_possible_with_a_read_only_disk",
        no_forbidden_act_is_possible_with_a_read_only_disk,
    ),
    (
        "acts_are_possible_without_confinement",
        acts_are_possible_without_confinement,
    ),
    (
        "a_violation_by_any_thread_kills_the_process",
        a_violation_by_any_thread_kills_the_process,
    ),
];

/// Acts that every process on every machine may perform.
const EVERYBODY_MAY: [&str; 34] = [
    "open",
    "open-old",
    "openat2",
    "open-root",
    "open-path",
    "dup-log",
    "create-nameless",
    "stat",
    "readlink",
    "chdir",
    "memfd",
    "inotify",
    "read-position",
    "lock-base",
    "dup-base",
    "dup-overlay",
    "fcntl-dup-overlay",
    "allocate-overlay",
    "chmod-overlay",
    "close-overlay",
    "socket-unix",
    "socketpair",
    "pass-descriptor",
    "execve",
    "fork",
    "thread",
    "priority",
    "map-code",
    "make-code",
    "map-base",
    "capset",
    "setrlimit",
    "dumpable",
    "umask",
];

/// Acts that landlock (any version of it) and the lack of capabilities refuse, whatever the filter does.
const REFUSED_TWICE: [&str; 9] = [
    "open-root",
    "chroot",
    "mount",
    "fsopen",
    "open-tree",
    "ptrace",
    "pidfd-getfd",
    "setgroups",
    "unshare-mount",
];

fn was_refused(end: &End) -> bool {
    end.signal() == Some(libc::SIGSYS) || end.code() == Some(i32::from(REFUSED))
}

fn a_confined_process_can_do_its_work() {
    for who in everybody() {
        let end = run(who, &["act", forbidden::CONTROL.name]);

        assert_eq!(end.code(), Some(0), "{end:?}");
    }
}

fn without_the_filter_other_layers_still_refuse() {
    for who in everybody() {
        for name in REFUSED_TWICE {
            let end = run(who, &["unfiltered", name]);

            assert_eq!(end.code(), Some(i32::from(REFUSED)), "{who:?}: {name}: {end:?}");
        }
    }
}

fn no_forbidden_act_is_possible() {
    for who in everybody() {
        for act in forbidden::all() {
            let end = run(who, &["act", act.name]);

            assert!(was_refused(&end), "{who:?} could {}: {end:?}", act.what);
        }
    }
}

fn no_forbidden_act_is_possible_with_a_read_only_disk() {
    for act in forbidden::all() {
        let end = run(Who::Us, &["act-read-only", act.name]);

        assert!(was_refused(&end), "could {}: {end:?}", act.what);
    }
}

fn acts_are_possible_without_confinement() {
    for who in everybody() {
        for name in EVERYBODY_MAY {
            let end = run(who, &["unconfined", name]);

            assert_eq!(end.code(), Some(0), "{who:?}: {name} should be possible: {end:?}");
        }
        let closed: Vec<&str> = forbidden::all()
            .iter()
            .map(|act| act.name)
            .filter(|name| {
                let code = run(who, &["unconfined", name]).code();
                code != Some(0) && code != Some(i32::from(REACHED))
            })
            .collect();
        println!("  {who:?}: closed to an unconfined process of this machine: {closed:?}");
    }
}

fn a_violation_by_any_thread_kills_the_process() {
    for who in everybody() {
        let end = run(who, &["worker-breaks-out"]);

        assert_eq!(end.signal(), Some(libc::SIGSYS), "{end:?}");
    }
}
