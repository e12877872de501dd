//! The helper's own memory, as a core file or a debugger would have it: nothing of what a guest wrote or read stays there.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command as Program;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use protocol::control::{Command, SaveFormat, SaveRequest, SaveState};
use tests::client::{Client, Setup};
use tests::helper::Helper;
use tests::memories::{Mapping, mappings, unread};
use tests::operator::Operator;
use tests::place::Place;
use tests::require;

use crate::media::copies_in;
use crate::{COPIES, Mark, marked, padded, place_of};

pub(crate) const MARK: Mark = *b"[this is for the guest's memory]";

/// All that a guest does with what it wrote: reads in whole and in part, writes over a part, in one buffer and in many.
fn busy(client: &mut Client) {
    for index in (0..COPIES).step_by(20) {
        let sector = client.read(place_of(index), 512);
        assert!(sector.starts_with(&MARK));
        assert!(client.read(place_of(index + 1), 4096).starts_with(&MARK));
        client.write(place_of(index) + 1024, &[1; 512]);
    }
    client.read(place_of(0), 512);
}

pub(crate) fn marked_and_busy(helper: &Helper) -> Client {
    let mut client = marked(helper, &MARK);
    busy(&mut client);
    client
}

/// How often the mark is in memory that is the guest's, and in memory that is not.
fn copies(helper: &Helper) -> (usize, usize) {
    let all = mappings(helper.pid());
    assert_eq!(unread(&all), [""; 0], "nobody looked at these");
    let (guests, own): (Vec<_>, Vec<_>) = all.iter().partition(|mapping| mapping.is_guests());
    let sum = |of: Vec<&Mapping>| of.iter().map(|mapping| mapping.count(&MARK)).sum();
    (sum(guests), sum(own))
}

/// Saves the disk, which its saver decrypts whole.
fn save(operator: &Operator, path: &Path) {
    let output = File::create_new(path).expect("the place can be written");
    let request = SaveRequest {
        format: SaveFormat::Raw,
        backing: None,
    };
    let asked = operator.ask(Command::Save(request), &[output.as_fd()]);
    asked.expect("the output is as it should be");
    let state = || operator.status().save.expect("a save was begun").state;
    let begun = Instant::now();
    while state() == SaveState::Running {
        assert!(begun.elapsed() < Duration::from_secs(60), "the save does not end");
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(state(), SaveState::Done);
}

/// It used to keep the last clusters that each thread had decrypted for a part of them, or for a save.
#[test]
fn a_helper_keeps_no_copy_of_what_went_through_it() {
    require!(root);
    let place = Place::with_noise(COPIES * 8192, 1);
    let (operator, theirs) = Operator::pair();
    let helper = place.helper().operated(theirs).start();
    let mut client = marked_and_busy(&helper);

    for index in [0, 1] {
        client.read(place_of(index), 512);
        let (guests, own) = copies(&helper);
        assert!(guests > 0, "the test looks in the wrong place");
        assert_eq!(own, 0, "copies in the helper's own memory");
    }
    let saved = place.dir().join("saved");
    save(&operator, &saved);
    assert_eq!(copies_in(&saved, &MARK), COPIES);
    assert_eq!(copies(&helper).1, 0, "copies in the helper's own memory after a save");
    helper.terminate();
}

/// Sectors for which there is no space, in clusters that nobody wrote yet: it used to keep them beside the rest of the cluster.
#[test]
fn a_helper_keeps_no_copy_of_what_it_had_no_space_for() {
    require!(root);
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().value("--overlay-limit", "64K").start();
    let mut client = Client::connect(helper.socket(), Setup::default());
    client.write(0, &[7; 64 << 10]);

    assert_ne!(client.try_write(128 << 10, &padded(&MARK, 512)), 0, "there is no space");

    let (guests, own) = copies(&helper);
    assert!(guests > 0, "the test looks in the wrong place");
    assert_eq!(own, 0, "copies in the helper's own memory");
    helper.terminate();
}

/// Allows core files, goes where they may lie, and becomes the program that it is given.
const LAUNCHER: [&str; 3] = ["sh", "-c", r#"ulimit -c unlimited && cd "$0" && exec "$@""#];

#[test]
fn a_helper_that_crashes_leaves_no_core_file() {
    let place = Place::with_noise(1 << 20, 1);
    let dir = place.dir().to_owned();
    let ordinary = Program::new(LAUNCHER[0])
        .args(&LAUNCHER[1..])
        .arg(&dir)
        .args(["sh", "-c", "kill -ABRT $$"])
        .status()
        .unwrap();
    if !ordinary.core_dumped() {
        require::skip("needs to be allowed core files (ulimit -Hc)");
        return;
    }
    let words = LAUNCHER.map(Into::into).into_iter().chain([dir.into_os_string()]);

    for signal in [Signal::SIGABRT, Signal::SIGSEGV, Signal::SIGQUIT] {
        let helper = place.helper().behind(words.clone()).start();
        helper.signal(signal);
        let ended = helper.wait_within(Duration::from_secs(20));
        assert!(ended.signal.is_some() && !ended.dumped_core, "{ended:?}");
    }
}
