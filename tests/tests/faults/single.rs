//! Every single call of every kind of request, spoilt in every way, one after the other.

use tests::client::{Buffer, Client, Request, Setup};
use tests::doubt::Doubt;
use tests::faults::{Call, Faults, Rule, When};
use tests::model::{CLUSTER, Model, SECTOR};
use tests::place::Place;
use tests::rng::Rng;
use tests::traffic::{Kind, Op};

use super::{EAGAIN, EINTR, EIO, ENOSPC, READS, WRITES, disk};

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

/// Each call fails with this errno; without one it moves fewer bytes than it was asked to.
fn every_single_call(errno: Option<i32>, clear: bool) {
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
    let moving = [&READS[..], &WRITES[..]].concat();
    let all = [&moving[..], &[Call::Fallocate]].concat();
    let mut calls = 0;
    for round in 0..=ROUNDS {
        let rule = errno.map_or_else(|| Rule::short(&moving), |errno| Rule::fail(&all, errno));
        let number = u64::try_from(round + 1).expect("small");
        faults.set(&[rule.on(&disk(&helper)).when(When::Nth(number))]);
        for step in STORY {
            let result = guest.does(step, round * PART);
            let is_gone_on_after = errno.is_none_or(|errno| errno == EINTR);
            assert!(result == 0 || !is_gone_on_after, "{step:?}: {result}");
        }
        let spoilt = faults.spoilt();
        faults.clear();
        assert_eq!(guest.does((Kind::Read, 0, PART), round * PART), 0);
        if spoilt.is_empty() {
            break;
        }
        calls += 1;
    }
    assert!((10..=ROUNDS).contains(&calls), "{calls} calls");
    helper.assert_alive();
    helper.terminate();
}

#[test]
fn that_fails_gives_an_error_or_the_right_data() {
    for errno in [EIO, ENOSPC, EINTR, EAGAIN] {
        every_single_call(Some(errno), false);
    }
    every_single_call(Some(EIO), true);
}

#[test]
fn that_is_short_gives_the_right_data() {
    every_single_call(None, false);
    every_single_call(None, true);
}
