//! A fill that is held in flight: while the rest of a cluster is on its way from the base, or to the overlay, whoever touches the
//! cluster waits, and everybody else goes on. Afterwards the cluster has what both wrote.

use std::thread::sleep;
use std::time::{Duration, Instant};

use tests::client::{Buffer, Client, Request, Setup};
use tests::faults::{Call, Faults, Rule, When};
use tests::model::{CLUSTER, Model, SECTOR};
use tests::place::Place;

/// Beyond the slices that share a lock with the first one.
const ELSEWHERE: usize = 3 << 20;
const DISK: usize = 4 << 20;

/// For what happens at once.
const PATIENCE: Duration = Duration::from_secs(30);
/// For what must not happen: nothing fails if this is too short.
const A_WHILE: Duration = Duration::from_millis(30);

/// Where in guest memory requests have their bytes.
const FIRST: u64 = 0;
const SECOND: u64 = 64 << 10;
const THIRD: u64 = 128 << 10;

/// What comes to the cluster while it is filled.
#[derive(Clone, Copy, Debug)]
enum Second {
    Read,
    WriteInIt,
    WriteAll,
    Discard,
    Zero,
}

const ALL: [Second; 5] = [
    Second::Read,
    Second::WriteInIt,
    Second::WriteAll,
    Second::Discard,
    Second::Zero,
];

struct Guest {
    client: Client,
    model: Model,
}

impl Guest {
    /// Asks queue 0 to write a sector.
    fn write_first(&mut self) {
        let sector = [0xa1; SECTOR];
        self.client.memory().write(FIRST, &sector);
        self.model.write(SECTOR, &sector);
        let first = Request::Write {
            offset: u64::try_from(SECTOR).expect("small"),
            buffers: vec![Buffer { at: FIRST, len: SECTOR }],
        };
        self.client.submit(0, &first, 1);
        self.client.kick(0);
    }

    /// Has queue 1 read another cluster, which does not wait.
    fn read_elsewhere(&mut self) {
        let elsewhere = Request::Read {
            offset: u64::try_from(ELSEWHERE).expect("small"),
            buffers: vec![Buffer {
                at: THIRD,
                len: CLUSTER,
            }],
        };
        self.client.submit(1, &elsewhere, 3);
        self.client.kick(1);
        self.answered(1, 3);
    }

    /// Asks queue 1 for what comes second.
    fn ask(&mut self, second: Second) {
        let whole = u64::try_from(CLUSTER).expect("small");
        let buffers = |len| vec![Buffer { at: SECOND, len }];
        let request = match second {
            Second::Read => Request::Read {
                offset: 0,
                buffers: buffers(CLUSTER),
            },
            Second::WriteInIt => self.write(5 * SECTOR, SECTOR),
            Second::WriteAll => self.write(0, CLUSTER),
            Second::Discard => {
                self.model.discard(0, CLUSTER);
                Request::Discard { offset: 0, len: whole }
            }
            Second::Zero => {
                self.model.write_zeroes(0, 4 * SECTOR);
                Request::WriteZeroes {
                    offset: 0,
                    len: whole / 2,
                    unmap: false,
                }
            }
        };
        self.client.submit(1, &request, 2);
        self.client.kick(1);
    }

    fn write(&mut self, offset: usize, len: usize) -> Request {
        let bytes = vec![0xb2; len];
        self.client.memory().write(SECOND, &bytes);
        self.model.write(offset, &bytes);
        Request::Write {
            offset: u64::try_from(offset).expect("small"),
            buffers: vec![Buffer { at: SECOND, len }],
        }
    }

    /// Waits until queue `queue` has answered `token`, and nothing else.
    fn answered(&mut self, queue: usize, token: u64) {
        let begun = Instant::now();
        loop {
            let done = self.client.completions(queue);
            if !done.is_empty() {
                assert!(
                    done.len() == 1 && done[0].token == token && done[0].result == 0,
                    "{done:?}"
                );
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "no answer to {token}");
            self.client.wait(A_WHILE);
        }
    }
}

/// The guest writes a sector; the fill is held at `call` on what the helper calls `held`; then comes the second request.
fn waits(call: Call, held: &str, second: Second) {
    let place = Place::with_noise(DISK, 9);
    let faults = Faults::new(place.dir());
    let mut helper = place.helper().value("--threads", "2").faulty(&faults).start();
    let setup = Setup {
        queues: 2,
        memory: 256 << 10,
        ..Setup::default()
    };
    let client = Client::connect(helper.socket(), setup);
    let mut guest = Guest {
        client,
        model: Model::new(place.content()),
    };
    let descriptors = helper.descriptors(held);
    faults.set(&[Rule::hold(&[call]).on(&descriptors).when(When::Nth(1))]);
    guest.write_first();
    let begun = Instant::now();
    while faults.spoilt() != [1] {
        assert!(begun.elapsed() < PATIENCE, "nobody calls {call:?} on {held}");
        sleep(Duration::from_millis(1));
    }
    guest.read_elsewhere();
    guest.ask(second);
    sleep(A_WHILE);
    assert!(
        guest.client.completions(0).is_empty() && guest.client.completions(1).is_empty(),
        "{second:?} did not wait for the fill"
    );

    faults.clear();
    guest.answered(0, 1);
    guest.answered(1, 2);
    if let Second::Read = second {
        let seen = guest.client.memory().read(SECOND, CLUSTER);
        assert!(seen == guest.model.read(0, CLUSTER), "a read behind a write sees it");
    }
    assert!(
        guest.client.read_all() == guest.model.read(0, DISK),
        "{second:?} and the fill, held at {call:?}, made another disk"
    );
    helper.assert_alive();
    helper.terminate();
}

#[test]
fn on_its_way_from_the_base_the_cluster_is_waited_for() {
    for second in ALL {
        waits(Call::Preadv2, "base", second);
    }
}

#[test]
fn on_its_way_to_the_overlay_the_cluster_is_waited_for() {
    for second in ALL {
        waits(Call::Pwrite, "overlay", second);
    }
}
