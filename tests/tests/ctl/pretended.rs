//! Helpers that fail, that never finish, that talk nonsense.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tests::ctl::Ctl;
use tests::helper::END;
use tests::place::Place;
use tests::pretender::{Manner, Pretender};

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
