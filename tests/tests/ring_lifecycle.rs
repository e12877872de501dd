//! What becomes of a ring when memory moves under it, when it is started anew, and when it breaks.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use tests::abuse::assert_serves;
use tests::helper::Helper;
use tests::memory::{GUEST_BASE, GuestMemory};
use tests::place::Place;
use tests::raw::{FRONTEND_BASE, MEMORY, RawDisk, RawRing, region, signalled, tell_memory};
use tests::wire::{code, longs, words};

const SOON: Duration = Duration::from_secs(5);
/// The available ring of ring 0.
const AVAIL: u64 = 512 << 10;
/// Between the available ring and the used ring, and on a page.
const BETWEEN: u64 = 576 << 10;
const EVENT_IDX: u64 = 1 << 29;

/// A stretch of guest memory, and where its bytes come from.
struct Stretch<'m> {
    from: u64,
    to: u64,
    memory: &'m GuestMemory,
    file_offset: u64,
}

fn flush(disk: &mut RawDisk, count: usize) {
    disk.publish_and_kick(count);
    let RawDisk { memory, rings, .. } = disk;
    assert_eq!(rings[0].wait_used(memory, count).len(), count);
}

fn base_of(disk: &RawDisk) -> u32 {
    let answer = disk
        .wire
        .ask(code::GET_VRING_BASE, &words(&[0, 0]))
        .expect("GET_VRING_BASE is answered");
    u32::from_le_bytes(answer.body[4..8].try_into().expect("a state has eight bytes"))
}

fn set_features(disk: &RawDisk, features: u64) {
    let told = disk.wire.tell(code::SET_FEATURES, &longs(&[features]), &[]);
    assert_eq!(told.ok(), Some(0), "{features:#x}");
}

/// SET_MEM_TABLE; both address spaces are laid out alike.
fn tell_stretches(disk: &RawDisk, stretches: &[Stretch<'_>]) {
    let mut body = words(&[u32::try_from(stretches.len()).expect("a few"), 0]);
    for part in stretches {
        body.extend(region(
            GUEST_BASE + part.from,
            part.to - part.from,
            FRONTEND_BASE + part.from,
            part.file_offset,
        ));
    }
    let fds: Vec<BorrowedFd<'_>> = stretches.iter().map(|part| part.memory.as_fd()).collect();
    assert_eq!(
        disk.wire.tell(code::SET_MEM_TABLE, &body, &fds).ok(),
        Some(0),
        "the regions do not overlap"
    );
}

/// The memory of `disk`, except that `[from, to)` of it is missing, and what follows up to [`BETWEEN`] is `other`'s.
fn tell_cut_memory(disk: &RawDisk, from: u64, to: u64, other: &GuestMemory) {
    let all = |from, to| Stretch {
        from,
        to,
        memory: &disk.memory,
        file_offset: from,
    };
    let strange = Stretch {
        from: to,
        to: BETWEEN,
        memory: other,
        file_offset: 0,
    };
    tell_stretches(disk, &[all(0, from), strange, all(BETWEEN, MEMORY)]);
}

/// Processor time of the helper so far, in ticks of ten milliseconds.
fn ticks(helper: &Helper) -> u64 {
    let stat = fs::read_to_string(helper.proc("stat")).expect("everybody may read this");
    let (_, fields) = stat.rsplit_once(')').expect("the name is in parentheses");
    let number = |at| -> u64 {
        let field = fields.split_whitespace().nth(at).expect("stat has 52 fields");
        field.parse().expect("processor time is a number")
    };
    number(11) + number(12)
}

/// No worker turns round and round.
fn assert_idle(helper: &Helper) {
    let before = ticks(helper);
    std::thread::sleep(Duration::from_secs(1));
    let spent = ticks(helper) - before;
    assert!(spent < 20, "{spent} ticks in a second of doing nothing");
}

/// Ring 0 was given up: it says so, costs nothing, can be stopped, and the next client finds its disk.
fn assert_given_up(helper: Helper, place: &Place, disk: RawDisk) {
    assert!(
        signalled(&disk.rings[0].err, SOON),
        "the err eventfd of the broken ring"
    );
    assert_idle(&helper);
    let begun = Instant::now();
    base_of(&disk);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    drop(disk);
    assert_serves(helper, place);
}

/// The index said that there was an entry, reading it failed, and the worker tried again for ever.
#[test]
fn an_entry_that_lies_in_two_regions_breaks_its_ring() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().value("--threads", "1").start();
    let mut disk = RawDisk::prepare(helper.socket(), 1, 64);
    let other = GuestMemory::sealed(64 << 10);
    // Flags and index are four bytes; the first entry is at 4 and 5.
    tell_cut_memory(&disk, AVAIL + 5, AVAIL + 5, &other);
    disk.set_up_flush();
    disk.start_ring(0, 0);

    disk.publish_and_kick(1);

    assert_given_up(helper, &place, disk);
}

