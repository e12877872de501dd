//! Clients that do not behave: they cost nothing that stays, keep nobody out for long, and the guest that is being served does not
//! notice.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use protocol::control::{Command, LimitsChange, MAX_BYTES, Outcome, Request, ResizeRequest, SaveFormat, SaveRequest};
use tests::helper::Helper;
use tests::operator::Operator;
use tests::place::Place;
use tests::raw::{OK, RawDisk};
use tests::rng::Rng;

use crate::{controlled, read, write};

/// Runs `act` while a guest writes and reads back, and checks that it got on meanwhile.
fn while_serving(helper: &Helper, act: impl FnOnce()) {
    let mut disk = RawDisk::start(helper.socket(), 1, 64);
    let (done, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let round = rounds.load(Ordering::Relaxed);
                let [byte, ..] = round.to_le_bytes();
                assert_eq!(write(&mut disk, round % 1024, byte), OK);
                assert_eq!(read(&mut disk, round % 1024), [byte; 512]);
                rounds.store(round + 1, Ordering::Relaxed);
            }
        });
        // Also if what follows fails, so that the failure is told.
        let _end = AtTheEnd(&done);
        act();
        let (then, begun) = (rounds.load(Ordering::Relaxed), Instant::now());
        while rounds.load(Ordering::Relaxed) < then + 10 {
            assert!(begun.elapsed() < Duration::from_secs(10), "the guest stands still");
            std::thread::sleep(Duration::from_millis(1));
        }
    });
}

/// Sets a flag when it is dropped.
struct AtTheEnd<'f>(&'f AtomicBool);

impl Drop for AtTheEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Anonymous memory in KiB, and threads: what abuse could make grow.
fn size(helper: &Helper) -> (u64, usize) {
    let status = fs::read_to_string(helper.proc("status")).expect("anybody may read it");
    let field = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = field.and_then(|text| text.trim().strip_suffix(" kB"));
    let threads = fs::read_dir(helper.proc("task")).expect("anybody may list threads");
    (
        kib.expect("the kernel says").trim().parse().expect("a number"),
        threads.count(),
    )
}

/// Open descriptors, where we may look.
fn descriptors(helper: &Helper) -> Option<usize> {
    fs::read_dir(helper.proc("fd")).ok().map(Iterator::count)
}

/// Waits until no more are open than there were.
fn await_descriptors(helper: &Helper, operator: &Operator, before: Option<usize>) {
    let begun = Instant::now();
    while descriptors(helper) > before {
        let _ = operator.status();
        assert!(begun.elapsed() < Duration::from_secs(5), "descriptors stay open");
    }
}

