//! Saves that are not begun: nothing changes, and the output is not touched.

use std::fs::OpenOptions;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;

use protocol::control::{Command, SaveFormat, SaveRequest};
use tests::place::Place;

use crate::support::{RAW, begin, connect, delta, operated, output};

fn named(backing: &str) -> SaveRequest {
    SaveRequest {
        format: SaveFormat::Qcow2Delta,
        backing: Some(backing.to_owned()),
    }
}

#[test]
fn what_is_no_empty_file_that_can_be_written_anywhere_is_refused() {
    let place = Place::with_noise(1 << 20, 1);
    let (helper, operator) = operated(place.helper());
    let path = place.dir().join("output");
    drop(output(&path));
    let open = |options: &mut OpenOptions| options.open(&path).unwrap();
    let full = place.dir().join("full");
    std::fs::write(&full, "x").unwrap();
    let (socket, _peer) = UnixStream::pair().unwrap();
    let writing = || OpenOptions::new().write(true).clone();
    let base = OpenOptions::new().write(true).open(place.base()).unwrap();
    let cases: [(&str, &dyn AsFd); 7] = [
        ("not open for writing", &open(OpenOptions::new().read(true))),
        ("O_APPEND", &open(OpenOptions::new().append(true))),
        ("O_DIRECT", &open(writing().custom_flags(nix::libc::O_DIRECT))),
        ("not empty", &writing().open(&full).unwrap()),
        ("no regular file", &writing().open("/dev/null").unwrap()),
        ("no regular file", &socket),
        ("a file of this disk", &base),
    ];
    for (why, sent) in cases {
        let refused = begin(&operator, RAW, &sent.as_fd()).unwrap_err();
        assert!(refused.contains(why), "{refused}");
    }
    assert_eq!(operator.status().save, None);
    begin(&operator, RAW, &open(&mut writing())).unwrap();
    helper.terminate();
}

#[test]
fn what_cannot_be_saved_is_refused_with_the_reason() {
    let place = Place::with_noise(1 << 20, 2);
    let (helper, operator) = operated(place.helper());
    let file = output(&place.dir().join("output"));
    let long = "x".repeat(1024);
    for request in [named(""), named(&long)] {
        assert!(
            begin(&operator, request, &file)
                .unwrap_err()
                .contains("1 to 1023 bytes")
        );
    }
    let nameless = SaveRequest {
        format: SaveFormat::Qcow2Delta,
        backing: None,
    };
    assert!(
        begin(&operator, nameless, &file)
            .unwrap_err()
            .contains("the name of the base")
    );
    let raw = SaveRequest {
        format: SaveFormat::Raw,
        ..named("base")
    };
    assert!(begin(&operator, raw, &file).unwrap_err().contains("no backing file"));
    assert!(operator.ask(Command::CancelSave, &[]).unwrap_err().contains("no save"));
    assert!(operator.ask(Command::Save(RAW), &[]).unwrap_err().contains("needs 1"));
    let mut client = connect(&helper);
    client.write(0, &[1; 512]);
    helper.terminate();
}

#[test]
fn a_read_only_disk_has_nothing_to_decide_about() {
    let place = Place::with_noise(1 << 20, 3);
    let (helper, operator) = operated(place.helper().read_only());
    let file = output(&place.dir().join("output"));
    for request in [RAW, delta(&place.base())] {
        assert!(begin(&operator, request, &file).unwrap_err().contains("read-only"));
    }
    assert!(operator.ask(Command::Reset, &[]).unwrap_err().contains("read-only"));
    helper.terminate();
}
