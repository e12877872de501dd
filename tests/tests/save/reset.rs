//! A disk that is pristine again, in no time, with another key, and without its past.

use std::time::{Duration, Instant};

use protocol::control::{Answer, Command};
use protocol::launch::ExitCode;
use tests::client::Client;
use tests::helper::END;
use tests::memory::GuestMemory;
use tests::operator::Operator;
use tests::place::Place;
use tests::raw::{MEMORY, OK, OUT, RawDisk};
use tests::wire::{Wire, code, words};

use crate::support::{RAW, connect, operated, save};

fn reset(operator: &Operator) -> Result<Answer, String> {
    operator.ask(Command::Reset, &[])
}

/// Resets as soon as that is possible: the guest has to leave.
fn reset_soon(operator: &Operator) {
    let begun = Instant::now();
    while let Err(refused) = reset(operator) {
        assert!(refused.starts_with("busy"), "{refused}");
        assert!(begun.elapsed() < Duration::from_secs(10), "{refused}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn fill(client: &mut Client, byte: u8) {
    for mebibyte in 0..client.capacity() >> 20 {
        client.write(mebibyte << 20, &vec![byte; 1 << 20]);
    }
}

#[test]
fn a_reset_disk_is_the_base_again_and_takes_no_space() {
    let place = Place::with_noise(16 << 20, 1);
    for options in [&[][..], &["--no-encrypt"]] {
        let helper = options
            .iter()
            .fold(place.helper(), |helper, option| helper.option(option));
        let (helper, operator) = operated(helper);
        for round in 1..=3 {
            let mut client = connect(&helper);
            assert!(client.read_all() == place.content(), "round {round}");
            fill(&mut client, round);
            assert!(reset(&operator).unwrap_err().contains("is started"));
            drop(client);
            reset_soon(&operator);
            let overlay = operator.status().overlay.unwrap();
            assert_eq!(
                (overlay.dirty_clusters, overlay.zero_clusters, overlay.used_bytes),
                (0, 0, 0)
            );
            assert_eq!(overlay.map_bytes, 0);
            if round == 1 {
                // Later ones may stay with the file in use while the other is being emptied.
                assert_eq!(overlay.disk_usage_bytes, 0);
            }
        }
        // What is saved, and how, is as if nothing had been.
        let mut client = connect(&helper);
        client.write(4096, &[9; 8192]);
        let raw = save(&operator, RAW, place.dir().join(format!("raw-{}", options.len())));
        assert!(std::fs::read(raw).unwrap() == client.read_all());
        helper.terminate();
    }
}

/// What it takes is printed (`--nocapture`). `MAYFLY_RESET_MIB=4096`, with the programs of a release, gives the figures in
/// docs/control.md.
#[test]
fn a_guest_can_have_the_disk_again_however_much_was_written() {
    let mebibytes = std::env::var("MAYFLY_RESET_MIB").map_or(16, |number| number.parse().expect("a number"));
    let place = Place::with_noise(4096, 5);
    let large = place.dir().join("large");
    std::fs::write(&large, [7; 4096]).unwrap();
    let base = std::fs::OpenOptions::new().write(true).open(&large).unwrap();
    base.set_len(mebibytes << 20).unwrap();
    let (helper, operator) = operated(place.helper().base(&large));
    let mut client = connect(&helper);
    fill(&mut client, 9);
    let dirty = operator.status().overlay.unwrap().dirty_clusters;
    assert_eq!(dirty, mebibytes << 8);
    drop(client);
    let status = || operator.status();
    let begun = Instant::now();
    while status().connected {
        assert!(begun.elapsed() < END, "the guest does not leave");
        std::thread::sleep(Duration::from_millis(1));
    }

    let begun = Instant::now();
    reset_soon(&operator);
    let answered = begun.elapsed();
    let mut client = connect(&helper);
    assert_eq!(client.read(0, 4096), [7; 4096]);
    let read = begun.elapsed();

    assert!(answered < END, "a reset waits for what was written: {answered:?}");
    println!("{mebibytes} MiB dirty: reset after {answered:?}, the next guest has read after {read:?}");
    assert_eq!(client.read(8192, 4096), [0; 4096]);
    helper.terminate();
}

#[test]
fn a_reset_waits_for_no_other() {
    let place = Place::with_noise(16 << 20, 4);
    let (helper, operator) = operated(place.helper());
    let mut client = connect(&helper);
    fill(&mut client, 7);
    drop(client);
    reset_soon(&operator);
    for _ in 0..100 {
        assert_eq!(reset(&operator), Ok(Answer::Reset));
    }
    assert!(connect(&helper).read_all() == place.content());
    helper.terminate();
}

/// A ring with a past of the burnt disk would take its guest's disk from under it.
#[test]
fn a_ring_that_knew_the_disk_before_the_reset_is_refused() {
    let place = Place::with_noise(1 << 20, 2);
    let (operator, theirs) = Operator::pair();
    let helper = place.helper().closed().operated(theirs).start();
    let memory = || GuestMemory::sealed(MEMORY);
    let mut disk = RawDisk::start_with(operator.attach().unwrap(), memory(), 1, 64);
    assert_eq!(disk.request(OUT, 0, &[7; 512], 0).0, OK);
    assert!(reset(&operator).unwrap_err().contains("queue 0 is started"));
    let base = disk.wire.ask(code::GET_VRING_BASE, &words(&[0, 0])).unwrap();
    let base = u32::from_le_bytes(base.body[4..8].try_into().unwrap());
    assert_eq!(base, 1);

    assert_eq!(reset(&operator), Ok(Answer::Reset));

    assert!(disk.try_start_ring(0, base).is_some());
    helper.wait_within(END).assert_code(ExitCode::HistoryRefused);
}

#[test]
fn fresh_rings_find_the_base_after_a_reset() {
    let place = Place::with_noise(1 << 20, 3);
    let (operator, theirs) = Operator::pair();
    let helper = place.helper().closed().operated(theirs).start();
    for _ in 0..3 {
        let wire: Wire = operator.attach().unwrap();
        let mut disk = RawDisk::start_with(wire, GuestMemory::sealed(MEMORY), 1, 64);
        let (status, _, bytes) = disk.request(tests::raw::IN, 8, &[], 512);
        assert_eq!((status, &bytes[..]), (OK, &place.content()[4096..4608]));
        assert_eq!(disk.request(OUT, 8, &[7; 512], 0).0, OK);
        drop(disk);
        reset_soon(&operator);
    }
    helper.terminate();
}
