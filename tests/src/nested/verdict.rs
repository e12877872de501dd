//! What a check inside the nested host came to, as one line of text that nothing else looks like.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

/// How such a line begins.
const BEGINS: &str = "mayfly-verdict: ";

/// What a check came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All was as it should be.
    Good,
    /// Something was not.
    Bad,
    /// Something was waited for in vain.
    Stalled,
}

impl Outcome {
    const ALL: [Self; 3] = [Self::Good, Self::Bad, Self::Stalled];

    const fn word(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Bad => "failed",
            Self::Stalled => "stalled",
        }
    }
}

/// One check, run once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The check's name.
    pub check: String,
    /// What it came to.
    pub outcome: Outcome,
    /// How long it took, in milliseconds.
    pub millis: u64,
    /// What was measured, or what was wrong.
    pub detail: String,
}

impl Verdict {
    /// What a check came to.
    #[must_use]
    pub fn new(check: &str, outcome: Outcome, took: Duration, detail: &str) -> Self {
        Self {
            check: check.to_owned(),
            outcome,
            millis: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            detail: detail.to_owned(),
        }
    }

    /// Reads a line, if it is one.
    #[must_use]
    pub fn from_line(line: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(line.strip_prefix(BEGINS)?).ok()?;
        let text = |name: &str| value[name].as_str().map(str::to_owned);
        let word = text("outcome")?;
        Some(Self {
            check: text("check")?,
            outcome: Outcome::ALL.into_iter().find(|outcome| outcome.word() == word)?,
            millis: value["millis"].as_u64()?,
            detail: text("detail")?,
        })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = json!({
            "check": self.check,
            "outcome": self.outcome.word(),
            "millis": self.millis,
            "detail": self.detail,
        });
        write!(f, "{BEGINS}{value}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_read_as_it_was_written() {
        let took = Duration::from_millis(1234);
        let verdict = Verdict::new("boots", Outcome::Stalled, took, "two\nlines and \"quotes\"");

        let line = verdict.to_string();

        assert_eq!(line.lines().count(), 1);
        assert_eq!(Verdict::from_line(&line), Some(verdict));
    }

    #[test]
    fn other_lines_are_none() {
        assert_eq!(Verdict::from_line("mayfly: error: no"), None);
        assert_eq!(Verdict::from_line("mayfly-verdict: {\"check\": \"x\"}"), None);
    }
}
