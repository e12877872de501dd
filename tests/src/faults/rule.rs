//! What is to go wrong: which system call, on which descriptor, how often, and how.
//!
//! Plain values that a test writes and the tracer reads. Nothing here knows how a process is made to see it.

use nix::libc;
use serde::{Deserialize, Serialize};

use crate::rng::Rng;

/// A system call that can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Call {
    /// `pread64`.
    Pread,
    /// `preadv2`.
    Preadv2,
    /// `pwrite64`.
    Pwrite,
    /// `pwritev`.
    Pwritev,
    /// `fallocate`.
    Fallocate,
    /// `ftruncate`.
    Ftruncate,
    /// `fsync`.
    Fsync,
    /// `flock`.
    Flock,
    /// `lseek`.
    Lseek,
    /// `fstat`, by any of its numbers: two of them look up names as well.
    Fstat,
    /// `fstatfs`.
    Fstatfs,
    /// `fchmod`.
    Fchmod,
    /// `fchown`.
    Fchown,
    /// `linkat`.
    Link,
    /// `unlinkat`.
    Unlink,
    /// `renameat`, by any of its numbers.
    Rename,
}

/// Their numbers.
const NUMBERS: [(i64, Call); 20] = [
    (libc::SYS_pread64, Call::Pread),
    (libc::SYS_preadv2, Call::Preadv2),
    (libc::SYS_pwrite64, Call::Pwrite),
    (libc::SYS_pwritev, Call::Pwritev),
    (libc::SYS_fallocate, Call::Fallocate),
    (libc::SYS_ftruncate, Call::Ftruncate),
    (libc::SYS_fsync, Call::Fsync),
    (libc::SYS_flock, Call::Flock),
    (libc::SYS_lseek, Call::Lseek),
    (libc::SYS_fstat, Call::Fstat),
    (libc::SYS_newfstatat, Call::Fstat),
    (libc::SYS_statx, Call::Fstat),
    (libc::SYS_fstatfs, Call::Fstatfs),
    (libc::SYS_fchmod, Call::Fchmod),
    (libc::SYS_fchown, Call::Fchown),
    (libc::SYS_linkat, Call::Link),
    (libc::SYS_unlinkat, Call::Unlink),
    (libc::SYS_rename, Call::Rename),
    (libc::SYS_renameat, Call::Rename),
    (libc::SYS_renameat2, Call::Rename),
];

impl Call {
    /// The call with this number, if it is one of these.
    #[must_use]
    pub fn numbered(number: u64) -> Option<Self> {
        let found = NUMBERS.iter().find(|(known, _)| u64::try_from(*known) == Ok(number));
        found.map(|(_, call)| *call)
    }
}

/// Which of the calls that fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum When {
    /// Each.
    Always,
    /// The one with this number, from 1 on.
    Nth(u64),
    /// So many of a thousand, at random.
    Permille(u64),
}

/// What happens instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effect {
    /// It does nothing, and its result is this errno.
    Fail(i32),
    /// It moves fewer bytes than it was asked to, at random, and at least one.
    Short,
    /// It does not begin before there is another plan.
    Hold,
}

/// One thing that goes wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    calls: Vec<Call>,
    descriptors: Vec<i32>,
    when: When,
    effect: Effect,
}

impl Rule {
    /// Each of these calls fails with `errno`.
    #[must_use]
    pub fn fail(calls: &[Call], errno: i32) -> Self {
        Self {
            calls: calls.to_vec(),
            descriptors: Vec::new(),
            when: When::Always,
            effect: Effect::Fail(errno),
        }
    }

    /// Each of these calls, which move bytes, moves fewer.
    #[must_use]
    pub fn short(calls: &[Call]) -> Self {
        Self {
            effect: Effect::Short,
            ..Self::fail(calls, 0)
        }
    }

