//! What the kernel says of a serving helper, read from outside: its threads, its descriptors, its memory.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::Command;
use std::time::Duration;

use tests::client::{Client, Setup};
use tests::helper::{Helper, program};
use tests::model::SECTOR;
use tests::place::Place;
use tests::process::copy_program;
use tests::require;

/// The user that a helper of root becomes.
const NOBODY: u32 = 65_534;

/// One thread's `/proc/PID/task/TID/status`.
type Status = BTreeMap<String, String>;

fn threads(helper: &Helper) -> Vec<Status> {
    fs::read_dir(helper.proc("task"))
        .expect("anybody may list threads")
        .map(|entry| {
            let path = entry.expect("anybody may list threads").path().join("status");
            let text = fs::read_to_string(path).expect("anybody may read a status");
            let fields = text.lines().filter_map(|line| line.split_once(':'));
            fields
                .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
                .collect()
        })
        .collect()
}

/// Everything that must be so in each thread at any time.
fn assert_confined(helper: &Helper) {
    for thread in threads(helper) {
        let field = |name: &str| thread[name].as_str();
        assert_eq!((field("Seccomp"), field("NoNewPrivs")), ("2", "1"), "{thread:?}");
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(field(set), "0000000000000000", "{set} of {thread:?}");
        }
        assert_eq!(field("TracerPid"), "0");
    }
}

fn connect_and_use(helper: &Helper, round: u64) {
    let mut client = Client::connect(
        helper.socket(),
        Setup {
            queues: 4,
            ..Setup::default()
        },
    );
    client.write(round * 4096, &[1; SECTOR]);
}

/// A number of kibibytes in a status.
fn kibibytes(status: &Status, name: &str) -> u64 {
    status[name].trim_end_matches(" kB").parse().expect("kibibytes")
}

#[test]
fn every_thread_is_confined_before_the_first_and_after_the_hundredth_connection() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();

    assert_confined(&helper);
    for round in 0..100 {
        connect_and_use(&helper, round);
    }

    assert_confined(&helper);
    helper.terminate();
}

#[test]
fn a_hundred_connections_cost_no_thread_and_no_memory() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();
    // The first takes what is kept for good: stacks, the map's page, the allocator's arenas.
    for round in 0..10 {
        connect_and_use(&helper, round);
    }
    let before = threads(&helper);

    for round in 0..100 {
        connect_and_use(&helper, round);
    }
    std::thread::sleep(Duration::from_millis(100));
    let after = threads(&helper);

    assert_eq!(after.len(), before.len(), "threads");
    for (name, allowed) in [("VmRSS", 512), ("VmSize", 512)] {
        let (before, after) = (kibibytes(&before[0], name), kibibytes(&after[0], name));
        assert!(after <= before + allowed, "{name} grew from {before} to {after} KiB");
    }
    helper.terminate();
}

#[test]
fn the_report_knows_every_thread() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().value("--threads", "3").start();

    let reported = helper.report()["confinement"]["threads"]
        .as_array()
        .expect("threads are reported")
        .len();

    assert_eq!(reported, threads(&helper).len());
    assert_eq!(
        reported, 6,
        "three workers, who waits for storage, who saves, and who controls them"
    );
    helper.terminate();
}

#[test]
fn every_required_layer_is_reported_as_achieved() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();

    let layers = helper.report()["confinement"]["layers"]
        .as_array()
        .expect("layers are reported");

    let required: Vec<_> = layers.iter().filter(|layer| layer["required"] == true).collect();
    assert!(required.len() >= 6, "{required:?}");
    assert!(required.iter().all(|layer| layer["achieved"] == true), "{required:?}");
    helper.terminate();
}

/// What each descriptor is, from outside.
fn descriptors(helper: &Helper) -> BTreeMap<i32, String> {
    fs::read_dir(helper.proc("fd"))
        .expect("root may look")
        .map(|entry| {
            let path = entry.expect("root may look").path();
            let number = path
                .file_name()
                .and_then(|name| name.to_str())
                .expect("a number")
                .parse()
                .expect("a number");
            let target = fs::read_link(&path)
                .expect("root may look")
                .to_string_lossy()
                .into_owned();
            // What two sockets or pipes are called says only which they are.
            (number, target.split(":[").next().unwrap_or_default().to_owned())
        })
        .collect()
}

fn flags(helper: &Helper, number: i32) -> u32 {
    let text = fs::read_to_string(helper.proc("fdinfo").join(number.to_string())).expect("root may look");
    let octal = text
        .lines()
        .find_map(|line| line.strip_prefix("flags:"))
        .expect("every descriptor has flags");
    u32::from_str_radix(octal.trim(), 8).expect("flags are octal")
}

