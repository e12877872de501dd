//! A BPF machine of forty lines: what the kernel would do with a call under a filter.

use crate::seccomp::Filter;
use seccompiler::BpfProgram;

/// What the filter does with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::seccomp) enum Verdict {
    Killed,
    Failed(u32),
    Allowed,
}

pub(in crate::seccomp) const X86_64: u32 = 0xc000_003e;

/// Runs a program on what the kernel would give it.
fn run(program: &BpfProgram, data: [u32; 16]) -> u32 {
    let mut accumulator = 0;
    let mut at = 0;
    loop {
        let step = &program[at];
        let taken = match step.code {
            0x20 => {
                accumulator = data[usize::try_from(step.k / 4).unwrap()];
                0
            }
            0x54 => {
                accumulator &= step.k;
                0
            }
            0x05 => usize::try_from(step.k).unwrap(),
            0x15 => usize::from(if accumulator == step.k { step.jt } else { step.jf }),
            0x06 => return step.k,
            other => panic!("no such instruction here: {other:#x}"),
        };
        at += 1 + taken;
    }
}

/// What a filter does with a call.
pub(in crate::seccomp) fn verdict_on(filter: &Filter, architecture: u32, call: i64, arguments: [u64; 6]) -> Verdict {
    verdict_of(&filter.compile().unwrap(), architecture, call, arguments)
}

/// What its program says of a call.
pub(in crate::seccomp) fn verdict_of(
    program: &BpfProgram,
    architecture: u32,
    call: i64,
    arguments: [u64; 6],
) -> Verdict {
    let mut data = [0; 16];
    data[0] = u32::try_from(call).unwrap();
    data[1] = architecture;
    for (pair, argument) in data[4..].chunks_mut(2).zip(arguments) {
        pair[0] = u32::try_from(argument & 0xffff_ffff).unwrap();
        pair[1] = u32::try_from(argument >> 32).unwrap();
    }
    let answer = run(program, data);
    match answer & 0xffff_0000 {
        0x8000_0000 => Verdict::Killed,
        0x0005_0000 => Verdict::Failed(answer & 0xffff),
        0x7fff_0000 => Verdict::Allowed,
        other => panic!("no such answer here: {other:#x}"),
    }
}
