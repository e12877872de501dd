//! A system call filter as prose: one row per call, with its condition and the reason for it.
//!
//! A call that no row names kills the process. Rows of one call are alternatives. An *allowed* call runs; a *soft-denied* one
//! fails with an errno, for what libraries try out of habit and do without. Conditions carry their own words, made from the
//! same source text as their numbers, so the table in the documentation cannot drift from the filter.
//!
//! It does not know what a process needs; [`helper`], [`import`] and [`vmm`] do.

mod c_library;
mod compile;
mod condition;
pub mod helper;
pub mod import;
pub mod vmm;

pub use compile::FilterError;
pub use condition::{Argument, Condition, Value};

use nix::errno::Errno;
use std::fmt::Write;

/// A system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its name.
    pub name: &'static str,
    /// Its number.
    pub number: i64,
}

/// What the filter does with a call that a row describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It runs.
    Allow,
    /// It fails with this errno.
    SoftDeny(Errno),
}

/// One line of a filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The call.
    pub call: Call,
    /// All of these must hold; none means any arguments.
    pub conditions: Vec<Condition>,
    /// What happens then.
    pub action: Action,
    /// Why the process needs it.
    pub reason: &'static str,
}

/// A whole filter. What it does not mention kills the process.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// The lines.
    rows: Vec<Row>,
}

impl Filter {
    /// A filter of these rows. A condition that excludes nothing is left out.
    #[must_use]
    pub fn new(mut rows: Vec<Row>) -> Self {
        for row in &mut rows {
            row.conditions.retain(Condition::says_something);
        }
        Self { rows }
    }

    /// A filter that allows what any of several lists of rows allows. Where one of them names a call without conditions, the others
    /// say nothing about that call.
    #[must_use]
    pub fn union(lists: impl IntoIterator<Item = Vec<Row>>) -> Self {
        let mut rows: Vec<Row> = Vec::new();
        for row in Self::new(lists.into_iter().flatten().collect()).rows {
            let covers = |wide: &Row, row: &Row| {
                (wide.call, wide.action) == (row.call, row.action)
                    && (wide.conditions.is_empty() || wide.conditions == row.conditions)
            };
            if !rows.iter().any(|known| covers(known, &row)) {
                rows.retain(|known| !covers(&row, known));
                rows.push(row);
            }
        }
        Self { rows }
    }

    /// The lines.
    #[must_use]
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The table for the documentation, as Markdown: allowed calls, then soft-denied ones.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        let mut text = String::from("| call | condition | reason |\n| --- | --- | --- |\n");
        let (allowed, denied): (Vec<_>, Vec<_>) = self.rows.iter().partition(|row| row.action == Action::Allow);
        for row in allowed.into_iter().chain(denied) {
            let conditions: Vec<String> = row.conditions.iter().map(ToString::to_string).collect();
            // A bar would end the column.
            let conditions = conditions.join("; ").replace('|', "\\|");
            let space = if conditions.is_empty() { "" } else { " " };
            let refusal = match row.action {
                Action::Allow => String::new(),
                Action::SoftDeny(errno) => format!("*soft-denied, {errno:?}:* "),
            };
            writeln!(
                text,
                "| `{}` |{space}{conditions} | {refusal}{} |",
                row.call.name, row.reason
            )
            .expect("writing to a string does not fail");
        }
        text
    }
}

/// A table of rows, one call a line: `allow: SYS_close [conditions] "reason";` or `deny EACCES: SYS_openat […] "…";`. The name that
/// readers see is the constant's, so the two cannot differ.
macro_rules! table {
    (@action allow) => { $crate::seccomp::Action::Allow };
    (@action deny $errno:ident) => { $crate::seccomp::Action::SoftDeny(nix::errno::Errno::$errno) };
    ($($what:ident $($errno:ident)? : $call:ident [$($condition:expr),*] $reason:literal;)*) => {
        vec![$($crate::seccomp::Row {
            call: $crate::seccomp::call(stringify!($call), libc::$call),
            conditions: vec![$($condition),*],
            action: $crate::seccomp::table!(@action $what $($errno)?),
            reason: $reason,
        }),*]
    };
}

/// A value with the words it was written in: `named!(MAP_SHARED | MAP_NORESERVE)`.
macro_rules! named {
    ($($constant:ident)|+) => {
        $crate::seccomp::Value::new(
            0 $(| $crate::seccomp::condition::Bits::bits(libc::$constant))+,
            stringify!($($constant)|+),
        )
    };
}

use {named, table};

/// A call by the name of its constant in the libc crate.
fn call(constant: &'static str, number: i64) -> Call {
    let name = constant
        .strip_prefix("SYS_")
        .expect("the libc crate names every call SYS_something");
    Call { name, number }
}

#[cfg(test)]
mod tests;
