//! What the command line accepts, refuses and prints.

use std::fs::File;
use std::process::Command;

use nix::sys::signal::Signal;
use protocol::launch::ExitCode;
use tests::abuse::assert_serves;
use tests::client::{Client, Setup};
use tests::helper::{END, program};
use tests::model::SECTOR;
use tests::place::Place;
use tests::raw::RawDisk;

#[test]
fn a_command_line_that_makes_no_sense_is_usage() {
    let place = Place::with_noise(1 << 20, 1);
    for options in [
        &["--no-such-option"][..],
        &["--num-queues", "0"],
        &["--num-queues", "many"],
        &["--queue-size", "100"],
        &["--queue-size", "65536"],
        &["--overlay-limit", "10Q"],
        &["--overlay-limit", "-1"],
        &["--serial", "a serial number of more than twenty bytes"],
        &["--user", "root"],
        &["--user", "0"],
        &["--fd", "99", "--socket-path", "/nowhere"],
    ] {
        let builder = options
            .iter()
            .fold(place.helper(), |builder, option| builder.option(option));
        builder.start_refused().assert_code(ExitCode::Usage);
    }
}

#[test]
fn what_cannot_be_served_is_refused_with_its_name() {
    let place = Place::with_noise(1 << 20, 1);
    let missing = place.dir().join("missing");

    for (builder, name) in [
        (place.helper().base(&missing), "missing"),
        (place.helper().base(place.dir()), "mayfly-test"),
        (place.helper().base("/dev/null"), "/dev/null"),
        (place.helper().overlay_dir(&missing), "missing"),
        (place.helper().overlay_dir(place.base()), "base.raw"),
    ] {
        let ended = builder.start_refused();
        ended.assert_code(ExitCode::CannotStart);
        assert!(ended.stderr.contains(name), "{}", ended.stderr);
    }
}

#[test]
fn an_empty_base_is_refused_with_a_reason() {
    let place = Place::with_base(&[]);

    let ended = place.helper().start_refused();

    ended.assert_code(ExitCode::CannotStart);
    assert!(
        ended.stderr.contains("empty") || ended.stderr.contains("no sector"),
        "{}",
        ended.stderr
    );
}

#[test]
fn an_image_of_a_known_format_is_refused_unless_it_is_meant() {
    for magic in [
        &b"QFI\xfb\0\0\0\x03"[..],
        b"KDMV\x01\0\0\0",
        b"vhdxfile",
        b"QED\0\0\0\0\0",
    ] {
        let place = Place::with_base(&[magic, &[0; 4096]].concat());

        let ended = place.helper().start_refused();
        ended.assert_code(ExitCode::CannotStart);
        assert!(ended.stderr.contains("--raw-anyway"), "{}", ended.stderr);

        let helper = place.helper().option("--raw-anyway").start();
        let mut client = Client::connect(helper.socket(), Setup::default());
        assert_eq!(client.read(0, SECTOR)[..magic.len()], *magic);
        helper.terminate();
    }
}

#[test]
fn an_inherited_base_is_served_if_it_can_only_be_read() {
    let place = Place::with_noise(1 << 20, 1);

    let helper = place
        .helper()
        .base_descriptor(File::open(place.base()).unwrap())
        .start();
    assert_serves(helper, &place);

    let writable = File::options().read(true).write(true).open(place.base()).unwrap();
    place
        .helper()
        .base_descriptor(writable)
        .start_refused()
        .assert_code(ExitCode::CannotStart);
}

#[test]
fn its_capabilities_are_printed_as_the_convention_wants() {
    let output = Command::new(program()).arg("--print-capabilities").output().unwrap();

    let printed: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON value");
    assert!(output.status.success());
    assert_eq!(printed["type"], "block");
    let features: Vec<_> = printed["features"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap())
        .collect();
    assert!(
        features.contains(&"read-only") && features.contains(&"blk-file"),
        "{features:?}"
    );
    // It wants other options to be ignored then.
    let place = Place::with_noise(512, 1);
    let with_others = Command::new(program())
        .args([
            "--print-capabilities",
            "--read-only",
            "--blk-file=nowhere",
            "--socket-path",
        ])
        .arg(place.dir().join("socket"))
        .output()
        .unwrap();
    assert_eq!(with_others.stdout, output.stdout, "{with_others:?}");
    assert!(!place.dir().join("socket").exists());
}

#[test]
fn version_and_help_are_for_people() {
    let run = |option| {
        let output = Command::new(program()).arg(option).output().unwrap();
        assert!(output.status.success(), "{option}");
        String::from_utf8(output.stdout).unwrap()
    };

    let help = run("--help").split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(run("--version").starts_with("blk-helper "));
    for option in [
        "--blk-file",
        "--socket-path",
        "--overlay-limit",
        "--exit-on-disconnect",
        "--no-encrypt",
    ] {
        assert!(help.contains(option), "{option} is missing from --help");
    }
}

#[test]
fn standard_output_carries_the_report_and_nothing_else() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();
    RawDisk::start(helper.socket(), 1, 64).assert_serves();

    helper.signal(Signal::SIGTERM);
    let ended = helper.wait_within(END);

    assert_eq!(ended.stdout.lines().count(), 1, "{}", ended.stdout);
}
