//! An output whose open file somebody else has too, and makes append while it is saved to.

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc::EIO;
use protocol::control::{Command, SaveFormat, SaveRequest, SaveState};
use tests::client::{Client, Setup};
use tests::faults::{Call, Faults, Rule, When};
use tests::operator::Operator;
use tests::place::Place;

use super::OURS;

const DISK: usize = 1 << 20;
/// More than a save of this disk has writes.
const MOST: u64 = 100;
const PATIENCE: Duration = Duration::from_secs(30);

/// Asks until `so` says something.
fn eventually<T>(what: &str, so: impl Fn() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = so() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn append_from_now_on(file: &File) {
    fcntl(file, FcntlArg::F_SETFL(OFlag::O_APPEND)).expect("a flag like another");
}

/// Every write then goes to the end, wherever it was meant to go, and none fails. Such a save used to be called done.
#[test]
fn what_was_saved_into_a_file_that_appends_is_not_called_done() {
    let place = Place::with_noise(DISK, 3);
    let faults = Faults::new(place.dir());
    let helper = place.helper().controlled().faulty(&faults).start();
    let operator = Operator::connect(&place.control());
    let mut guest = Client::connect(helper.socket(), Setup::default());
    guest.write(8192, &[7; 512]);
    let disk = guest.read_all();
    let output = helper.descriptors("place of a save's output");
    let formats = [(SaveFormat::Raw, None), (SaveFormat::Qcow2Delta, Some("base.raw"))];
    let saves = |(format, backing): (SaveFormat, Option<&str>), rule: Rule| {
        let mut options = OpenOptions::new();
        let path = place.dir().join("saved");
        let file = options.create(true).write(true).truncate(true).open(path).expect(OURS);
        faults.set(&[rule.on(&output)]);
        let backing = backing.map(str::to_owned);
        let begun = operator.ask(Command::Save(SaveRequest { format, backing }), &[file.as_fd()]);
        begun.expect("the output is as it should be");
        file
    };
    let ended = || {
        eventually("it does not end", || {
            let save = operator.status().save.expect("there was one");
            (save.state != SaveState::Running).then_some(save.state)
        })
    };
    // From its first write on, and for its last: in a delta the header, when all else is where it should be.
    let both = formats.map(|format| {
        // One write after the other fails, once, until there is none left.
        let fails = |nth: &u64| {
            drop(saves(format, Rule::fail(&[Call::Pwrite], EIO).when(When::Nth(*nth))));
            let ended = ended();
            assert_eq!(ended == SaveState::Done, faults.spoilt().is_empty(), "{ended:?}");
            ended != SaveState::Done
        };
        let count = (1..MOST).take_while(fails).last().expect("it writes");
        assert!(count > 1, "its first write is not its last");
        [(format, 1), (format, count)]
    });
    for (format, nth) in both.into_iter().flatten() {
        let file = saves(format, Rule::hold(&[Call::Pwrite]).when(When::Nth(nth)));
        eventually("nothing is written", || (faults.spoilt() == [1]).then_some(()));

        append_from_now_on(&file);
        faults.clear();

        let ended = ended();
        assert!(
            matches!(&ended, SaveState::Failed(why) if why.contains("O_APPEND")),
            "{ended:?}"
        );
        assert_eq!(file.metadata().expect(OURS).len(), 0);
    }
    assert!(guest.read_all() == disk, "the guest's disk changed");
    helper.terminate();
}