    /// Each of these calls does nothing, and says that it moved `bytes`: what no kernel does.
    #[must_use]
    pub fn lie(calls: &[Call], bytes: i32) -> Self {
        // A result that is no error is one above 0.
        Self::fail(calls, -bytes)
    }

    /// Each of these calls waits for another plan.
    #[must_use]
    pub fn hold(calls: &[Call]) -> Self {
        Self {
            effect: Effect::Hold,
            ..Self::fail(calls, 0)
        }
    }

    /// Only those on these descriptors.
    #[must_use]
    pub fn on(mut self, descriptors: &[i32]) -> Self {
        self.descriptors = descriptors.to_vec();
        self
    }

    /// Not each.
    #[must_use]
    pub const fn when(mut self, when: When) -> Self {
        self.when = when;
        self
    }

    fn fits(&self, call: Call, descriptor: u64) -> bool {
        // AT_FDCWD is below 0.
        let is_meant = |wanted: &i32| u64::from(wanted.cast_unsigned()) == descriptor;
        self.calls.contains(&call) && (self.descriptors.is_empty() || self.descriptors.iter().any(is_meant))
    }
}

/// All that goes wrong at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Each plan has another number, so that what is told of one is not taken for what is told of the next.
    pub number: u64,
    /// Determines what happens at random.
    pub seed: u64,
    /// The first that fits a call, and whose turn it is, is followed.
    pub rules: Vec<Rule>,
}

/// What has happened under a plan, rule by rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// The plan's number.
    pub plan: u64,
    /// How many calls fitted.
    pub fitted: Vec<u64>,
    /// How many of them went wrong.
    pub spoilt: Vec<u64>,
}

/// A plan that is being followed.
#[derive(Debug)]
pub struct Course {
    plan: Plan,
    rng: Rng,
    told: Told,
}

impl Course {
    /// Its beginning.
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        Self {
            rng: Rng::new(plan.seed),
            told: Told {
                plan: plan.number,
                fitted: vec![0; plan.rules.len()],
                spoilt: vec![0; plan.rules.len()],
            },
            plan,
        }
    }

    /// What is to happen to a call, if something is.
    pub fn decide(&mut self, call: Call, descriptor: u64) -> Option<Effect> {
        for (index, rule) in self.plan.rules.iter().enumerate() {
            if !rule.fits(call, descriptor) {
                continue;
            }
            self.told.fitted[index] += 1;
            let is_due = match rule.when {
                When::Always => true,
                When::Nth(number) => self.told.fitted[index] == number,
                When::Permille(share) => self.rng.below(1000) < share,
            };
            if is_due {
                self.told.spoilt[index] += 1;
                return Some(rule.effect);
            }
        }
        None
    }

    /// A number from 1 to below `bytes`; none where there is none.
    pub fn fewer(&mut self, bytes: u64) -> Option<u64> {
        (bytes > 1).then(|| self.rng.between(1, bytes - 1))
    }

    /// What has happened so far.
    #[must_use]
    pub const fn told(&self) -> &Told {
        &self.told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_fits_and_is_due_is_followed() {
        let rules = vec![
            Rule::fail(&[Call::Pwrite], 5).on(&[4]).when(When::Nth(2)),
            Rule::short(&[Call::Pwrite, Call::Pread]),
        ];
        let mut course = Course::new(Plan {
            rules,
            ..Plan::default()
        });

        assert_eq!(course.decide(Call::Pwrite, 4), Some(Effect::Short));
        assert_eq!(course.decide(Call::Pwrite, 4), Some(Effect::Fail(5)));
        assert_eq!(course.decide(Call::Pread, 9), Some(Effect::Short));
        assert_eq!(course.decide(Call::Fsync, 4), None);
        assert_eq!(
            (&course.told().fitted[..], &course.told().spoilt[..]),
            (&[2, 2][..], &[1, 2][..])
        );
        assert!((1..4096).contains(&course.fewer(4096).unwrap()));
        assert_eq!(course.fewer(1), None);
    }
}
