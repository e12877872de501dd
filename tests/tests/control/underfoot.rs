//! A base that is overwritten, cut off or replaced while a guest reads and writes with all its queues: in every batch of requests
//! the base changes once, after they were made and before they are answered.
//!
//! Every second cluster is written before and again all the time, the others are only read. What the first ones hold is known
//! exactly; what the others hold is what the base held before or after the change.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use protocol::control::Event;
use tests::client::{Buffer, Client, Done, Request, SCRATCH_LEN, Setup};
use tests::helper::Helper;
use tests::operator::Operator;
use tests::place::Place;
use tests::rng::Rng;

const CLUSTER: usize = 4096;
const CLUSTERS: usize = 512;
const DISK: usize = CLUSTERS * CLUSTER;
const QUEUES: usize = 2;
const EIO: i32 = -5;

/// Requests of a batch, half of them of clusters that only the base has.
const BATCH: usize = 64;

/// A guest, and what it must find.
struct Guest {
    client: Client,
    rng: Rng,
    /// What it wrote: every second cluster.
    written: Vec<Vec<u8>>,
    /// The base before and after the last change.
    base: [Vec<u8>; 2],
}

/// One request of a batch.
#[derive(Clone, Copy, Debug)]
enum Order {
    Write(usize),
    Read(usize),
}

fn offset(cluster: usize) -> u64 {
    u64::try_from(cluster * CLUSTER).expect("a disk of ours is small")
}

fn slot(number: usize) -> u64 {
    SCRATCH_LEN + offset(number)
}

fn is_written(cluster: usize) -> bool {
    cluster.is_multiple_of(2)
}

impl Guest {
    fn start(helper: &Helper, base: &[u8]) -> Self {
        let setup = Setup {
            queues: QUEUES,
            memory: slot(BATCH) - SCRATCH_LEN,
            ..Setup::default()
        };
        let mut client = Client::connect(helper.socket(), setup);
        let mut rng = Rng::new(1);
        let written: Vec<_> = (0..CLUSTERS / 2).map(|_| rng.bytes(CLUSTER)).collect();
        for (index, bytes) in written.iter().enumerate() {
            client.write(offset(index * 2), bytes);
        }
        Self {
            client,
            rng,
            written,
            base: [base.to_vec(), base.to_vec()],
        }
    }

    /// Makes a batch, has `change` do something to the base meanwhile, which makes it `after`, and compares all answers. How many
    /// failed, as they had to or could.
    fn batch(&mut self, change: impl FnOnce(), after: Vec<u8>) -> usize {
        let first = self.rng.index(CLUSTERS - BATCH);
        let orders: Vec<_> = (first..first + BATCH)
            .map(|cluster| match self.rng.index(2) {
                0 if is_written(cluster) => Order::Write(cluster),
                _ => Order::Read(cluster),
            })
            .collect();
        for (number, order) in orders.iter().enumerate() {
            self.make(number, *order);
        }
        self.base.swap(0, 1);
        self.base[1] = after;
        change();
        let answers = self.answers();
        let mut failed = 0;
        for done in answers {
            let number = usize::try_from(done.token).expect("tokens are slots");
            failed += usize::from(self.check(number, orders[number], done.result));
        }
        failed
    }

    fn make(&mut self, number: usize, order: Order) {
        let buffers = vec![Buffer {
            at: slot(number),
            len: CLUSTER,
        }];
        let (Order::Write(cluster) | Order::Read(cluster)) = order;
        let offset = offset(cluster);
        let request = match order {
            Order::Read(_) => Request::Read { offset, buffers },
            Order::Write(_) => {
                let bytes = self.rng.bytes(CLUSTER);
                self.client.memory().write(slot(number), &bytes);
                self.written[cluster / 2] = bytes;
                Request::Write { offset, buffers }
            }
        };
        self.client.submit(number % QUEUES, &request, slot_token(number));
        self.client.kick(number % QUEUES);
    }

    fn answers(&mut self) -> Vec<Done> {
        let begun = Instant::now();
        let mut answers = Vec::new();
        while answers.len() < BATCH {
            let new: Vec<_> = (0..QUEUES).flat_map(|queue| self.client.completions(queue)).collect();
            if new.is_empty() {
                self.client.wait(Duration::from_secs(1));
            }
            answers.extend(new);
            assert!(begun.elapsed() < Duration::from_secs(30), "{} answers", answers.len());
        }
        answers
    }

    /// Whether a request failed. It is right that it did.
    fn check(&self, number: usize, order: Order, result: i32) -> bool {
        let (Order::Write(cluster) | Order::Read(cluster)) = order;
        if is_written(cluster) {
            assert_eq!(result, 0, "{order:?}, for which no base is needed");
            let found = self.client.memory().read(slot(number), CLUSTER);
            assert!(found == self.written[cluster / 2], "{order:?}: not what was written");
            return false;
        }
        let range = cluster * CLUSTER..(cluster + 1) * CLUSTER;
        let [before, after] = &self.base;
        if result == EIO {
            assert!(after.len() < range.end, "{order:?} failed, but the base has it");
            return true;
        }
        assert_eq!(result, 0, "{order:?}");
        assert!(before.len() >= range.end, "{order:?}: the base has had nothing there");
        let found = self.client.memory().read(slot(number), CLUSTER);
        for (at, byte) in range.zip(found) {
            // What is cut off while it is read may be empty already.
            let now = after.get(at).copied().unwrap_or(0);
            assert!(byte == before[at] || byte == now, "{order:?}: {byte} at {at}");
        }
        false
    }

