//! `mayfly --check-confinement`: lets a process of each kind check itself, and sums up.

use super::end::{Code, helper_ended, import_ended, machine_ended};
use super::plan::Programs;
use log::{error, info};
use std::process::{Command, ExitStatus, Stdio};

/// The end of a process of one kind, in words.
type Described = fn(ExitStatus) -> String;

/// Runs each program's own check, one after the other, on our standard output.
pub(crate) fn run(programs: &Programs) -> Code {
    let kinds: [(_, Described); 3] = [
        (&programs.helper, helper_ended),
        (&programs.vmm, machine_ended),
        (&programs.import, import_ended),
    ];
    let mut worst = Code::Done;
    for (program, described) in kinds {
        let outcome = Command::new(program)
            .arg("--check-confinement")
            .stdin(Stdio::null())
            .status();
        let code = match outcome {
            Ok(status) if status.success() => {
                info!(
                    "{}: confined, and none of the forbidden acts was possible",
                    program.display()
                );
                Code::Done
            }
            Ok(status) => {
                error!("{}: {}", program.display(), described(status));
                if status.code() == Some(i32::from(Code::ForbiddenActPossible.number())) {
                    Code::ForbiddenActPossible
                } else {
                    Code::NotConfined
                }
            }
            Err(source) => {
                error!("cannot start {}: {source}", program.display());
                Code::CannotStart
            }
        };
        if worst == Code::Done || code == Code::ForbiddenActPossible {
            worst = code;
        }
    }
    worst
}
