//! What a helper calls for its disk, and every way in which that can go wrong.

use nix::libc::{EAGAIN, EINTR, EIO, ENOSPC};

use super::rule::{Call, Rule};

/// What reads the base and the overlay.
pub const READS: [Call; 1] = [Call::Preadv2];

/// What writes the overlay.
pub const WRITES: [Call; 2] = [Call::Pwrite, Call::Pwritev];

/// What reads and writes.
#[must_use]
pub fn moving() -> Vec<Call> {
    [&READS[..], &WRITES[..]].concat()
}

/// The same, and what gives space back: all that a request needs to succeed.
#[must_use]
pub fn requests() -> Vec<Call> {
    [&moving()[..], &[Call::Fallocate]].concat()
}

/// Each kind of fault on each kind of call.
#[must_use]
pub fn every_way() -> Vec<Rule> {
    let mut rules = vec![Rule::short(&READS), Rule::short(&WRITES)];
    for errno in [EIO, EINTR, EAGAIN, ENOSPC] {
        rules.push(Rule::fail(&READS, errno));
        rules.push(Rule::fail(&WRITES, errno));
        rules.push(Rule::fail(&[Call::Fallocate, Call::Fstatfs], errno));
    }
    rules
}
