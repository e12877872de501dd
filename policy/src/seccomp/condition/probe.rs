//! A condition read back, for tests: whether it holds for a number, and numbers to try. Written from what the words mean and apart
//! from what makes BPF of them, so that each shows the mistakes of the other.

use super::{Condition, Test, Value};

impl Condition {
    /// Which argument it is about.
    pub(in crate::seccomp) fn index(&self) -> usize {
        usize::from(self.argument.index)
    }

    /// Whether it holds for these arguments.
    pub(in crate::seccomp) fn holds(&self, arguments: [u64; 6]) -> bool {
        let seen = self.seen(arguments[self.index()]);
        let equals = |value: &Value| seen == self.seen(value.bits);
        match &self.test {
            Test::OneOf(values) => values.iter().any(equals),
            Test::NoneOf(values) => !values.iter().any(equals),
            Test::Without(value) => seen & value.bits == 0,
            Test::WithOptional { value, optional } => seen & !optional.bits == value.bits,
        }
    }

    /// Numbers for which it holds: each that it names, each optional bit, and something for what is only excluded.
    pub(in crate::seccomp) fn examples(&self) -> Vec<u64> {
        match &self.test {
            Test::OneOf(values) => values.iter().map(|value| value.bits).collect(),
            Test::NoneOf(_) => vec![1 << 20],
            Test::Without(value) => vec![0, !value.bits & 0x7fff_ffff],
            Test::WithOptional { value, optional } => bits(optional.bits)
                .chain([0, optional.bits])
                .map(|more| value.bits | more)
                .collect(),
        }
    }

    /// Numbers at its border: each example with one bit turned over, and what it excludes.
    pub(in crate::seccomp) fn neighbours(&self) -> Vec<u64> {
        let turned = |example: u64| bits(u64::MAX).map(move |bit| example ^ bit);
        let excluded: Vec<u64> = match &self.test {
            Test::NoneOf(values) => values.iter().map(|value| value.bits).collect(),
            Test::Without(value) => bits(value.bits).collect(),
            Test::OneOf(_) | Test::WithOptional { .. } => Vec::new(),
        };
        self.examples().into_iter().flat_map(turned).chain(excluded).collect()
    }

    /// What the kernel looks at.
    fn seen(&self, register: u64) -> u64 {
        if self.argument.wide {
            register
        } else {
            register & u64::from(u32::MAX)
        }
    }
}

/// The bits of a number, one by one.
fn bits(number: u64) -> impl Iterator<Item = u64> {
    (0..u64::BITS)
        .map(|shift| 1 << shift)
        .filter(move |bit| number & bit != 0)
}
