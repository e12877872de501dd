//! One call after the other that fails, once, and what must become of whatever made it.
//!
//! A [`Row`] is a kind of call. Its first fails, then its second, and so on until there is none left: of each it is known how the
//! whole ends. So an error that is passed over, of a call that matters, is found.

use nix::libc::{EIO, ENOSPC};
use tests::faults::{Call, Faults, Rule, When};

/// How something ended, as it says itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Well.
    Done,
    /// Well; but nobody knows for how long.
    Unsure,
    /// It was given up.
    Failed,
    /// It was given up, by the exit code that says that nothing has changed.
    Refused,
}

impl End {
    /// Whether it was given up.
    pub(crate) fn is_bad(self) -> bool {
        matches!(self, Self::Failed | Self::Refused)
    }

    /// The same, where what was said is `said`: an end that is not a good one must name the error.
    pub(crate) fn because(self, errno: i32, said: &str) -> Self {
        assert!(
            self == Self::Done || said.contains(&format!("(os error {errno})")),
            "{errno} is not named: {said}"
        );
        self
    }
}

/// What is done again and again, each time with another call that fails.
pub(crate) trait Deed {
    /// What has to be there first, where nothing fails.
    fn prepare(&mut self) {}

    /// Does it, and says how it ended. One call may fail with `errno`.
    fn act(&mut self, errno: i32) -> End;
}

impl<F: FnMut(i32) -> End> Deed for F {
    fn act(&mut self, errno: i32) -> End {
        self(errno)
    }
}

/// Which ends there are.
#[derive(Clone, Debug)]
enum Ends {
    /// This one, whichever call fails, and there is one.
    Always(End),
    /// This one, if there is a call.
    IfAny(End),
    /// One for each call.
    These(Vec<End>),
    /// One for each call that matters; with the others, between which they are, it is well.
    Mattering(Vec<End>),
}

/// A kind of call.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    call: Call,
    descriptors: Vec<i32>,
    ends: Ends,
}

/// More than there are calls of a kind.
const MOST: u64 = 200;

impl Row {
    /// Whichever fails: this is the end.
    pub(crate) fn always(call: Call, end: End) -> Self {
        Self {
            call,
            descriptors: Vec::new(),
            ends: Ends::Always(end),
        }
    }

    /// The same; but not every file system lets it be called.
    pub(crate) fn if_any(call: Call, end: End) -> Self {
        Self {
            ends: Ends::IfAny(end),
            ..Self::always(call, end)
        }
    }

    /// There are so many calls, and for each it is this end.
    pub(crate) fn these(call: Call, ends: &[End]) -> Self {
        Self {
            ends: Ends::These(ends.to_vec()),
            ..Self::always(call, End::Done)
        }
    }

    /// So many of the calls are made for what cannot be done without, and for each it is this end; the others are not needed.
    pub(crate) fn mattering(call: Call, ends: &[End]) -> Self {
        Self {
            ends: Ends::Mattering(ends.to_vec()),
            ..Self::always(call, End::Failed)
        }
    }

    /// Only those on these descriptors.
    pub(crate) fn on(self, descriptors: &[i32]) -> Self {
        let descriptors = descriptors.to_vec();
        Self { descriptors, ..self }
    }

    /// Lets one call of the deed after the other fail.
    pub(crate) fn try_each(&self, faults: &Faults, deed: &mut impl Deed) {
        for errno in [EIO, ENOSPC] {
            let found = self.ends(faults, errno, deed);
            let are_right = match &self.ends {
                Ends::Always(end) => !found.is_empty() && found.iter().all(|found| found == end),
                Ends::IfAny(end) => found.iter().all(|found| found == end),
                Ends::These(ends) => found == *ends,
                Ends::Mattering(ends) => found.iter().filter(|found| **found != End::Done).eq(ends),
            };
            assert!(are_right, "{errno}: {found:?} of {self:?}");
        }
    }

    /// How it ended with each call that failed.
    fn ends(&self, faults: &Faults, errno: i32, deed: &mut impl Deed) -> Vec<End> {
        let rule = Rule::fail(&[self.call], errno).on(&self.descriptors);
        let mut ends = Vec::new();
        for number in 1..MOST {
            deed.prepare();
            faults.set(&[rule.clone().when(When::Nth(number))]);
            let end = deed.act(errno);
            let spoilt = faults.spoilt();
            faults.clear();
            if spoilt.is_empty() {
                assert_eq!(end, End::Done, "nothing failed: {self:?}");
                return ends;
            }
            ends.push(end);
        }
        panic!("there is no end of {self:?}");
    }
}
