//! Runs traffic against a device and the model at once, many requests in flight, and compares every read.
//!
//! Requests in flight never share a byte that one of them changes, so at any moment the model says exactly what each
//! read must find; but they do share clusters, and a fill that loses its neighbour's write is seen here. A
//! change is put into the model when it is submitted, a read is compared when it completes.
//!
//! It knows the model and the client, and nothing of the device.

use std::time::{Duration, Instant};

use crate::client::{Buffer, Client, Done, Request, SCRATCH_LEN, Setup};
use crate::doubt::Doubt;
use crate::model::Model;
use crate::rng::Rng;
use crate::traffic::{Kind, Op, Traffic};

/// Guest memory for each request in flight: the largest request, and room to begin at any byte of a page.
const SLOT: u64 = (1 << 20) + 4096;

/// What a failed request answers.
const EIO: i32 = -5;

/// How long the device may keep everybody waiting.
const STALL: Duration = Duration::from_secs(30);

/// How many times to look for a range that conflicts with nothing before waiting for completions.
const TRIES: usize = 8;

/// Noise that writes take their bytes from, at any offset: making it anew each time would be most of the work.
const NOISE: usize = 4 << 20;

/// How the device's completions are noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Sleep until it calls.
    Eventfd,
    /// Look again and again.
    Polling,
}

/// What a drive needs to know.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Which traffic.
    pub seed: u64,
    /// How much of it.
    pub requests: u64,
    /// At most how many at once.
    pub in_flight: usize,
    /// How completions are noticed.
    pub notice: Notice,
    /// The largest range a discard or write-zeroes may have, in bytes.
    pub most_zeroed: u64,
}

impl Plan {
    /// A client that has room for it.
    ///
    /// # Panics
    ///
    /// If more are to be in flight than any memory has room for.
    #[must_use]
    pub fn setup(&self, queues: usize, event_idx: bool) -> Setup {
        Setup {
            queues,
            queue_size: 256,
            event_idx,
            memory: SLOT * u64::try_from(self.in_flight).expect("it is a handful"),
        }
    }
}

/// What was done, for the test to print and to check that nothing was left out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Completed requests.
    pub completed: u64,
    /// Of those, the ones that failed; see [`drive_in_doubt`].
    pub failed: u64,
    /// Of those, reads that agreed with the model.
    pub compared: u64,
    /// Bytes that went either way.
    pub bytes: u64,
}

#[derive(Clone, Debug)]
struct Flight {
    op: Op,
    buffers: Vec<Buffer>,
}

struct Driver<'a> {
    client: &'a mut Client,
    model: &'a mut Model,
    /// Where requests may fail.
    doubt: Option<&'a mut Doubt>,
    plan: Plan,
    traffic: Traffic,
    rng: Rng,
    noise: Vec<u8>,
    slots: Vec<Option<Flight>>,
    tally: Tally,
}

/// Runs `plan` to its end; afterwards device and model are the same, as far as the reads could see.
///
/// # Panics
///
/// At the first read that differs, request that fails, or stall.
pub fn drive(client: &mut Client, model: &mut Model, plan: Plan) -> Tally {
    run(client, model, None, plan)
}

/// The same of a device whose requests may fail, as those of a disk that has errors: with `EIO`, and with no effect on anything
/// outside of their own range.
///
/// # Panics
///
/// At the first read that differs, request that fails otherwise, or stall.
pub fn drive_in_doubt(client: &mut Client, model: &mut Model, doubt: &mut Doubt, plan: Plan) -> Tally {
    run(client, model, Some(doubt), plan)
}

fn run(client: &mut Client, model: &mut Model, doubt: Option<&mut Doubt>, plan: Plan) -> Tally {
    let mut rng = Rng::new(!plan.seed);
    let noise = rng.bytes(NOISE);
    let capacity = u64::try_from(model.len()).expect("a model fits into memory");
    assert_eq!(client.capacity(), capacity, "device and model are disks of one size");
    let traffic = Traffic::new(capacity, plan.seed);
    let slots = vec![None; plan.in_flight];
    let mut driver = Driver {
        client,
        model,
        doubt,
        plan,
        traffic,
        rng,
        noise,
        slots,
        tally: Tally::default(),
    };
    driver.run();
    driver.tally
}