/// A request of each kind, and pieces of others.
fn seeds() -> Vec<Vec<u8>> {
    let save = SaveRequest {
        format: SaveFormat::Qcow2Delta,
        backing: Some("base.raw".into()),
    };
    let commands = [
        Command::Attach,
        Command::Status,
        Command::Stats,
        Command::Events,
        Command::Save(save),
        Command::CancelSave,
        Command::Reset,
        Command::SetLimits(LimitsChange {
            overlay_bytes: Some(4096),
            ..LimitsChange::default()
        }),
        Command::Resize(ResizeRequest { disk_bytes: 1 << 40 }),
        Command::Stop,
    ];
    let mut seeds: Vec<_> = commands.map(|command| Request::new(1, command).encode()).into();
    seeds.push(b"[[[[[[[[[[[[[[[[".to_vec());
    seeds.push(br#"{"version":1,"id":1e400,"command":{"\u0000":null}}"#.to_vec());
    seeds.push(vec![0xff; 32]);
    seeds.push(vec![b' '; MAX_BYTES]);
    seeds
}

/// One of the seeds, spoilt; none if it came out as an order that would be obeyed.
fn spoilt(seeds: &[Vec<u8>], rng: &mut Rng) -> Option<Vec<u8>> {
    let mut packet = seeds[rng.index(seeds.len())].clone();
    for _ in 0..rng.below(4) {
        let at = rng.index(packet.len());
        match rng.below(5) {
            0 => packet[at] = rng.bytes(1)[0],
            1 => packet.truncate(at + 1),
            2 => {
                let other = &seeds[rng.index(seeds.len())];
                packet.extend_from_slice(&other[..other.len().min(200)]);
            }
            3 => packet.insert(at, br#"{}[]",:0 \"#[rng.index(10)]),
            _ => _ = packet.remove(at),
        }
        if packet.is_empty() {
            break;
        }
    }
    match Request::decode(&packet).map(|request| request.command) {
        Ok(Command::Stop | Command::Reset | Command::SetLimits(_) | Command::Resize(_)) => None,
        Ok(_) | Err(_) => Some(packet),
    }
}

/// How many messages are sent: `MAYFLY_PACKETS`, or a hundred thousand.
fn packets() -> usize {
    let named = std::env::var("MAYFLY_PACKETS").ok();
    named.map_or(100_000, |text| text.parse().expect("MAYFLY_PACKETS is a number"))
}

#[test]
fn a_hundred_thousand_spoilt_messages_change_nothing() {
    let place = Place::with_noise(1 << 20, 1);
    let (helper, operator) = controlled(&place);
    let (seeds, mut rng) = (seeds(), Rng::new(7));
    let before = operator.status();
    let open = descriptors(&helper);
    let clients: Vec<_> = (0..6).map(|_| Operator::connect(&place.control())).collect();
    let (stray, _peer) = UnixStream::pair().unwrap();

    while_serving(&helper, || {
        let mut settled = None;
        let packets = packets();
        for round in 0..packets {
            let Some(packet) = spoilt(&seeds, &mut rng) else {
                continue;
            };
            let fds = match rng.below(50) {
                0 => vec![stray.as_fd()],
                1 => vec![stray.as_fd(); 3],
                _ => vec![],
            };
            clients[round % clients.len()].send(&packet, &fds);
            if round > packets / 4 {
                settled.get_or_insert_with(|| size(&helper));
            }
        }
        assert!(operator.status().connected);
        let (settled, after) = (settled.expect("there were so many rounds"), size(&helper));
        assert!(after.0 <= settled.0 + 512, "memory: {settled:?}, then {after:?}");
        assert_eq!(after.1, settled.1, "threads");
    });

    drop(clients);
    await_descriptors(&helper, &operator, open);
    let after = operator.status();
    assert_eq!((after.limits, after.disk_bytes), (before.limits, before.disk_bytes));
    helper.terminate();
}

#[test]
fn a_flood_of_descriptors_and_silence_keep_nobody_waiting() {
    let place = Place::with_noise(1 << 20, 1);
    let (helper, operator) = controlled(&place);
    let silent: Vec<_> = (0..5).map(|_| Operator::connect(&place.control())).collect();
    let flooding = Operator::connect(&place.control());
    let (stray, peer) = UnixStream::pair().unwrap();
    let _ = operator.status();
    let before = descriptors(&helper);

    while_serving(&helper, || {
        for round in 0..2000 {
            flooding.send(b"{", &vec![stray.as_fd(); 1 + round % 253]);
            if round % 100 == 0 {
                let begun = Instant::now();
                assert!(operator.status().connected);
                assert!(begun.elapsed() < Duration::from_secs(5));
            }
        }
    });
    drop(stray);

    // Nobody holds what came along any more.
    peer.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(std::io::Read::read(&mut &peer, &mut [0]).unwrap(), 0);
    drop(silent);
    drop(flooding);
    await_descriptors(&helper, &operator, before);
    helper.terminate();
}

#[test]
fn a_ninth_client_is_told_that_there_is_no_place_and_gets_one_when_there_is() {
    let place = Place::with_noise(1 << 20, 1);
    let (helper, operator) = controlled(&place);
    let mut others: Vec<_> = (0..7).map(|_| Operator::connect(&place.control())).collect();
    for other in &others {
        let _ = other.status();
    }

    let ninth = Operator::connect(&place.control());
    let reply = ninth.receive_within(Duration::from_secs(10)).expect("it is told");
    assert!(
        matches!(&reply.outcome, Outcome::Error(why) if why.contains("busy")),
        "{reply:?}"
    );
    assert!(ninth.closes_within(Duration::from_secs(10)));

    others.pop();
    let begun = Instant::now();
    loop {
        let ninth = Operator::connect(&place.control());
        if ninth.try_send(&Request::new(1, Command::Status).encode(), &[])
            && matches!(ninth.receive_within(Duration::from_secs(10)), Some(reply) if reply.id == Some(1))
        {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "the place stays taken");
    }
    for client in others.iter().chain([&operator]) {
        let _ = client.status();
    }
    helper.terminate();
}

#[test]
fn thousands_of_connections_that_say_nothing_cost_nothing() {
    let place = Place::with_noise(1 << 20, 1);
    let (helper, operator) = controlled(&place);
    let _ = operator.status();
    let before = descriptors(&helper);

    while_serving(&helper, || {
        for _ in 0..3000 {
            // A queue of connections that is full for a moment refuses, which is as good.
            let _ = Operator::try_connect(&place.control());
        }
        let begun = Instant::now();
        while !operator.status().connected {
            assert!(begun.elapsed() < Duration::from_secs(5));
        }
    });

    await_descriptors(&helper, &operator, before);
    helper.terminate();
}
