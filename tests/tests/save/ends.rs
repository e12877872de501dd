//! Saves that do not go through: the helper serves on, and the overlay is as if there had been none.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::Signal;
use protocol::control::{Answer, Command, Event, SaveState};
use tests::helper::END;
use tests::mounted::Mounted;
use tests::operator::Operator;
use tests::place::Place;
use tests::require;

use crate::support::{RAW, assert_same, await_end, begin, connect, delta, operated, output, save};

/// A disk so large that a save of it lasts, with nothing in it.
fn vast(place: &Place) -> std::path::PathBuf {
    let path = place.dir().join("vast.raw");
    let file = File::create_new(&path).expect("the place can be written");
    file.set_len(1 << 40).expect("files can be sparse");
    path
}

fn assert_nothing_kept(operator: &Operator) {
    let overlay = operator.status().overlay.expect("the disk can be written");
    assert_eq!(overlay.used_bytes, overlay.dirty_clusters * 4096);
}

#[test]
fn a_save_is_called_off_with_the_guest_writing() {
    let place = Place::with_noise(1 << 20, 1);
    let base = vast(&place);
    let (helper, operator) = operated(place.helper().base(&base));
    let mut client = connect(&helper);
    let last = client.capacity() - 4096;
    client.write(last, &[1; 4096]);
    let path = place.dir().join("output");
    begin(&operator, RAW, &output(&path)).unwrap();
    client.write(last, &[2; 4096]);
    assert_eq!(
        operator.status().overlay.unwrap().used_bytes,
        2 * 4096,
        "what the save needs counts"
    );
    let second = output(&place.dir().join("second"));
    assert!(begin(&operator, RAW, &second).unwrap_err().contains("busy"));
    let answer = operator.ask(
        Command::Resize(protocol::control::ResizeRequest { disk_bytes: 2 << 40 }),
        &[],
    );
    assert!(answer.unwrap_err().contains("busy"));

    assert_eq!(operator.ask(Command::CancelSave, &[]), Ok(Answer::Cancelled));

    let ended = await_end(&operator);
    assert_eq!((ended.number, ended.state), (1, SaveState::Cancelled));
    assert!(ended.done_bytes < ended.total_bytes);
    assert_eq!(fs::metadata(&path).unwrap().len(), 0);
    assert_eq!(client.read(last, 4096), [2; 4096]);
    assert_nothing_kept(&operator);
    helper.terminate();
    fs::remove_file(base).unwrap();
}

#[test]
fn a_save_is_found_by_its_number_though_another_has_begun() {
    let place = Place::with_noise(1 << 20, 9);
    let (helper, operator) = operated(place.helper());
    operator.subscribe();
    for (number, name) in [(1, "first"), (2, "second")] {
        let output = output(&place.dir().join(name));
        let answer = operator.ask(Command::Save(RAW), &[output.as_fd()]);
        assert_eq!(answer, Ok(Answer::Saving { number }));
        assert_eq!(operator.event(), Event::Saved { number });
    }

    let status = operator.status();

    let ends = [status.save, status.previous_save].map(|save| save.map(|save| (save.number, save.state)));
    assert_eq!(ends, [Some((2, SaveState::Done)), Some((1, SaveState::Done))]);
    let late = operator.ask(Command::CancelSave, &[]);
    assert!(late.unwrap_err().contains("no save is running"));
    helper.terminate();
}

