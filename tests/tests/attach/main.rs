//! A helper with an operator: frontends come and go by its orders, the disk stays until the operator leaves, and nothing that
//! arrives on the control channel disturbs who is served.

mod abuse;

use std::fs;
use std::io::pipe;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::socket::{Shutdown, shutdown};
use protocol::control::{Command, Outcome, Reply, Request};
use protocol::launch::ExitCode;
use tests::helper::{END, Helper};
use tests::memory::GuestMemory;
use tests::operator::Operator;
use tests::place::Place;
use tests::raw::{IN, MEMORY, OK, OUT, RawDisk};
use tests::require;
use tests::wire::{Wire, code};

/// A helper that serves nobody yet, and its operator.
fn operated(place: &Place) -> (Helper, Operator) {
    let (operator, theirs) = Operator::pair();
    (place.helper().closed().operated(theirs).start(), operator)
}

/// A guest on an attached connection, with fresh rings.
fn guest(wire: Wire) -> RawDisk {
    RawDisk::start_with(wire, GuestMemory::sealed(MEMORY), 1, 64)
}

/// A guest on a new connection, once the one before has hung up: a child of another test's may hold its socket too, for the
/// moment between fork and exec.
fn attached(operator: &Operator) -> RawDisk {
    await_departure(operator);
    guest(operator.attach().expect("nobody is connected"))
}

fn await_departure(operator: &Operator) {
    let begun = Instant::now();
    while operator.status().connected {
        assert!(begun.elapsed() < Duration::from_secs(5), "the frontend does not leave");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn write(disk: &mut RawDisk, sector: u64, byte: u8) {
    assert_eq!(
        disk.request(OUT, sector, &[byte; 512], 0).0,
        OK,
        "write of sector {sector}"
    );
}

fn read(disk: &mut RawDisk, sector: u64) -> Vec<u8> {
    let (status, _, bytes) = disk.request(IN, sector, &[], 512);
    assert_eq!(status, OK, "read of sector {sector}");
    bytes
}

fn attach() -> Vec<u8> {
    Request::new(7, Command::Attach).encode()
}

fn assert_refused(reply: &Reply, why: &str) {
    assert!(
        matches!(&reply.outcome, Outcome::Error(words) if words.contains(why)),
        "expected an error about {why:?}: {reply:?}"
    );
}

/// Runs `act` while a guest writes and reads, and checks that it got on meanwhile.
fn while_serving(disk: &mut RawDisk, act: impl FnOnce()) {
    let (done, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let round = rounds.load(Ordering::Relaxed);
                let [byte, ..] = round.to_le_bytes();
                write(disk, round % 1024, byte);
                assert_eq!(read(disk, round % 1024), [byte; 512]);
                rounds.store(round + 1, Ordering::Relaxed);
            }
        });
        act();
        let then = rounds.load(Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(100));
        done.store(true, Ordering::Relaxed);
        assert!(rounds.load(Ordering::Relaxed) > then, "the guest stands still");
    });
    assert!(rounds.load(Ordering::Relaxed) > 10);
}

/// The fields `name` of all threads' statuses.
fn threads(helper: &Helper, name: &str) -> Vec<String> {
    fs::read_dir(helper.proc("task"))
        .expect("anybody may list threads")
        .map(|entry| {
            let path = entry.expect("anybody may list threads").path().join("status");
            let text = fs::read_to_string(path).expect("anybody may read a status");
            let field = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            field.expect("every status has it").trim().to_owned()
        })
        .collect()
}

fn descriptors(helper: &Helper) -> usize {
    fs::read_dir(helper.proc("fd")).expect("root may look").count()
}

#[test]
fn the_next_frontend_finds_what_the_last_one_wrote() {
    let place = Place::with_noise(1 << 20, 1);
    let (helper, operator) = operated(&place);
    for round in 0..5 {
        let mut disk = attached(&operator);
        for earlier in 0..round {
            assert_eq!(read(&mut disk, earlier * 8), [7; 512]);
        }
        write(&mut disk, round * 8, 7);
        assert_eq!(read(&mut disk, 1024)[..], place.content()[1024 * 512..1025 * 512]);
    }
    helper.terminate();
}

