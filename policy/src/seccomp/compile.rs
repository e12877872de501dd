//! From rows to BPF, and into the kernel.
//!
//! seccompiler's programs have one action for what matches and one for the rest, so soft denials get programs of their own, one
//! per errno. They are joined into a single one, since the kernel runs every program that is loaded for every call: what one
//! does not deny goes on to the next, and the last kills what no row names.

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
    /// Compiles the filter: soft denials first, then what is allowed; what is neither kills.
    ///
    /// # Errors
    ///
    /// It is empty, or has rows that mean nothing.
    pub fn compile(&self) -> Result<BpfProgram, FilterError> {
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
        let mut whole = BpfProgram::new();
        for (number, (_, rows)) in denials {
            let refuse = SeccompAction::Errno(number.cast_unsigned());
            whole.extend(going_on(program(rows, SeccompAction::Allow, refuse)?));
        }
        // The denied rows, too: none of their calls comes so far, and rows that contradict each other are noticed.
        let all = self.rows().iter().collect();
        whole.extend(program(all, SeccompAction::KillProcess, SeccompAction::Allow)?);
        Ok(whole)
    }

    /// Compiles the filter and loads it for every thread of the process.
    pub(crate) fn load(&self) -> Result<(), FilterError> {
        seccompiler::apply_filter_all_threads(&self.compile()?).map_err(FilterError::Load)
    }

    /// Compiles the filter and puts it over what is loaded already, for the calling thread only: with a call of our own, because
    /// the library's makes others beside it.
    pub(crate) fn load_for_this_thread(&self) -> Result<(), FilterError> {
        let loaded = sys::load_filter_for_this_thread(&self.compile()?);
        loaded.map_err(|errno| FilterError::Load(seccompiler::Error::Seccomp(errno.into())))
    }
}

/// The same program, but instead of allowing a call it goes on with what stands behind it.
fn going_on(mut program: BpfProgram) -> BpfProgram {
    /// BPF_RET | BPF_K and BPF_JMP | BPF_JA, of linux/bpf_common.h.
    const RETURN: u16 = 0x06;
    const JUMP: u16 = 0x05;

    for (behind, step) in (0..).zip(program.iter_mut().rev()) {
        if (step.code, step.k) == (RETURN, libc::SECCOMP_RET_ALLOW) {
            (step.code, step.k) = (JUMP, behind);
        }
    }
    program
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
