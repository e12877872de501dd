//! `mayfly`: the one command that people type. All of it is in [`vmm::supervisor`].

use std::process::ExitCode;

fn main() -> ExitCode {
    vmm::supervisor::main().into()
}