/// As above, with a driver that did nothing wrong until its VMM laid memory out anew.
#[test]
fn an_entry_that_comes_to_lie_in_two_regions_breaks_its_running_ring() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().value("--threads", "1").start();
    let mut disk = RawDisk::start(helper.socket(), 1, 64);
    let other = GuestMemory::sealed(64 << 10);
    disk.set_up_flush();
    flush(&mut disk, 1);

    tell_cut_memory(&disk, AVAIL + 7, AVAIL + 7, &other);
    disk.publish_and_kick(1);

    assert_given_up(helper, &place, disk);
}

/// With the index still there, the entries were looked for without end where no memory was.
#[test]
fn a_ring_without_its_entries_waits_for_them() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().value("--threads", "1").start();
    let mut disk = RawDisk::start(helper.socket(), 1, 64);
    let other = GuestMemory::sealed(64 << 10);
    disk.set_up_flush();
    flush(&mut disk, 1);

    tell_cut_memory(&disk, AVAIL + 4, AVAIL + 64, &other);
    disk.publish_and_kick(2);
    assert_idle(&helper);
    tell_memory(&disk.wire, &disk.memory);

    let RawDisk { memory, rings, .. } = &mut disk;
    assert_eq!(rings[0].wait_used(memory, 2).len(), 2);
    helper.terminate();
}

/// One such ring kept the only worker busy, so that no other ring was served again.
#[test]
fn a_ring_in_two_regions_takes_nothing_from_the_others() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().value("--threads", "1").start();
    let mut disk = RawDisk::prepare(helper.socket(), 2, 64);
    let other = GuestMemory::sealed(64 << 10);
    tell_cut_memory(&disk, AVAIL + 5, AVAIL + 5, &other);
    disk.set_up_flush();
    disk.start_ring(0, 0);
    disk.start_ring(1, 0);

    disk.publish_and_kick(1);
    assert!(signalled(&disk.rings[0].err, SOON));
    let RawDisk { memory, rings, .. } = &mut disk;
    rings[1].publish(memory, &[0; 3]);
    rings[1].kick();

    assert_eq!(rings[1].wait_used(memory, 3).len(), 3);
    helper.terminate();
}

/// The count of answers not announced by event index went on from where the driver before had left it: with 65,530 of
/// them, and a few more in one go, it wrapped around, and the new driver was never called.
#[test]
fn a_driver_with_event_indices_is_called_after_one_without() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();
    let mut disk = RawDisk::prepare(helper.socket(), 1, 1024);
    let offered = disk
        .wire
        .ask(code::GET_FEATURES, &[])
        .expect("GET_FEATURES is answered")
        .number();
    set_features(&disk, offered & !EVENT_IDX);
    disk.start_ring(0, 0);
    disk.set_up_flush();
    let mut left = 65_530;
    while left > 0 {
        let batch = left.min(1024);
        flush(&mut disk, batch);
        left -= batch;
    }

    base_of(&disk);
    set_features(&disk, offered);
    // A guest that starts anew clears its rings; its event index is then 0: "call me at the first answer".
    disk.memory.write(0, &vec![0; 1 << 20]);
    disk.rings = vec![RawRing::new(0, 1024)];
    disk.set_up_flush();
    disk.start_ring(0, 0);
    // Whatever the beginning itself announced.
    let _ = signalled(&disk.rings[0].call, Duration::from_millis(200)) && disk.rings[0].call.read().is_ok();
    flush(&mut disk, 8);

    assert!(signalled(&disk.rings[0].call, SOON), "the call at event index 0");
    helper.terminate();
}

/// REM_MEM_REG or ADD_MEM_REG of all the memory there is.
fn tell_region(disk: &RawDisk, code: u32, fds: &[BorrowedFd<'_>]) {
    let body = [words(&[0, 0]), region(GUEST_BASE, MEMORY, FRONTEND_BASE, 0)].concat();
    assert_eq!(disk.wire.tell(code, &body, fds).ok(), Some(0), "message {code}");
}

/// A ring whose memory went away was broken, and only stopping and starting it brought it back.
#[test]
fn a_ring_goes_on_when_its_memory_is_back() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();
    let mut disk = RawDisk::start(helper.socket(), 1, 64);
    disk.assert_serves();

    for _ in 0..10 {
        tell_region(&disk, code::REM_MEM_REG, &[]);
        tell_region(&disk, code::ADD_MEM_REG, &[disk.memory.as_fd()]);
        disk.assert_serves();
    }

    helper.terminate();
}

