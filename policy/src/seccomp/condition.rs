//! Conditions on the arguments of a call: numbers for the kernel and words for the reader, from one source.

use seccompiler::{BackendError, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition};
use std::fmt;

/// A number with its words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// What the kernel compares with.
    bits: u64,
    /// How it reads.
    words: String,
}

impl Value {
    /// A value that reads as `words`.
    #[must_use]
    pub fn new(bits: u64, words: impl Into<String>) -> Self {
        Self {
            bits,
            words: words.into(),
        }
    }

    /// A descriptor by its role: the number is this process's, the word is everybody's.
    #[must_use]
    pub fn descriptor(number: std::os::fd::RawFd, role: &'static str) -> Self {
        Self::new(Bits::bits(number), role)
    }
}

/// The constants of the libc crate come in several integer types.
pub(crate) trait Bits {
    /// The bits, as the low part of a register.
    fn bits(self) -> u64;
}

impl Bits for i32 {
    fn bits(self) -> u64 {
        u64::from(self.cast_unsigned())
    }
}

impl Bits for u32 {
    fn bits(self) -> u64 {
        self.into()
    }
}

impl Bits for u64 {
    fn bits(self) -> u64 {
        self
    }
}

/// An argument of a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Argument {
    /// Its position, from 0.
    index: u8,
    /// Its name in the manual.
    name: &'static str,
    /// How much of the register the kernel looks at.
    wide: bool,
}

impl Argument {
    /// An `int`: the kernel looks at the low 32 bits only.
    #[must_use]
    pub const fn int(index: u8, name: &'static str) -> Self {
        Self {
            index,
            name,
            wide: false,
        }
    }

    /// A `long` or a pointer: all 64 bits.
    #[must_use]
    pub const fn long(index: u8, name: &'static str) -> Self {
        Self {
            index,
            name,
            wide: true,
        }
    }

    /// It has this value.
    #[must_use]
    pub fn is(self, value: Value) -> Condition {
        self.is_one_of(vec![value])
    }

    /// It has one of these values.
    #[must_use]
    pub const fn is_one_of(self, values: Vec<Value>) -> Condition {
        Condition {
            argument: self,
            test: Test::OneOf(values),
        }
    }

    /// It has none of these values.
    #[must_use]
    pub const fn is_none_of(self, values: Vec<Value>) -> Condition {
        Condition {
            argument: self,
            test: Test::NoneOf(values),
        }
    }

    /// It has no bits but, perhaps, these.
    #[must_use]
    pub fn has_only(self, allowed: Value) -> Condition {
        self.is_with_optional(Value::new(0, ""), allowed)
    }

    /// It has none of these bits.
    #[must_use]
    pub const fn has_none_of(self, forbidden: Value) -> Condition {
        Condition {
            argument: self,
            test: Test::Without(forbidden),
        }
    }

    /// It is `value`, with or without any of the `optional` bits.
    #[must_use]
    pub const fn is_with_optional(self, value: Value, optional: Value) -> Condition {
        Condition {
            argument: self,
            test: Test::WithOptional { value, optional },
        }
    }
}

/// What an argument is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    /// Equal to one of several.
    OneOf(Vec<Value>),
    /// Equal to none of several.
    NoneOf(Vec<Value>),
    /// No bit in common.
    Without(Value),
    /// Equal once the optional bits are cleared.
    WithOptional {
        /// What remains.
        value: Value,
        /// What is cleared.
        optional: Value,
    },
}

/// A condition on one argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Which argument.
    argument: Argument,
    /// What must hold for it.
    test: Test,
}

impl Condition {
    /// Whether it can fail to hold: "none of nothing" cannot.
    pub(super) const fn says_something(&self) -> bool {
        match &self.test {
            Test::NoneOf(values) => !values.is_empty(),
            Test::OneOf(_) | Test::Without(_) | Test::WithOptional { .. } => true,
        }
    }

    /// The same for seccompiler: alternatives, of each of which all comparisons must hold.
    pub(super) fn alternatives(&self) -> Result<Vec<Vec<SeccompCondition>>, BackendError> {
        let one = |comparison: SeccompCondition| vec![vec![comparison]];
        match &self.test {
            Test::OneOf(values) => values
                .iter()
                .map(|value| Ok(vec![self.compare(SeccompCmpOp::Eq, value.bits)?]))
                .collect(),
            Test::NoneOf(values) => {
                let all = values.iter();
                let all = all.map(|value| self.compare(SeccompCmpOp::Ne, value.bits));
                Ok(vec![all.collect::<Result<_, _>>()?])
            }
            Test::Without(value) => self.compare(SeccompCmpOp::MaskedEq(value.bits), 0).map(one),
            Test::WithOptional { value, optional } => self
                .compare(SeccompCmpOp::MaskedEq(!optional.bits), value.bits)
                .map(one),
        }
    }

    /// One comparison.
    fn compare(&self, operator: SeccompCmpOp, bits: u64) -> Result<SeccompCondition, BackendError> {
        let length = if self.argument.wide {
            SeccompCmpArgLen::Qword
        } else {
            SeccompCmpArgLen::Dword
        };
        SeccompCondition::new(self.argument.index, length, operator, bits)
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.argument.name;
        match &self.test {
            Test::OneOf(values) => write!(f, "{name} = {}", words(values, " or ")),
            Test::NoneOf(values) => write!(f, "{name} ≠ {}", words(values, ", ≠ ")),
            Test::Without(value) => write!(f, "{name} without {}", value.words),
            Test::WithOptional { value, optional } if value.bits == 0 => {
                write!(f, "{name} only {}", optional.words)
            }
            Test::WithOptional { value, optional } => {
                write!(f, "{name} = {}, perhaps {}", value.words, optional.words)
            }
        }
    }
}

/// Several values, with `between` in between. What reads the same (the disks' sockets, say) is said once.
fn words(values: &[Value], between: &str) -> String {
    let mut words: Vec<&str> = values.iter().map(|value| value.words.as_str()).collect();
    words.dedup();
    words.join(between)
}

#[cfg(test)]
mod probe;