#[test]
fn a_save_belongs_to_the_connection_that_asked_and_ends_with_it() {
    let place = Place::with_noise(1 << 20, 5);
    let base = vast(&place);
    let path = place.dir().join("control");
    let (helper, operator) = operated(place.helper().base(&base).value("--control-path", &path));
    operator.subscribe();
    let client = Operator::connect(&path);
    let saved = place.dir().join("output");
    begin(&client, RAW, &output(&saved)).unwrap();
    let other = operator.ask(Command::CancelSave, &[]);
    assert!(other.unwrap_err().contains("no save"));

    drop(client);

    assert_eq!(operator.event(), Event::SaveCancelled { number: 1 });
    assert_eq!(await_end(&operator).state, SaveState::Cancelled);
    assert_eq!(fs::metadata(&saved).unwrap().len(), 0);
    let small = Operator::connect(&path);
    assert_eq!(operator.ask(Command::Reset, &[]), Ok(Answer::Reset));
    assert_eq!(operator.event(), Event::Reset);
    let bytes = 2 << 40;
    let resize = Command::Resize(protocol::control::ResizeRequest { disk_bytes: bytes });
    assert_eq!(small.ask(resize, &[]), Ok(Answer::Resized));
    assert_eq!(operator.event(), Event::Resized { disk_bytes: bytes });
    helper.terminate();
    fs::remove_file(base).unwrap();
}

#[test]
fn a_helper_that_is_killed_leaves_no_delta_that_looks_whole() {
    let place = Place::with_noise(1 << 20, 2);
    let base = vast(&place);
    let (helper, operator) = operated(place.helper().base(&base));
    connect(&helper).write(0, &[1; 4096]);
    let path = place.dir().join("output");
    begin(&operator, delta(&base), &output(&path)).unwrap();
    while operator.status().save.unwrap().done_bytes == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }

    helper.signal(Signal::SIGKILL);

    let _ended = helper.wait_within(END);
    let left = fs::read(&path).unwrap();
    assert!(!left.starts_with(b"QFI"), "{} bytes", left.len());
    fs::remove_file(base).unwrap();
}

#[test]
fn an_output_that_takes_nothing_fails_with_the_reason_and_the_disk_serves_on() {
    let place = Place::with_noise(1 << 20, 3);
    let (helper, operator) = operated(place.helper());
    let mut client = connect(&helper);
    client.write(0, &[1; 4096]);
    let sealed = File::from(memfd_create(c"output", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap());
    nix::fcntl::fcntl(
        &sealed,
        nix::fcntl::FcntlArg::F_ADD_SEALS(nix::fcntl::SealFlag::F_SEAL_GROW),
    )
    .unwrap();
    for request in [RAW, delta(&place.base())] {
        begin(&operator, request, &sealed).unwrap();
        let ended = await_end(&operator);
        let SaveState::Failed(reason) = ended.state else {
            panic!("{ended:?}");
        };
        assert!(reason.contains("cannot write the output"), "{reason}");
    }
    client.write(4096, &[2; 4096]);
    assert_nothing_kept(&operator);
    let raw = save(&operator, RAW, place.dir().join("raw"));
    assert!(fs::read(raw).unwrap() == client.read_all());
    helper.terminate();
}

#[test]
fn a_full_file_system_fails_the_save_and_nothing_else() {
    require!(root);
    let place = Place::with_noise(16 << 20, 4);
    let small = place.dir().join("small");
    fs::create_dir(&small).unwrap();
    let _tmpfs = Mounted::tmpfs(&small, "4m");
    let (helper, operator) = operated(place.helper());
    let mut client = connect(&helper);
    for cluster in 0..2048 {
        client.write(cluster * 4096, &[3; 4096]);
    }
    for (name, request) in [("raw", RAW), ("delta", delta(&place.base()))] {
        let path = small.join(name);
        begin(&operator, request, &output(&path)).unwrap();

        let ended = await_end(&operator);

        let SaveState::Failed(reason) = ended.state else {
            panic!("{ended:?}");
        };
        assert!(reason.contains("No space left"), "{reason}");
        assert_eq!(fs::metadata(&path).unwrap().len(), 0);
        fs::remove_file(&path).unwrap();
    }
    assert_nothing_kept(&operator);
    let raw = save(&operator, RAW, place.dir().join("raw"));
    assert_same(&save(&operator, delta(&place.base()), place.dir().join("delta")), &raw);
    assert!(fs::read(raw).unwrap() == client.read_all());
    helper.terminate();
}