#[test]
fn the_frontend_that_was_handed_over_is_only_the_first() {
    let place = Place::with_noise(1 << 20, 1);
    let (operator, theirs) = Operator::pair();
    let (ours, first) = UnixStream::pair().unwrap();
    let helper = place.helper().connected(first).operated(theirs).start();
    let mut disk = guest(Wire::over(ours));
    write(&mut disk, 3, 7);
    assert!(operator.status().connected);
    drop(disk);

    let mut disk = attached(&operator);

    assert_eq!(read(&mut disk, 3), [7; 512]);
    helper.terminate();
}

#[test]
fn attached_frontends_and_those_that_knock_take_turns() {
    let place = Place::with_noise(1 << 20, 1);
    let (operator, theirs) = Operator::pair();
    let helper = place.helper().operated(theirs).start();
    let mut disk = RawDisk::start(helper.socket(), 1, 64);
    write(&mut disk, 3, 7);
    drop(disk);

    let mut disk = attached(&operator);

    assert_eq!(read(&mut disk, 3), [7; 512]);
    assert!(
        Wire::connect(helper.socket()).closes_within(END),
        "it is served already"
    );
    helper.terminate();
}

#[test]
fn a_second_frontend_is_refused_and_the_first_goes_on() {
    let place = Place::with_noise(1 << 20, 1);
    let (helper, operator) = operated(&place);
    let mut disk = attached(&operator);

    while_serving(&mut disk, || {
        for _ in 0..100 {
            let refused = operator.attach().expect_err("one is connected");
            assert!(refused.starts_with("busy"), "{refused}");
        }
    });

    drop(disk);
    attached(&operator).assert_serves();
    helper.terminate();
}

/// A VMM that is killed may leave a thousand messages behind, and the next one must not wait until they are read.
#[test]
fn a_frontend_that_left_makes_room_whatever_it_said_before() {
    let place = Place::with_noise(1 << 20, 1);
    let (helper, operator) = operated(&place);
    for _ in 0..100 {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let reply = operator.say(&attach(), &[theirs.as_fd()]);
        assert!(
            matches!(reply.outcome, Outcome::Ok(_)),
            "whoever was there has hung up: {reply:?}"
        );
        drop(theirs);
        let wire = Wire::over(ours.try_clone().unwrap());
        for _ in 0..200 {
            wire.send(code::SET_OWNER, 0, &[], &[]).unwrap();
        }
        ours.shutdown(std::net::Shutdown::Both).unwrap();
    }
    attached(&operator).assert_serves();
    helper.terminate();
}

#[test]
fn a_hundred_frontends_cost_no_thread_and_no_memory() {
    let place = Place::with_noise(1 << 20, 1);
    let (helper, operator) = operated(&place);
    let memory = || -> u64 {
        let sizes = threads(&helper, "VmRSS");
        sizes[0].trim_end_matches(" kB").parse().expect("kibibytes")
    };
    // The first take what is kept for good: stacks, the map's page, the allocator's arenas.
    let round = |round| write(&mut attached(&operator), round, 1);
    (0..10).for_each(round);
    let before = (threads(&helper, "Seccomp"), memory());

    (0..100).for_each(round);
    let after = (threads(&helper, "Seccomp"), memory());

    assert_eq!(after.0, before.0);
    assert!(after.0.iter().all(|mode| mode == "2"), "{after:?}");
    assert!(
        after.1 <= before.1 + 512,
        "it grew from {} to {} KiB",
        before.1,
        after.1
    );
    helper.terminate();
}

#[test]
fn a_hundred_frontends_and_refused_descriptors_leave_no_descriptor() {
    require!(root);
    let place = Place::with_noise(1 << 20, 1);
    let (helper, operator) = operated(&place);
    let reported = helper.report()["confinement"]["descriptors"]
        .as_array()
        .expect("a list")
        .len();
    assert_eq!(descriptors(&helper), reported);
    let (reader, _writer) = pipe().unwrap();

    for round in 0..100 {
        write(&mut attached(&operator), round, 1);
        assert_refused(&operator.say(&attach(), &[reader.as_fd()]), "stream");
        assert_refused(&operator.say(&attach(), &[reader.as_fd(); 200]), "needs 1");
    }

    await_departure(&operator);
    assert_eq!(descriptors(&helper), reported);
    helper.terminate();
}

