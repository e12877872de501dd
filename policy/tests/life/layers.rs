//! What a confined process reports, and what stops a start.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};

use crate::Test;
use crate::run::{End, OVERFLOW, Who, everybody, finish, is_root, layer, run, start, starts_as_root};

/// The tests.
pub(crate) const TESTS: &[Test] = &[
    ("every_required_layer_is_reported", every_required_layer_is_reported),
    (
        "every_thread_reads_back_that_it_is_confined",
        every_thread_reads_back_that_it_is_confined,
    ),
    (
        "namespaces_and_an_empty_root_where_permitted",
        namespaces_and_an_empty_root_where_permitted,
    ),
    (
        "root_becomes_the_user_it_was_told_to_be",
        root_becomes_the_user_it_was_told_to_be,
    ),
    (
        "from_outside_every_thread_looks_confined",
        from_outside_every_thread_looks_confined,
    ),
    (
        "lives_where_namespaces_are_forbidden",
        lives_where_namespaces_are_forbidden,
    ),
    (
        "lives_where_a_user_namespace_cannot_be_mapped",
        lives_where_a_user_namespace_cannot_be_mapped,
    ),
    ("lives_where_limits_cannot_be_set", lives_where_limits_cannot_be_set),
    (
        "lives_with_no_new_privs_from_the_start",
        lives_with_no_new_privs_from_the_start,
    ),
    (
        "the_overflow_user_gets_no_user_namespace",
        the_overflow_user_gets_no_user_namespace,
    ),
    ("prepare_leaves_only_what_is_kept", prepare_leaves_only_what_is_kept),
    ("a_descriptor_to_keep_must_be_open", a_descriptor_to_keep_must_be_open),
    ("several_threads_are_refused", several_threads_are_refused),
    ("uid_0_is_refused", uid_0_is_refused),
    (
        "an_unlisted_descriptor_stops_the_seal",
        an_unlisted_descriptor_stops_the_seal,
    ),
    ("a_listed_descriptor_must_be_open", a_listed_descriptor_must_be_open),
    ("an_empty_filter_stops_the_seal", an_empty_filter_stops_the_seal),
    ("no_landlock_no_start", no_landlock_no_start),
    ("no_seccomp_no_start", no_seccomp_no_start),
    ("no_close_range_no_start", no_close_range_no_start),
    (
        "capabilities_that_cannot_be_dropped_stop_the_start",
        capabilities_that_cannot_be_dropped_stop_the_start,
    ),
    (
        "root_that_cannot_change_its_user_does_not_start",
        root_that_cannot_change_its_user_does_not_start,
    ),
];

const EPERM: &str = "1";
const ENOSYS: &str = "38";

const REQUIRED: [&str; 7] = [
    "user",
    "no capabilities",
    "not dumpable",
    "no-new-privs",
    "landlock",
    "descriptors",
    "seccomp",
];

fn assert_required(report: &serde_json::Value) {
    for name in REQUIRED {
        let layer = layer(report, name);
        assert_eq!(
            (&layer["required"], &layer["achieved"]),
            (&true.into(), &true.into()),
            "{layer}"
        );
    }
}

fn assert_fails(end: &End, because: &str) {
    assert_eq!(end.code(), Some(1), "{end:?}");
    assert!(end.stderr.contains(because), "{end:?}");
}

fn every_required_layer_is_reported() {
    for who in everybody() {
        assert_required(&run(who, &["report"]).report());
    }
}

fn every_thread_reads_back_that_it_is_confined() {
    for who in everybody() {
        let report = run(who, &["report"]).report();

        let threads = report["threads"].as_array().unwrap();
        assert_eq!(threads.len(), 3);
        for thread in threads {
            assert_eq!(thread["no_new_privs"], true);
            assert_eq!(thread["seccomp_mode"], 2);
            assert_eq!(thread["dumpable"], false);
            assert_eq!(thread["opens_denied"], true);
            for set in ["effective", "permitted", "inheritable", "ambient"] {
                assert_eq!(thread["capabilities"][set], "0000000000000000");
            }
        }
    }
}

fn namespaces_and_an_empty_root_where_permitted() {
    for who in everybody() {
        let report = run(who, &["report"]).report();

        let mut names = vec![
            "network namespace",
            "mount namespace",
            "empty root",
            "memory never code",
            "bounding set",
        ];
        if !starts_as_root(who) {
            names.push("user namespace");
        }
        for name in names {
            let layer = layer(&report, name);
            // Where this machine does not permit one, the reason must be there instead.
            let permitted = layer["achieved"] == true;
            println!("  {who:?}: {name}: {}", layer["evidence"]);
            assert!(permitted || layer["evidence"].as_str().unwrap().contains("not permitted"));
        }
    }
}

fn root_becomes_the_user_it_was_told_to_be() {
    if !is_root() {
        println!("  skipped: needs root");
        return;
    }

    let report = run(Who::Us, &["report"]).report();

    let evidence = layer(&report, "user")["evidence"].as_str().unwrap();
    assert!(
        evidence.starts_with("uid 65533, gid 65533, 0 groups; setuid(0): EPERM"),
        "{evidence}"
    );
}

