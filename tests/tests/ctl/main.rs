//! `mayfly ctl` with a real helper, as a person or a script uses it: what it prints, what it leaves, how it exits.

mod pretended;
mod trusted;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::Signal;
use tests::client::{Client, Setup};
use tests::ctl::Ctl;
use tests::helper::{END, Helper};
use tests::place::Place;

const DISK: usize = 4 << 20;

const OURS: &str = "the place is ours to use";

/// A helper that takes orders, and where.
fn started(place: &Place) -> (Helper, Ctl) {
    let socket = place.dir().join("ctl");
    let helper = place.helper().value("--control-path", &socket).start();
    (helper, Ctl::at(socket))
}

/// A guest that writes some, and what its disk is then.
fn written(helper: &Helper) -> (Client, Vec<u8>) {
    let mut guest = Client::connect(helper.socket(), Setup::default());
    guest.write(0, &[7; 4096]);
    guest.write(1 << 20, &[8; 12 << 10]);
    let disk = guest.read_all();
    (guest, disk)
}

fn names(place: &Place) -> Vec<String> {
    let entries = fs::read_dir(place.dir()).expect(OURS);
    let mut names: Vec<_> = entries
        .map(|entry| entry.expect(OURS).file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn status_says_how_things_are() {
    let place = Place::with_noise(DISK, 1);
    let (helper, ctl) = started(&place);
    let (_guest, _) = written(&helper);

    let status = ctl.json(["status"]);
    assert_eq!(status["disk_bytes"], DISK);
    assert_eq!(status["connected"], true);
    assert_eq!(status["overlay"]["dirty_clusters"], 4);
    let told = ctl.done(["status"]);
    for part in ["4 MiB", "connected", "16 KiB of ", ", encrypted", "seccomp"] {
        assert!(told.contains(part), "{part}: {told}");
    }
}

#[test]
fn statistics_are_for_people_for_programs_and_for_prometheus() {
    let place = Place::with_noise(DISK, 2);
    let (helper, ctl) = started(&place);
    let (_guest, _) = written(&helper);

    let stats = ctl.json(["stats"]);
    assert_eq!(stats["write"]["requests"], 2);
    assert_eq!(stats["write"]["bytes"], 16 << 10);
    let told = ctl.done(["stats"]);
    assert!(told.contains("write") && told.contains("16 KiB"), "{told}");
    let text = ctl.done(["stats", "--prometheus"]);
    let socket = ctl.socket().display();
    let line = format!("mayfly_requests_total{{socket=\"{socket}\",kind=\"write\"}} 2\n");
    assert!(text.contains(&line), "{text}");
    assert!(text.contains("mayfly_overlay_used_bytes"), "{text}");
    let layer = format!("mayfly_confinement_layer{{socket=\"{socket}\",layer=\"seccomp\"}} 1\n");
    assert!(text.contains(&layer), "{text}");
    for line in text.lines() {
        let sane = line.starts_with("# ") || line.starts_with("mayfly_") && line.contains("} ");
        assert!(sane, "{line}");
    }
}

#[test]
fn watching_and_events_go_on_until_interrupted() {
    let place = Place::with_noise(DISK, 3);
    let (helper, ctl) = started(&place);
    let mut events = ctl.start(["events", "--json"]);
    let mut watch = ctl.start(["stats", "--watch"]);
    let mut seconds = BufReader::new(watch.stdout()).lines();
    assert!(seconds.next().unwrap().unwrap().contains("reads/s"));
    let mut lines = BufReader::new(events.stdout()).lines();

    let guest = Client::connect(helper.socket(), Setup::default());
    drop(guest);

    for kind in ["connected", "disconnected"] {
        let line: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(line["event"]["kind"], kind);
    }
    for order in [events, watch] {
        order.signal(Signal::SIGINT);
        assert_eq!(order.end().code, Some(0));
    }
}

#[test]
fn a_saved_disk_is_the_guests() {
    let place = Place::with_noise(DISK, 4);
    let (helper, ctl) = started(&place);
    let (mut guest, disk) = written(&helper);
    let out = place.dir().join("out.raw");

    let line = ctl.json(["save", out.to_str().unwrap()]);

    guest.write(0, &[9; 4096]);
    assert_eq!(line["saved"], out.to_str().unwrap());
    assert!(fs::read(&out).unwrap() == disk, "the saved disk is another one");
    assert_eq!(names(&place), ["base.raw", "ctl", "out.raw", "overlay", "socket"]);
    let refused = ctl.refused(["save", out.to_str().unwrap()]);
    assert!(refused.contains("nothing is ever overwritten"), "{refused}");
}

#[test]
fn a_delta_has_what_the_guest_changed_over_its_base() {
    let place = Place::with_noise(DISK, 5);
    let (helper, ctl) = started(&place);
    let (_guest, disk) = written(&helper);
    let out = place.dir().join("delta.qcow2");

    let words = [
        "save",
        out.to_str().unwrap(),
        "--format=qcow2",
        "--delta",
        "--backing=base.raw",
    ];
    let told = ctl.done(words);

    assert!(told.contains("saved to"), "{told}");
    assert!(fs::metadata(&out).unwrap().len() < (DISK / 4) as u64);
    let raw = place.dir().join("delta.raw");
    let qemu = |words: &[&str]| {
        let output = Command::new("qemu-img")
            .args(words)
            .output()
            .expect("qemu-img is there");
        assert!(output.status.success(), "{output:?}");
    };
    qemu(&["check", out.to_str().unwrap()]);
    qemu(&["convert", "-O", "raw", out.to_str().unwrap(), raw.to_str().unwrap()]);
    assert!(fs::read(&raw).unwrap() == disk, "the delta is of another disk");
}

#[test]
fn limits_sizes_and_the_end_are_ordered() {
    let place = Place::with_noise(DISK, 6);
    let (helper, ctl) = started(&place);
    let (guest, _) = written(&helper);

    let limits = ctl.json(["set-limits", "--overlay-limit=2M", "--iops=500:2000", "--at-limit=hold"]);
    assert_eq!(limits["overlay_bytes"], 2 << 20);
    assert_eq!(limits["iops"]["burst"], 2000);
    assert_eq!(ctl.json(["resize", "8M"])["done"], "resize");
    assert_eq!(ctl.json(["status"])["disk_bytes"], 8 << 20);
    let _ = ctl.refused(["resize", "1M"]);
    let _ = ctl.refused(["reset"]);
    drop(guest);
    let begun = std::time::Instant::now();
    while ctl.json(["status"])["connected"] == true {
        assert!(begun.elapsed() < END, "the guest does not leave");
    }
    assert_eq!(ctl.json(["reset"])["done"], "reset");
    assert_eq!(ctl.json(["status"])["overlay"]["dirty_clusters"], 0);
    assert!(ctl.done(["stop"]).contains("burnt"));
    assert_eq!(helper.wait_within(END).code, Some(0));
    assert_eq!(ctl.run(["status"]).code, Some(21));
}

#[test]
fn what_cannot_be_done_says_so_in_words_and_code() {
    let place = Place::with_noise(DISK, 7);
    let (_helper, ctl) = started(&place);
    let nowhere = PathBuf::from("/nowhere/out");

    let failed = ctl.run(["save", nowhere.to_str().unwrap()]);
    assert_eq!(failed.code, Some(1), "{failed:?}");
    assert!(
        failed.stderr.contains("cannot open the directory /nowhere"),
        "{failed:?}"
    );
    let usage = ctl.run(["save", "x", "--format=qcow2"]);
    assert_eq!(usage.code, Some(2), "{usage:?}");
    assert_eq!(ctl.run(["frobnicate"]).code, Some(2));
    let nobody = Ctl::at(place.dir().join("none")).run(["status"]);
    assert_eq!(nobody.code, Some(21));
    assert!(nobody.stderr.contains("cannot reach the helper"), "{nobody:?}");
}
