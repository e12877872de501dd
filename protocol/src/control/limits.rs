//! Limits that an operator sets and changes while a helper serves.

use crate::size;
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// So much a second, with bursts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Requests, or bytes, a second. 0 means that there is no limit.
    pub per_second: u64,
    /// As many as may be used at once after a pause. 0 means as many as a second brings.
    #[serde(default)]
    pub burst: u64,
}

impl Rate {
    /// No limit.
    pub const UNLIMITED: Self = Self {
        per_second: 0,
        burst: 0,
    };

    /// Reads requests a second as people write them: `1000`, or `1000:5000` with a burst.
    ///
    /// # Errors
    /// What is wrong, in words for people.
    pub fn parse_requests(text: &str) -> Result<Self, String> {
        Self::parse(text, |number| {
            number.parse().map_err(|_| "give N or N:BURST as numbers".to_owned())
        })
    }

    /// Reads bytes a second as people write them: `100M`, or `100M:1G` with a burst.
    ///
    /// # Errors
    /// What is wrong, in words for people.
    pub fn parse_bytes(text: &str) -> Result<Self, String> {
        Self::parse(text, size::parse)
    }

    /// Reads two numbers, or one.
    fn parse(text: &str, number: impl Fn(&str) -> Result<u64, String>) -> Result<Self, String> {
        let (per_second, burst) = match text.split_once(':') {
            None => (number(text)?, 0),
            Some((per_second, burst)) => (number(per_second)?, number(burst)?),
        };
        Ok(Self { per_second, burst })
    }

    /// Whether there is no limit.
    #[must_use]
    pub const fn is_unlimited(self) -> bool {
        self.per_second == 0
    }
}

/// What happens to a guest's write for which there is no space: at the quota, or at the floor of free space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AtLimit {
    /// It fails: the guest sees an I/O error.
    #[default]
    Error,
    /// It waits, with its whole queue, until there is space.
    Hold,
}

impl AtLimit {
    /// What people call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Hold => "hold",
        }
    }
}

impl FromStr for AtLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let all = [Self::Error, Self::Hold];
        let found = all.into_iter().find(|what| what.name() == text);
        found.ok_or_else(|| "give error (such writes fail) or hold (they wait)".into())
    }
}

/// The limits in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Most bytes of overlay; more may be in use already.
    pub overlay_bytes: u64,
    /// Requests a second.
    pub iops: Rate,
    /// Bytes a second, read and written.
    pub bandwidth: Rate,
    /// Bytes that the overlay's file system keeps free. 0 means that nobody looks.
    pub keep_free_bytes: u64,
    /// What happens where there is no space.
    pub at_limit: AtLimit,
}

/// What is to change of the limits. What is left out stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitsChange {
    /// See [`Limits::overlay_bytes`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlay_bytes: Option<u64>,
    /// See [`Limits::iops`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iops: Option<Rate>,
    /// See [`Limits::bandwidth`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Rate>,
    /// See [`Limits::keep_free_bytes`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_free_bytes: Option<u64>,
    /// See [`Limits::at_limit`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_limit: Option<AtLimit>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_as_people_write_them() {
        let rate = |per_second, burst| Rate { per_second, burst };
        assert_eq!(Rate::parse_requests("1000"), Ok(rate(1000, 0)));
        assert_eq!(Rate::parse_requests("1000:5"), Ok(rate(1000, 5)));
        assert_eq!(Rate::parse_requests("0"), Ok(Rate::UNLIMITED));
        assert_eq!(Rate::parse_bytes("10M:1G"), Ok(rate(10 << 20, 1 << 30)));
        for text in ["", ":", "1:", ":1", "1:2:3", "-1", "1K", "many"] {
            Rate::parse_requests(text).expect_err(text);
        }
        for text in ["", "10M:", "10X", "1:2:3"] {
            Rate::parse_bytes(text).expect_err(text);
        }
    }

    #[test]
    fn what_happens_at_a_limit_has_a_name() {
        for what in [AtLimit::Error, AtLimit::Hold] {
            assert_eq!(what.name().parse(), Ok(what));
        }
        for text in ["", "Hold", "burn"] {
            text.parse::<AtLimit>().expect_err(text);
        }
    }
}