#[test]
fn the_status_says_what_the_overlay_takes() {
    let place = Place::with_noise(1 << 20, 1);
    let (operator, theirs) = Operator::pair();
    let helper = place
        .helper()
        .closed()
        .operated(theirs)
        .value("--overlay-limit", "64K")
        .start();
    let overlay = || operator.status().overlay.expect("the disk can be written");
    let before = operator.status();
    assert_eq!((before.disk_bytes, before.connected), (1 << 20, false));
    assert_eq!((overlay().used_bytes, overlay().limit_bytes), (0, 64 << 10));

    let mut disk = attached(&operator);
    for sector in [0, 1, 8, 16] {
        write(&mut disk, sector, 1);
    }

    assert!(operator.status().connected);
    assert_eq!((overlay().dirty_clusters, overlay().used_bytes), (3, 3 * 4096));
    drop(disk);
    await_departure(&operator);
    helper.terminate();
}

#[test]
fn a_read_only_disk_has_a_status_without_an_overlay() {
    let place = Place::with_noise(1 << 20, 1);
    let (operator, theirs) = Operator::pair();
    let helper = place.helper().closed().read_only().operated(theirs).start();

    attached(&operator).assert_serves();

    assert_eq!(operator.status().overlay, None);
    helper.terminate();
}

#[test]
fn the_disk_burns_when_the_operator_leaves() {
    let place = Place::with_noise(1 << 20, 1);
    for serving in [false, true] {
        let (helper, operator) = operated(&place);
        let disk = serving.then(|| attached(&operator));

        drop(operator);

        let ended = helper.wait_within(END);
        ended.assert_code(ExitCode::Burnt);
        assert!(ended.stderr.contains("the operator is gone"), "{}", ended.stderr);
        drop(disk);
    }
}

#[test]
fn the_disk_burns_when_the_operator_says_that_it_will_say_nothing_more() {
    let place = Place::with_noise(1 << 20, 1);
    let (helper, operator) = operated(&place);
    // Replies that nobody read must not hide it.
    for _ in 0..1000 {
        operator.send(b"{", &[]);
    }

    shutdown(operator.socket().as_raw_fd(), Shutdown::Write).unwrap();

    helper.wait_within(END).assert_code(ExitCode::Burnt);
}

#[test]
fn rings_with_history_are_refused_as_ever() {
    let place = Place::with_noise(1 << 20, 1);
    let (helper, operator) = operated(&place);
    let wire = operator.attach().expect("nobody is connected");
    let disk = RawDisk::prepare_with(wire, GuestMemory::sealed(MEMORY), 1, 64);
    disk.memory.store_index(disk.rings[0].used_ring() + 2, 5);

    let refused = disk.try_start_ring(0, 5);

    assert!(refused.is_some());
    helper.wait_within(END).assert_code(ExitCode::HistoryRefused);
}

#[test]
fn a_helper_with_an_operator_dies_with_its_parent_too() {
    let place = Place::with_noise(1 << 20, 1);
    let (helper, _operator) = operated(&place);

    let layers = helper.report()["confinement"]["layers"].as_array().expect("a list");

    assert!(layers.iter().any(|layer| layer["name"] == "parent bond"), "{layers:?}");
    helper.terminate();
}

/// It died of its own filter, of closing what that keeps open.
#[test]
fn a_helper_that_cannot_say_that_it_is_ready_says_why_it_ends() {
    let place = Place::with_noise(1 << 20, 1);
    let (_operator, theirs) = Operator::pair();

    let ended = place.helper().closed().operated(theirs).unheard().start_refused();

    ended.assert_code(ExitCode::CannotStart);
}

#[test]
fn what_is_no_channel_is_refused_at_the_start() {
    let place = Place::with_noise(1 << 20, 1);
    let (stream, _peer) = UnixStream::pair().unwrap();

    let ended = place.helper().closed().operated(stream.into()).start_refused();

    ended.assert_code(ExitCode::CannotStart);
    assert!(ended.stderr.contains("SOCK_SEQPACKET"), "{}", ended.stderr);
}