    /// The base does not change any more: what is the disk's now is known to the byte.
    fn compare_all(&mut self) {
        self.base[0] = self.base[1].clone();
        for cluster in 0..CLUSTERS {
            let number = cluster % BATCH;
            let request = Request::Read {
                offset: offset(cluster),
                buffers: vec![Buffer {
                    at: slot(number),
                    len: CLUSTER,
                }],
            };
            let result = self.client.run(&request);
            self.check(number, Order::Read(cluster), result);
        }
    }
}

fn slot_token(number: usize) -> u64 {
    u64::try_from(number).expect("slots are a handful")
}

/// A place with a base that may be changed, which the place's own may not.
struct Stage {
    place: Place,
    base: PathBuf,
}

impl Stage {
    fn new() -> Self {
        let place = Place::with_noise(DISK, 2);
        let base = place.dir().join("changing.raw");
        fs::copy(place.base(), &base).expect("the place can be written");
        Self { place, base }
    }

    fn helper(&self) -> (Helper, Operator) {
        let helper = self.place.helper().base(&self.base).controlled().start();
        let operator = Operator::connect(&self.place.control());
        operator.subscribe();
        (helper, operator)
    }

    /// Waits for the event. A helper looks when it is awake.
    fn await_event(&self, operator: &Operator) {
        let other = Operator::connect(&self.place.control());
        let begun = Instant::now();
        loop {
            let _ = other.status();
            match operator.event_within(Duration::from_millis(50)) {
                Some(Event::BaseChanged) => return,
                Some(_) => {}
                None => assert!(begun.elapsed() < Duration::from_secs(15), "nobody noticed"),
            }
        }
    }
}

/// Ends it, and gives back how often its log says that the base was changed.
fn end(mut helper: Helper) -> usize {
    helper.assert_alive();
    helper.signal(nix::sys::signal::Signal::SIGTERM);
    let ended = helper.wait_within(Duration::from_secs(20));
    assert_eq!((ended.code, ended.signal), (Some(0), None), "{ended:?}");
    ended.stderr.matches("somebody changed the base").count()
}

fn writable(path: &Path) -> File {
    File::options()
        .write(true)
        .open(path)
        .expect("it is the test's own file")
}

#[test]
fn an_overwritten_base_is_reported_and_what_was_written_stays() {
    let stage = Stage::new();
    let (helper, operator) = stage.helper();
    let mut content = stage.place.content().to_vec();
    let mut guest = Guest::start(&helper, &content);
    let file = writable(&stage.base);
    let mut rng = Rng::new(3);

    for _ in 0..100 {
        let (at, bytes) = (rng.index(DISK - (64 << 10)), rng.bytes(64 << 10));
        content[at..at + bytes.len()].copy_from_slice(&bytes);
        let change = || file.write_all_at(&bytes, u64::try_from(at).unwrap()).unwrap();
        assert_eq!(guest.batch(change, content.clone()), 0);
    }

    guest.compare_all();
    stage.await_event(&operator);
    drop(guest);
    assert!(end(helper) > 0, "no line in the log");
}

#[test]
fn a_truncated_base_is_reported_and_an_error_beyond_its_end_only() {
    let stage = Stage::new();
    let (helper, operator) = stage.helper();
    let content = stage.place.content();
    let mut guest = Guest::start(&helper, content);
    let file = writable(&stage.base);
    let mut failed = 0;

    for round in 1..=100 {
        // Not at the borders of clusters.
        let left = DISK - round * (DISK / 101) - round % 3 * 100;
        let change = || file.set_len(u64::try_from(left).unwrap()).unwrap();
        failed += guest.batch(change, content[..left].to_vec());
    }

    assert!(failed > 100, "{failed} requests met the end");
    guest.compare_all();
    let clean = offset(CLUSTERS - 1);
    assert_eq!(guest.client.try_write(clean, &[1; 512]), EIO, "the rest of it is gone");
    assert_eq!(
        guest.client.try_write(clean, &[1; CLUSTER]),
        0,
        "nothing of it is needed"
    );
    assert_eq!(guest.client.read(clean, CLUSTER), [1; CLUSTER]);
    stage.await_event(&operator);
    drop(guest);
    assert!(end(helper) > 0, "no line in the log");
}

/// The helper keeps what it opened, as it must when a commit of another one replaces the base. That is no change.
#[test]
fn a_base_that_is_replaced_is_still_the_one_that_was_opened() {
    let stage = Stage::new();
    let (helper, operator) = stage.helper();
    let content = stage.place.content();
    let mut guest = Guest::start(&helper, content);
    let other = stage.place.dir().join("other.raw");

    for round in 0..100 {
        let change = || {
            fs::write(&other, vec![round; DISK / 2]).unwrap();
            fs::rename(&other, &stage.base).unwrap();
        };
        assert_eq!(guest.batch(change, content.to_vec()), 0);
    }

    fs::remove_file(&stage.base).unwrap();
    guest.compare_all();
    // A helper that is awake looks again after a second.
    std::thread::sleep(Duration::from_millis(1100));
    let _ = Operator::connect(&stage.place.control()).status();
    let heard: Vec<_> = std::iter::from_fn(|| operator.event_within(Duration::from_millis(100))).collect();
    assert!(!heard.contains(&Event::BaseChanged), "{heard:?}");
    drop(guest);
    assert_eq!(end(helper), 0, "an alarm for nothing");
}