fn from_outside_every_thread_looks_confined() {
    if !is_root() {
        println!("  skipped: only root can look into a process that is not dumpable");
        return;
    }
    for who in everybody() {
        let mut child = start(who, &["wait"]);
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        let process = format!("/proc/{}", child.id());

        let statuses: Vec<String> = fs::read_dir(format!("{process}/task"))
            .unwrap()
            .map(|task| fs::read_to_string(task.unwrap().path().join("status")).unwrap())
            .collect();
        let descriptors: BTreeSet<String> = fs::read_dir(format!("{process}/fd"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        child.kill().unwrap();
        let end = finish(child);

        assert_eq!(statuses.len(), 3, "{line}{end:?}");
        for status in statuses {
            for held in [
                "Seccomp:\t2",
                "NoNewPrivs:\t1",
                "CapInh:\t0000000000000000",
                "CapPrm:\t0000000000000000",
            ] {
                assert!(status.contains(held), "{held} in {status}");
            }
            for held in [
                "CapEff:\t0000000000000000",
                "CapAmb:\t0000000000000000",
                "Uid:\t65533\t65533\t65533\t65533",
            ] {
                assert!(status.contains(held), "{held} in {status}");
            }
        }
        assert_eq!(descriptors, ["0", "1", "2", "3", "4"].map(str::to_owned).into());
    }
}

fn lives_where_namespaces_are_forbidden() {
    for who in everybody() {
        let report = run(who, &["deny", EPERM, "unshare", "mount", "pivot_root", "umount2"]).report();

        assert_required(&report);
        assert_eq!(layer(&report, "network namespace")["achieved"], false);
        assert_eq!(layer(&report, "empty root")["achieved"], false);
    }
}

fn lives_where_a_user_namespace_cannot_be_mapped() {
    for who in everybody() {
        let report = run(who, &["deny", EPERM, "openat-to-write"]).report();

        assert_required(&report);
        assert_eq!(layer(&report, "user namespace")["achieved"], false);
    }
}

fn lives_where_limits_cannot_be_set() {
    for who in everybody() {
        let report = run(who, &["deny", EPERM, "setrlimit", "prlimit64"]).report();

        assert_required(&report);
        assert_eq!(layer(&report, "file size")["achieved"], false);
    }
}

fn lives_with_no_new_privs_from_the_start() {
    for who in everybody() {
        assert_required(&run(who, &["no-new-privs"]).report());
    }
}

fn the_overflow_user_gets_no_user_namespace() {
    if !is_root() {
        println!("  skipped: needs root to start as the overflow user");
        return;
    }

    let report = run(OVERFLOW, &["report"]).report();

    assert_required(&report);
    let layer = layer(&report, "user namespace");
    assert_eq!(layer["achieved"], false);
    assert!(layer["evidence"].as_str().unwrap().contains("65534"));
}

fn prepare_leaves_only_what_is_kept() {
    for who in everybody() {
        let end = run(who, &["prepared"]);

        assert_eq!(end.code(), Some(0), "{end:?}");
    }
}

fn a_descriptor_to_keep_must_be_open() {
    assert_fails(&run(Who::Us, &["keep-closed"]), "descriptor 200 cannot be kept");
}

fn several_threads_are_refused() {
    assert_fails(&run(Who::Us, &["threads"]), "single thread");
}

fn uid_0_is_refused() {
    if !is_root() {
        println!("  skipped: needs root");
        return;
    }
    assert_fails(&run(Who::Us, &["uid-0"]), "uid 0 is never kept");
}

fn an_unlisted_descriptor_stops_the_seal() {
    for who in everybody() {
        assert_fails(&run(who, &["stray"]), "open but not listed: [5]");
    }
}

fn a_listed_descriptor_must_be_open() {
    for who in everybody() {
        assert_fails(&run(who, &["absent"]), "listed but not open: [99]");
    }
}

fn an_empty_filter_stops_the_seal() {
    for who in everybody() {
        assert_fails(&run(who, &["no-filter"]), "the filter has no rows");
    }
}

fn no_landlock_no_start() {
    for who in everybody() {
        assert_fails(&run(who, &["deny", ENOSYS, "landlock_create_ruleset"]), "landlock");
    }
}

fn no_seccomp_no_start() {
    for who in everybody() {
        assert_fails(&run(who, &["deny", ENOSYS, "seccomp"]), "the kernel refuses the filter");
    }
}

fn no_close_range_no_start() {
    for who in everybody() {
        assert_fails(
            &run(who, &["deny", ENOSYS, "close_range"]),
            "cannot close inherited descriptors",
        );
    }
}

fn capabilities_that_cannot_be_dropped_stop_the_start() {
    let report = run(crate::run::everybody()[0], &["report"]).report();
    let who = everybody()[everybody().len() - 1];
    if starts_as_root(who) || layer(&report, "bounding set")["achieved"] == false {
        println!("  skipped: needs a user namespace, whose owner has capabilities");
        return;
    }
    assert_fails(&run(who, &["deny", EPERM, "capset"]), "cannot empty the");
}

fn root_that_cannot_change_its_user_does_not_start() {
    if !is_root() {
        println!("  skipped: needs root");
        return;
    }
    assert_fails(
        &run(Who::Us, &["deny", EPERM, "setresuid"]),
        "cannot change the user: EPERM",
    );
    assert_fails(
        &run(Who::Us, &["deny", EPERM, "setgroups"]),
        "cannot drop the supplementary groups: EPERM",
    );
}