#[test]
fn exactly_the_reported_descriptors_are_open_whatever_happened() {
    require!(root);
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();
    let reported: Vec<i32> = helper.report()["confinement"]["descriptors"]
        .as_array()
        .expect("descriptors are reported")
        .iter()
        .map(|entry| i32::try_from(entry["number"].as_i64().expect("a number")).expect("a number"))
        .collect();

    let before = descriptors(&helper);
    for round in 0..100 {
        connect_and_use(&helper, round);
    }
    std::thread::sleep(Duration::from_millis(100));
    let after = descriptors(&helper);

    assert_eq!(before.len(), reported.len());
    assert!(reported.iter().all(|number| before.contains_key(number)), "{before:?}");
    assert_eq!(after, before);
    helper.terminate();
}

#[test]
fn the_overlay_is_nameless_and_without_a_mode_and_the_base_can_only_be_read() {
    require!(root);
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();
    connect_and_use(&helper, 0);
    let numbered = |what: &str| -> i32 {
        let entries = helper.report()["confinement"]["descriptors"]
            .as_array()
            .expect("descriptors are reported");
        let entry = entries
            .iter()
            .find(|entry| entry["what"].as_str().is_some_and(|text| text.starts_with(what)));
        i32::try_from(entry.expect("it is reported")["number"].as_i64().expect("a number")).expect("a number")
    };

    let overlay = fs::metadata(helper.proc("fd").join(numbered("overlay").to_string())).unwrap();
    let base = numbered("base");

    assert_eq!((overlay.nlink(), overlay.mode() & 0o7777), (0, 0));
    let name = fs::read_link(helper.proc("fd").join(numbered("overlay").to_string())).unwrap();
    assert!(name.to_string_lossy().ends_with("(deleted)"), "{name:?}");
    assert_eq!(flags(&helper, base) & 0o3, 0, "O_RDONLY");
    assert_eq!(
        fs::metadata(helper.proc("fd").join(base.to_string())).unwrap().ino(),
        fs::metadata(place.base()).unwrap().ino()
    );
    helper.terminate();
}

#[test]
fn no_mapping_is_the_base_or_the_overlay() {
    require!(root);
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();
    connect_and_use(&helper, 0);

    let maps = fs::read_to_string(helper.proc("maps")).unwrap();

    assert!(!maps.contains("mayfly-test"), "{maps}");
    assert!(
        !maps
            .lines()
            .any(|line| line.split(' ').nth(1).is_some_and(|mode| mode.contains("wx"))),
        "{maps}"
    );
    helper.terminate();
}

#[test]
fn roots_helper_is_nobody_with_no_groups() {
    require!(root);
    let place = Place::with_noise(1 << 20, 1);
    let nobody = place.helper().start();
    let other = Place::with_noise(1 << 20, 2);
    let somebody = other.helper().value("--user", "4711:4712").start();

    for (helper, uid, gid) in [(&nobody, "65534", "65534"), (&somebody, "4711", "4712")] {
        for thread in threads(helper) {
            assert!(
                thread["Uid"].split_whitespace().all(|number| number == uid),
                "{thread:?}"
            );
            assert!(
                thread["Gid"].split_whitespace().all(|number| number == gid),
                "{thread:?}"
            );
            assert_eq!(thread["Groups"], "", "{thread:?}");
            assert_eq!(thread["CapBnd"], "0000000000000000", "{thread:?}");
        }
    }

    nobody.terminate();
    somebody.terminate();
}

#[test]
fn its_root_directory_is_empty() {
    require!(root);
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();

    let entries = fs::read_dir(helper.proc("root")).unwrap().count();

    assert_eq!(entries, 0);
    helper.terminate();
}

#[test]
fn no_forbidden_act_is_possible() {
    let output = Command::new(program()).arg("--check-confinement").output().unwrap();

    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn no_forbidden_act_is_possible_for_an_ordinary_user_either() {
    require!(root);
    let place = Place::with_noise(1 << 20, 1);
    let copy = place.dir().join("blk-helper");
    copy_program(&program(), &copy);

    let output = Command::new(copy)
        .arg("--check-confinement")
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .unwrap();

    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Only where there is an operator does anything become the output of a save.
#[test]
fn a_log_does_not_become_the_output_of_a_save() {
    let place = Place::with_noise(1 << 20, 1);
    let end = |act: &str| {
        let mut attempt = Command::new(program());
        attempt.arg("--control-path").arg(place.control());
        attempt.args(["--attempt", act]).output().unwrap()
    };

    assert_eq!(end("control").stdout, b"it was done\n");
    assert_eq!(end("log-as-output").status.signal(), Some(nix::libc::SIGSYS));
}
