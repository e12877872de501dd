//! Helpers that fail, that never finish, that talk nonsense.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tests::ctl::Ctl;
use tests::helper::{END, beside_this_test};
use tests::place::Place;
use tests::pretender::{Manner, Pretender};
use tests::process::copy_program;
use tests::require;

use super::names;

fn pretending(place: &Place, manner: Manner) -> (Pretender, Ctl) {
    let socket = place.dir().join("ctl");
    let pretender = Pretender::at(&socket, &place.base(), manner);
    (pretender, Ctl::at(socket))
}

#[test]
fn a_save_that_is_interrupted_leaves_nothing() {
    let place = Place::with_noise(4096, 1);
    let (helper, ctl) = pretending(&place, Manner::Forever(vec![1; 4096]));
    let out = place.dir().join("out.raw");
    for (round, (signal, code)) in [
        (Signal::SIGINT, Some(130)),
        (Signal::SIGTERM, Some(143)),
        (Signal::SIGKILL, None),
    ]
    .into_iter()
    .enumerate()
    {
        let order = ctl.start(["save", out.to_str().unwrap()]);
        let begun = Instant::now();
        while helper.saves() == round {
            assert!(begun.elapsed() < END, "the save does not begin");
            std::thread::sleep(Duration::from_millis(1));
        }

        order.signal(signal);

        let ended = order.end();
        assert_eq!(ended.code, code, "{ended:?}");
        assert_eq!(
            ended.stderr.contains("nothing is left of it"),
            code.is_some(),
            "{ended:?}"
        );
        assert_eq!(names(&place), ["base.raw", "ctl", "overlay"]);
    }
}

#[test]
fn a_save_that_fails_leaves_nothing_and_says_why() {
    let place = Place::with_noise(4096, 2);
    let (_helper, ctl) = pretending(&place, Manner::Fails(vec![1; 512], "Input/output error"));
    let out = place.dir().join("out.raw");

    let ended = ctl.run(["save", out.to_str().unwrap()]);

    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("Input/output error"), "{ended:?}");
    assert_eq!(names(&place), ["base.raw", "ctl", "overlay"]);
}

#[test]
fn nonsense_is_no_answer_and_nothing_steers_the_terminal() {
    let place = Place::with_noise(4096, 3);
    for (packet, code) in [
        (&b"{"[..], 21),
        (b"{\"id\":1,\"ok\":\"reset\"}", 21),
        (b"{\"id\":1,\"error\":\"\\u001b[2J\\u0007gone\"}", 22),
    ] {
        let socket = place.dir().join(format!("ctl-{code}-{}", packet.len()));
        let _helper = Pretender::at(&socket, &place.base(), Manner::Says(packet.to_vec()));

        let ended = Ctl::at(&socket).run(["status"]);

        assert_eq!(ended.code, Some(code), "{ended:?}");
        assert!(!ended.stderr.trim_end().contains(char::is_control), "{ended:?}");
    }
}

/// A user that has nothing to do with any of this.
const STRANGER: u32 = 4711;

#[test]
fn a_stranger_at_the_socket_hears_no_word() {
    require!(root);
    let place = Place::with_noise(4096, 6);
    let dir = place.dir().join("open");
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, Permissions::from_mode(0o777)).unwrap();
    // A copy, since the tree may lie where that user cannot go.
    let program = dir.join("stranger");
    copy_program(&beside_this_test("stranger"), &program);
    let out = place.dir().join("out.raw");
    let save = ["save", out.to_str().unwrap()];
    for (trust, order, code) in [
        (None, &["status"][..], 22),
        (None, &save, 22),
        (Some("4712"), &save, 22),
        (Some("4711"), &["status"], 21),
    ] {
        let socket = dir.join("ctl");
        let stranger = Command::new(&program)
            .args([Path::new("listen"), &socket])
            .uid(STRANGER)
            .gid(STRANGER)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        while !is_served(&socket) {
            assert!(begun.elapsed() < END, "the stranger does not listen");
            std::thread::sleep(Duration::from_millis(1));
        }

        let trust = trust.iter().flat_map(|user| ["--trust-user", *user]);
        let ended = Ctl::at(&socket).run(trust.chain(order.iter().copied()));

        let heard_nothing = stranger.wait_with_output().unwrap().status.success();
        assert_eq!(ended.code, Some(code), "{ended:?}");
        assert_eq!(heard_nothing, code == 22, "{ended:?}");
        assert_eq!(ended.stderr.contains("say --trust-user 4711"), code == 22, "{ended:?}");
        fs::remove_file(&socket).unwrap();
    }
    assert!(!out.exists());
    let nobody = Ctl::at(place.dir().join("none")).run(["--trust-user", "no such user", "status"]);
    assert_eq!(nobody.code, Some(2), "{nobody:?}");
}

/// Whether somebody listens there, as /proc/net/unix shows it (a flag of 10000): a connection would be taken for the client's.
fn is_served(socket: &Path) -> bool {
    let sockets = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let socket = socket.to_string_lossy();
    sockets
        .lines()
        .any(|line| line.ends_with(&*socket) && line.split_ascii_whitespace().nth(3) == Some("00010000"))
}