impl Driver<'_> {
    fn run(&mut self) {
        let mut submitted = 0;
        let mut progress = Instant::now();
        while self.tally.completed < self.plan.requests {
            while submitted < self.plan.requests && self.submit_one() {
                submitted += 1;
            }
            if self.collect() > 0 {
                progress = Instant::now();
            } else {
                self.pause();
                assert!(
                    progress.elapsed() < STALL,
                    "stalled after {:?}; in flight: {:?}",
                    self.tally,
                    self.slots
                );
            }
        }
        assert!(
            self.slots.iter().all(Option::is_none),
            "answers without requests: {:?}",
            self.slots
        );
    }

    /// Submits one operation; false when that has to wait.
    fn submit_one(&mut self) -> bool {
        let Some(slot) = self.slots.iter().position(Option::is_none) else {
            return false;
        };
        let Some(op) = self.find_op() else { return false };
        let buffers = self.place(slot, op);
        let request = request(op, &buffers);
        let queue = self.rng.index(self.client.queue_count());
        if !self.client.has_room(queue, &request) {
            return false;
        }
        self.apply(op, &buffers);
        let token = u64::try_from(slot).expect("slots are a handful");
        self.client.submit(queue, &request, token);
        // Several requests to a kick at times, as a guest does when it plugs its queue.
        if !self.rng.chance(30) {
            self.client.kick(queue);
        }
        self.slots[slot] = Some(Flight { op, buffers });
        true
    }

    fn find_op(&mut self) -> Option<Op> {
        (0..TRIES).find_map(|_| {
            let mut op = self.traffic.draw();
            if op.changes() && op.kind != Kind::Write {
                op.len = op.len.min(self.plan.most_zeroed);
            }
            let free = self.slots.iter().flatten().all(|flight| !flight.op.conflicts(&op));
            free.then_some(op)
        })
    }

    /// Cuts the slot's memory into buffers: one to five, of any length, beginning at any byte.
    fn place(&mut self, slot: usize, op: Op) -> Vec<Buffer> {
        if !matches!(op.kind, Kind::Read | Kind::Write) {
            return Vec::new();
        }
        let slot = u64::try_from(slot).expect("slots are a handful");
        let mut at = SCRATCH_LEN + slot * SLOT + self.rng.below(4096);
        let mut left = op.len;
        let mut buffers = Vec::new();
        while left > 0 {
            let len = if buffers.len() == 4 || self.rng.chance(50) {
                left
            } else {
                self.rng.between(1, left)
            };
            buffers.push(Buffer {
                at,
                len: usize::try_from(len).expect("at most a mebibyte"),
            });
            at += len;
            left -= len;
        }
        buffers
    }

    /// What the operation does to the model; a write's bytes go into guest memory too.
    fn apply(&mut self, op: Op, buffers: &[Buffer]) {
        let offset = usize::try_from(op.offset).expect("offsets are below a model's length");
        let len = usize::try_from(op.len).expect("lengths are below a model's length");
        match op.kind {
            Kind::Write => {
                let start = self.rng.index(NOISE - len);
                let bytes = &self.noise[start..start + len];
                self.model.write(offset, bytes);
                self.client.memory().write(buffers[0].at, bytes);
            }
            Kind::Discard => self.model.discard(offset, len),
            Kind::WriteZeroes { .. } => self.model.write_zeroes(offset, len),
            Kind::Read | Kind::Flush => {}
        }
    }

    fn collect(&mut self) -> usize {
        let mut count = 0;
        for queue in 0..self.client.queue_count() {
            for done in self.client.completions(queue) {
                self.finish(done);
                count += 1;
            }
        }
        count
    }

    fn finish(&mut self, done: Done) {
        let slot = usize::try_from(done.token).expect("tokens are slots");
        let flight = self.slots[slot].take().expect("the device answers each request once");
        let failed = done.result != 0;
        match &mut self.doubt {
            Some(doubt) => {
                assert!([0, EIO].contains(&done.result), "{}: {:?}", done.result, flight.op);
                doubt.answered(flight.op, failed);
            }
            None => assert!(!failed, "{}: {:?}", done.result, flight.op),
        }
        self.tally.completed += 1;
        if failed {
            self.tally.failed += 1;
            return;
        }
        self.tally.bytes += flight.op.len;
        if flight.op.kind == Kind::Read {
            self.compare(&flight);
            self.tally.compared += 1;
        }
    }

    fn compare(&self, flight: &Flight) {
        let offset = usize::try_from(flight.op.offset).expect("offsets are below a model's length");
        let len = usize::try_from(flight.op.len).expect("lengths are below a model's length");
        let mut found = self.client.memory().read(flight.buffers[0].at, len);
        let expected = self.model.read(offset, len);
        if let Some(doubt) = &self.doubt {
            doubt.benefit(offset, &mut found, expected);
        }
        if found != expected {
            let first = found.iter().zip(expected).position(|(a, b)| a != b).unwrap_or(len);
            let wrong = found.iter().zip(expected).filter(|(a, b)| a != b).count();
            panic!(
                "mismatch (seed {}): {:?}: {wrong} bytes, the first at disk byte {}; found {:?}, expected {:?}",
                self.plan.seed,
                flight.op,
                offset + first,
                &found[first..len.min(first + 16)],
                &expected[first..len.min(first + 16)],
            );
        }
    }

    /// Nothing came back: the device may be waiting for the kicks that were saved, and this side has nothing to do.
    fn pause(&mut self) {
        for queue in 0..self.client.queue_count() {
            self.client.kick(queue);
        }
        match self.plan.notice {
            Notice::Eventfd => {
                self.client.wait(Duration::from_secs(1));
            }
            Notice::Polling => std::thread::yield_now(),
        }
    }
}

fn request(op: Op, buffers: &[Buffer]) -> Request {
    match op.kind {
        Kind::Read => Request::Read {
            offset: op.offset,
            buffers: buffers.to_vec(),
        },
        Kind::Write => Request::Write {
            offset: op.offset,
            buffers: buffers.to_vec(),
        },
        Kind::Discard => Request::Discard {
            offset: op.offset,
            len: op.len,
        },
        Kind::WriteZeroes { unmap } => Request::WriteZeroes {
            offset: op.offset,
            len: op.len,
            unmap,
        },
        Kind::Flush => Request::Flush,
    }
}
