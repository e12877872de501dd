//! What cannot start: the right exit code, and a message that says what to do.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::Signal;
use tests::place::Place;
use tests::require;
use tests::supervised::{END, Supervised};

use crate::support::{assets, shell, turn, word};

/// Where bad inputs are, in a place.
fn bad_inputs(place: &Place) -> impl Fn(&str) -> PathBuf {
    let dir = place.dir().to_owned();
    for (name, content) in [
        ("qcow2.raw", b"QFI\xfb and more".to_vec()),
        ("text", b"this is no kernel\n".repeat(1000)),
        ("vm.toml", b"kernel = 'text'\nmemmory = '1G'\n".to_vec()),
    ] {
        fs::write(dir.join(name), content).expect("the place can be written");
    }
    move |name| dir.join(name)
}

#[test]
fn what_cannot_start_says_why_in_a_line_and_leaves_nothing() {
    let _turn = turn();
    let place = Place::with_noise(4096, 12);
    let at = bad_inputs(&place);
    let kernel = word("kernel", &assets().kernel);
    let kernel = kernel.as_str();
    let disk = |name: &str| word("disk", &at(name));
    let (qcow2, none, dir) = (disk("qcow2.raw"), disk("none.raw"), disk("overlay"));
    let (config, text) = (word("config", &at("vm.toml")), word("kernel", &at("text")));
    let (socket, lost) = (word("disk-socket", &at("socket")), word("overlay-dir", &at("nowhere")));
    let base = disk("base.raw");
    let cases: &[(&[&str], i32, &str)] = &[
        (&[], 2, "there is no kernel: give --kernel"),
        (
            &["--kernel=/nowhere/vmlinuz"],
            1,
            "cannot open the kernel /nowhere/vmlinuz: No such file",
        ),
        (&["--kernel=/"], 1, "the kernel / is a directory"),
        (&[&text], 1, "vmm did not start"),
        (&[kernel, &none], 1, "none.raw: No such file"),
        (
            &[kernel, &dir],
            1,
            "overlay is a directory; give the path of a raw image",
        ),
        (&[kernel, &qcow2], 1, "looks like a qcow2 image"),
        (&[kernel, &base, &lost], 1, "disk vda (base.raw) did not start"),
        (
            &[kernel, "--disk=/dev/null"],
            1,
            "it must be a regular file or a block device",
        ),
        (&[kernel, &socket], 1, "nobody serves disk vda (socket)"),
        (&[kernel, &socket, &socket], 2, "is named twice"),
        (&[kernel, "--memory=900T"], 1, "is more than this machine has"),
        (&[kernel, "--memory=5000"], 2, "multiple of 4096"),
        (
            &[kernel, "--net=tap=mayfly-none"],
            1,
            "there is no network interface mayfly-none",
        ),
        (&[kernel, "--net=fd=9"], 1, "descriptor 9 (--net fd=9) is not open"),
        (&[kernel, "--net=tap=lo"], 1, "ip tuntap add"),
        (
            &[kernel, "--net=tap=t,mac=nonsense"],
            2,
            "six pairs of hexadecimal digits",
        ),
        (&[&config], 2, "memmory"),
        (
            &["--config=/nowhere/vm.toml"],
            2,
            "cannot read the configuration file /nowhere/vm.toml",
        ),
    ];
    for (words, code, said) in cases {
        let ended = Supervised::new(["run", "--accel=qemu"]).and(*words).output();

        assert_eq!(ended.code, Some(*code), "{words:?}: {ended:?}");
        assert!(ended.stderr.contains(said), "{words:?}: {ended:?}");
        assert!(ended.stdout.is_empty(), "{words:?}: {ended:?}");
    }
}

/// A tap of a test's own, as an operator makes one.
struct OwnTap(String);

impl OwnTap {
    fn new() -> Option<Self> {
        let name = format!("mf{}", std::process::id());
        let made = Command::new("ip")
            .args(["tuntap", "add", &name, "mode", "tap"])
            .status();
        made.is_ok_and(|status| status.success()).then_some(Self(name))
    }
}

impl Drop for OwnTap {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "del", &self.0]).status();
    }
}

#[test]
fn a_tap_has_one_user_at_a_time() {
    require!(root);
    let Some(tap) = OwnTap::new() else {
        require::skip("needs ip and /dev/net/tun");
        return;
    };
    let _turn = turn();
    let place = Place::with_noise(4096, 15);
    let run = || shell(&place).and([format!("--net=tap={}", tap.0)]);
    let mut first = run().on_pipes();
    let _ready = first.process("qemu");

    let second = run().output();

    assert_eq!(second.code, Some(1), "{second:?}");
    assert!(second.stderr.contains("is in use by another program"), "{second:?}");
    first.signal(Signal::SIGTERM);
    assert_eq!(first.wait_within(END).code, Some(128 + 15));
}

#[test]
fn a_program_that_is_missing_is_named_with_what_to_do() {
    let kernel = word("kernel", &assets().kernel);
    let place = Place::with_noise(4096, 13);
    let disk = word("disk", &place.base());
    for (variable, program, said) in [
        (
            "MAYFLY_BLK_HELPER",
            "/nowhere/blk-helper",
            "cannot find /nowhere/blk-helper: it belongs beside",
        ),
        (
            "MAYFLY_QEMU",
            "qemu-none",
            "cannot find qemu-none, which runs the guest where KVM does not; install it",
        ),
    ] {
        let run = Supervised::new(["run", "--accel=qemu", &kernel, &disk]).variable(variable, program);

        let ended = run.output();

        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.stderr.contains(said), "{ended:?}");
    }
}

#[test]
fn a_dry_run_starts_nothing_and_shows_everything() {
    let place = Place::with_noise(4096, 14);
    let ended = shell(&place).and(["--dry-run", "--net=tap=mayfly-none"]).output();

    assert_eq!(ended.code, Some(0), "{ended:?}");
    for expected in [
        "blk-helper --blk-file=fd:5",
        "qemu-system-x86_64",
        "tap of network card 0",
        "base image, read-only",
    ] {
        assert!(ended.stdout.contains(expected), "{expected}: {ended:?}");
    }
}