/// The kick of a request made meanwhile was spent on a ring that was not there.
#[test]
fn what_was_requested_while_its_memory_was_away_is_answered_afterwards() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();
    let mut disk = RawDisk::start(helper.socket(), 1, 64);
    disk.set_up_flush();
    flush(&mut disk, 3);

    tell_region(&disk, code::REM_MEM_REG, &[]);
    disk.publish_and_kick(5);
    std::thread::sleep(Duration::from_millis(50));
    let RawDisk { memory, rings, .. } = &mut disk;
    assert_eq!(rings[0].take_used(memory), [], "without memory");
    tell_region(&disk, code::ADD_MEM_REG, &[disk.memory.as_fd()]);

    let RawDisk { memory, rings, .. } = &mut disk;
    assert_eq!(rings[0].wait_used(memory, 5).len(), 5, "without another kick");
    helper.terminate();
}

/// A ring without addresses was looked for at guest address 0, and what lay there was taken for its history.
#[test]
fn a_ring_without_addresses_has_no_history() {
    let place = Place::with_noise(1 << 20, 1);
    let mut helper = place.helper().start();
    let mut disk = RawDisk::prepare(helper.socket(), 1, 64);
    disk.memory.write(0, &[5; 4096]);
    let table = [words(&[1, 0]), region(0, MEMORY, FRONTEND_BASE, 0)].concat();
    let told = disk.wire.tell(code::SET_MEM_TABLE, &table, &[disk.memory.as_fd()]);
    assert_eq!(told.ok(), Some(0));

    let kick = disk.rings[0].kick.as_fd();
    let _ = disk.wire.tell(code::SET_VRING_KICK, &longs(&[0]), &[kick]);
    let _ = disk.wire.tell(code::SET_VRING_ENABLE, &words(&[0, 1]), &[]);
    disk.rings[0].kick();
    std::thread::sleep(Duration::from_millis(100));

    helper.assert_alive();
    base_of(&disk);
    disk.memory.write(0, &[0; 4096]);
    tell_memory(&disk.wire, &disk.memory);
    disk.start_ring(0, 0);
    disk.assert_serves();
    helper.terminate();
}

/// The answer was the index at which the ring had been started, so that a frontend would have repeated all of it.
#[test]
fn the_base_of_a_broken_ring_is_where_it_broke() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();
    let mut disk = RawDisk::start(helper.socket(), 1, 64);
    disk.set_up_flush();
    flush(&mut disk, 37);

    let RawDisk { memory, rings, .. } = &mut disk;
    rings[0].publish_index(memory, 0x4000);
    rings[0].kick();
    assert!(signalled(&rings[0].err, SOON));

    assert_eq!(base_of(&disk), 37);
    helper.terminate();
}

/// That base, given back, starts the ring again: nothing is executed twice, nothing is lost.
#[test]
fn a_ring_that_broke_goes_on_when_it_is_mended() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();
    let mut disk = RawDisk::start(helper.socket(), 1, 64);
    disk.set_up_flush();
    flush(&mut disk, 7);
    let RawDisk { memory, rings, .. } = &mut disk;
    rings[0].publish_index(memory, 0x4000);
    rings[0].kick();
    assert!(signalled(&rings[0].err, SOON));

    let base = base_of(&disk);
    let RawDisk { memory, rings, .. } = &mut disk;
    rings[0].publish_index(memory, 7);
    disk.start_ring(0, base);

    flush(&mut disk, 2);
    assert_eq!(base_of(&disk), 9);
    helper.terminate();
}

/// Whether a call was owed was told by the used index, which is 0 again after 65,536 answers.
#[test]
fn a_call_that_nobody_could_be_given_is_given_when_somebody_is_there() {
    const TURNS: usize = 64;
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();
    let mut disk = RawDisk::start(helper.socket(), 1, 1024);
    disk.set_up_flush();
    let nobody = longs(&[1 << 8]);
    assert_eq!(disk.wire.tell(code::SET_VRING_CALL, &nobody, &[]).ok(), Some(0));
    for _ in 0..TURNS {
        flush(&mut disk, 1024);
    }
    assert_eq!(base_of(&disk), 0, "it has gone round");
    let call = &disk.rings[0].call;
    // What was announced before it was taken away.
    let _ = signalled(call, Duration::ZERO) && call.read().is_ok();

    disk.start_ring(0, 0);

    assert!(signalled(&disk.rings[0].call, SOON));
    helper.terminate();
}
