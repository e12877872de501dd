//! Every single call of every kind of request, spoilt in every way, one after the other.

use nix::libc::{EAGAIN, EINTR, EIO, ENOSPC};
use tests::client::{Buffer, Client, Request, Setup};
use tests::doubt::Doubt;
use tests::faults::disk::{READS, WRITES, moving, requests};
use tests::faults::{Call, Faults, Rule, When};
use tests::model::{CLUSTER, Model, SECTOR};
use tests::place::Place;
use tests::require;
use tests::rng::Rng;
use tests::traffic::{Kind, Op};

/// Each round has its own part of the disk, so that each cluster is pristine again.
const PART: usize = 16 * CLUSTER;
/// More than there are calls in a round.
const ROUNDS: usize = 60;

/// Every way of a cluster through its states: filled in part and as a whole, written again, zeroed, discarded, filled from zeros.
const STORY: [(Kind, usize, usize); 13] = [
    (Kind::Read, 0, 16 * CLUSTER),
    (Kind::Write, SECTOR, SECTOR),
    (Kind::Write, CLUSTER + SECTOR, 3 * CLUSTER),
    (Kind::Read, 0, 16 * CLUSTER),
    (Kind::Write, CLUSTER, 2 * CLUSTER),
    (Kind::WriteZeroes { unmap: false }, 3 * SECTOR, CLUSTER),
    (Kind::WriteZeroes { unmap: true }, 6 * CLUSTER + SECTOR, 2 * CLUSTER),
    (Kind::Read, 0, 16 * CLUSTER),
    (Kind::Discard, 0, 4 * CLUSTER),
    (Kind::Write, 2 * CLUSTER + SECTOR, 2 * SECTOR),
    (Kind::Write, 10 * CLUSTER, 6 * CLUSTER),
    (Kind::Flush, 0, 0),
    (Kind::Read, 0, 16 * CLUSTER),
];

struct Guest {
    client: Client,
    model: Model,
    doubt: Doubt,
    rng: Rng,
}

impl Guest {
    /// One operation, and its result; a read is compared.
    fn does(&mut self, (kind, offset, len): (Kind, usize, usize), part: usize) -> i32 {
        let place = |bytes: usize| u64::try_from(bytes).expect("small");
        let offset = if kind == Kind::Flush { 0 } else { part + offset };
        let op = Op {
            kind,
            offset: place(offset),
            len: place(len),
        };
        let buffers = vec![Buffer { at: 0, len }];
        let (offset64, len64) = (op.offset, op.len);
        let result = match kind {
            Kind::Read => self.client.run(&Request::Read {
                offset: offset64,
                buffers,
            }),
            Kind::Write => {
                let bytes = self.rng.bytes(len);
                self.model.write(offset, &bytes);
                self.client.try_write(offset64, &bytes)
            }
            Kind::Discard => {
                self.model.discard(offset, len);
                self.client.run(&Request::Discard {
                    offset: offset64,
                    len: len64,
                })
            }
            Kind::WriteZeroes { unmap } => {
                self.model.write_zeroes(offset, len);
                self.client.run(&Request::WriteZeroes {
                    offset: offset64,
                    len: len64,
                    unmap,
                })
            }
            Kind::Flush => self.client.run(&Request::Flush),
        };
        assert!([0, -EIO].contains(&result), "{result}: {op:?}");
        self.doubt.answered(op, result != 0);
        if kind == Kind::Read && result == 0 {
            let mut found = self.client.memory().read(0, len);
            self.doubt.benefit(offset, &mut found, self.model.read(offset, len));
            assert!(found == self.model.read(offset, len), "wrong data: {op:?}");
        }
        result
    }
}

/// Spoils one call after the other so that, of the whole story, so many requests fail.
fn every_single_call(rule: &Rule, clear: bool, failing: usize) {
    let place = Place::with_noise((ROUNDS + 1) * PART, 1);
    let faults = Faults::new(place.dir());
    let helper = place.helper();
    let helper = if clear { helper.option("--no-encrypt") } else { helper };
    let mut helper = helper.faulty(&faults).start();
    let mut guest = Guest {
        client: Client::connect(helper.socket(), Setup::default()),
        model: Model::new(place.content()),
        doubt: Doubt::new(place.content().len()),
        rng: Rng::new(1),
    };
    let rule = rule.clone().on(&helper.disk());
    let mut calls = 0;
    for round in 0..=ROUNDS {
        let number = u64::try_from(round + 1).expect("small");
        faults.set(&[rule.clone().when(When::Nth(number))]);
        let failed = STORY.map(|step| guest.does(step, round * PART) != 0);
        let failed: Vec<_> = (0..STORY.len()).filter(|index| failed[*index]).collect();
        let spoilt = faults.spoilt();
        faults.clear();
        assert_eq!(guest.does((Kind::Read, 0, PART), round * PART), 0);
        if spoilt.is_empty() {
            assert!(failed.is_empty(), "nothing was spoilt: {failed:?}");
            break;
        }
        assert_eq!(failed.len(), failing, "call {number} of {rule:?}: {failed:?}");
        calls += 1;
    }
    assert!((1..=ROUNDS).contains(&calls), "{calls} calls: {rule:?}");
    helper.assert_alive();
    helper.terminate();
}

#[test]
fn that_fails_fails_one_request() {
    require!(first_time);
    for errno in [EIO, ENOSPC] {
        every_single_call(&Rule::fail(&moving(), errno), false, 1);
    }
    every_single_call(&Rule::fail(&moving(), EIO), true, 1);
    // What is to come later is waited for where it is read, and an error where it is written.
    every_single_call(&Rule::fail(&WRITES, EAGAIN), false, 1);
}

#[test]
fn that_need_not_succeed_fails_none() {
    require!(first_time);
    every_single_call(&Rule::fail(&requests(), EINTR), false, 0);
    every_single_call(&Rule::fail(&READS, EAGAIN), false, 0);
    // Space that is not given back is used again.
    for errno in [EIO, ENOSPC] {
        every_single_call(&Rule::fail(&[Call::Fallocate], errno), false, 0);
    }
}

#[test]
fn that_is_short_gives_the_right_data() {
    for clear in [false, true] {
        every_single_call(&Rule::short(&moving()), clear, 0);
    }
}
