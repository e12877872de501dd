//! From rows to BPF, and into the kernel.
//!
//! A BPF program has one action for what matches and one for the rest, so soft denials get programs of their own, one per errno.
//! The kernel runs all loaded programs and takes the strictest answer: kill before errno before allow.

use nix::errno::Errno;
use seccompiler::{BpfProgram, SeccompAction, SeccompCondition, SeccompFilter, SeccompRule, TargetArch};
use std::collections::BTreeMap;
use thiserror::Error;

use super::{Action, Filter, Row};
use crate::sys;

/// Why a filter cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FilterError {
    /// It has no rows: a mistake, never a wish.
    #[error("the filter has no rows")]
    Empty,
    /// A row without conditions stands beside another row of the same call, which then says nothing.
    #[error("the row of {0} without conditions makes its other rows meaningless")]
    Redundant(&'static str),
    /// It does not compile.
    #[error("cannot compile the filter")]
    Compile(#[source] seccompiler::BackendError),
    /// The kernel refused it.
    #[error("the kernel refuses the filter")]
    Load(#[source] seccompiler::Error),
}

impl Filter {
    /// Compiles the filter: soft denials first, the one that kills last.
    ///
    /// # Errors
    ///
    /// It is empty, or has rows that mean nothing.
    pub fn compile(&self) -> Result<Vec<BpfProgram>, FilterError> {
        if self.rows().is_empty() {
            return Err(FilterError::Empty);
        }
        let mut denials: BTreeMap<i32, (Errno, Vec<&Row>)> = BTreeMap::new();
        for row in self.rows() {
            if let Action::SoftDeny(errno) = row.action {
                let (_, rows) = denials
                    .entry(sys::errno_number(errno))
                    .or_insert_with(|| (errno, Vec::new()));
                rows.push(row);
            }
        }
        let mut programs = Vec::new();
        for (number, (_, rows)) in denials {
            let refuse = SeccompAction::Errno(number.cast_unsigned());
            programs.push(program(rows, SeccompAction::Allow, refuse)?);
        }
        let all = self.rows().iter().collect();
        programs.push(program(all, SeccompAction::KillProcess, SeccompAction::Allow)?);
        Ok(programs)
    }

    /// Compiles the filter and loads it for every thread of the process.
    pub(crate) fn load(&self) -> Result<(), FilterError> {
        // Compiled as a whole before the first is loaded: there is no way back from a half.
        for program in self.compile()? {
            seccompiler::apply_filter_all_threads(&program).map_err(FilterError::Load)?;
        }
        Ok(())
    }

    /// Compiles the filter and puts it over what is loaded already, for the calling thread only.
    ///
    /// Backwards: the one that kills still lets another be loaded (it allows what is soft-denied), the one that refuses that, with
    /// EPERM, the smallest errno, comes last. With a call of our own, because the library's makes others beside it.
    pub(crate) fn load_for_this_thread(&self) -> Result<(), FilterError> {
        for program in self.compile()?.iter().rev() {
            let loaded = sys::load_filter_for_this_thread(program);
            loaded.map_err(|errno| FilterError::Load(seccompiler::Error::Seccomp(errno.into())))?;
        }
        Ok(())
    }
}

/// One BPF program.
fn program(rows: Vec<&Row>, otherwise: SeccompAction, matching: SeccompAction) -> Result<BpfProgram, FilterError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for row in rows {
        let earlier = rules.get(&row.call.number);
        let says_nothing = match earlier {
            Some(earlier) => earlier.is_empty() || row.conditions.is_empty(),
            None => false,
        };
        if says_nothing {
            return Err(FilterError::Redundant(row.call.name));
        }
        rules
            .entry(row.call.number)
            .or_default()
            .extend(expand(row).map_err(FilterError::Compile)?);
    }
    SeccompFilter::new(rules, otherwise, matching, TargetArch::x86_64)
        .and_then(BpfProgram::try_from)
        .map_err(FilterError::Compile)
}

/// One rule for every combination of the alternatives in a row; none for a row without conditions, which is how seccompiler
/// spells "any arguments".
fn expand(row: &Row) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    if row.conditions.is_empty() {
        return Ok(Vec::new());
    }
    let mut combinations: Vec<Vec<SeccompCondition>> = vec![Vec::new()];
    for condition in &row.conditions {
        let alternatives = condition.alternatives()?;
        combinations = combinations
            .iter()
            .flat_map(|start| alternatives.iter().map(|next| [&start[..], next].concat()))
            .collect();
    }
    combinations.into_iter().map(SeccompRule::new).collect()
}
