//! Kernels that are spoilt: cut short, or with other numbers in their headers.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::ops::Range;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use tests::guest::Assets;
use tests::payload::{Mode, Payload};
use tests::require;
use tests::rng::Rng;
use tests::vmm::{VmmBuilder, code};

use crate::inputs::{assert_refused, file};
use crate::tell;

/// How many kernels are spoilt, of each kind.
const SPOILT: u64 = 40;

/// As a guest that does who knows what may end.
const ENDS: [i32; 6] = [
    code::POWERED_OFF,
    code::CANNOT_START,
    code::RUN_FAILED,
    code::CRASHED,
    code::TOLD,
    code::REBOOT,
];

/// Starts `kernel`, and ends what comes to life.
fn boots_or_not(kernel: File, round: u64) -> i32 {
    let mut vmm = VmmBuilder::new(kernel).start();
    if vmm.is_ready() {
        thread::sleep(Duration::from_millis(20));
        vmm.signal(Signal::SIGTERM);
    }
    let ended = vmm.wait();
    assert!(ended.stderr.lines().count() <= 1, "round {round}: {ended:?}");
    let code = ended
        .code
        .unwrap_or_else(|| panic!("round {round}: signal {:?}: {}", ended.signal, ended.stderr));
    assert!(ENDS.contains(&code), "round {round}: {ended:?}");
    code
}

/// Numbers at which things go wrong, or any, over a few places in the first `header` bytes; or only a piece of it.
fn spoil(kernel: &[u8], header: usize, rng: &mut Rng) -> Vec<u8> {
    if rng.chance(25) {
        return kernel[..rng.index(kernel.len())].to_vec();
    }
    let mut spoilt = kernel.to_vec();
    for _ in 0..rng.between(1, 3) {
        let width = 1 << rng.below(4);
        let at = rng.index(header / width) * width;
        let value = match rng.below(4) {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << rng.below(64),
            _ => rng.next(),
        };
        spoilt[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
    }
    spoilt
}

fn none_is_too_bad(kernel: &[u8], header: Range<usize>) {
    let mut codes = BTreeMap::new();
    for round in 0..SPOILT {
        let mut rng = Rng::new(round);
        let mut spoilt = kernel[..header.start].to_vec();
        spoilt.extend(spoil(&kernel[header.start..], header.len(), &mut rng));
        *codes.entry(boots_or_not(file(&spoilt), round)).or_insert(0) += 1;
    }
    tell(&format!("spoilt kernels end by code: {codes:?}"));
}

#[test]
fn a_spoilt_elf_kernel_is_refused_or_runs_and_can_be_ended() {
    require!(kvm);
    none_is_too_bad(&Payload::new(Mode::Protected).power_off().to_elf(), 0..196);
}

#[test]
fn a_spoilt_linux_kernel_is_refused_or_runs_and_can_be_ended() {
    require!(kvm);
    let assets = Assets::find().expect("the images are there");
    none_is_too_bad(&fs::read(assets.kernel).unwrap(), 0x1f0..0x270);
}

#[test]
fn noise_is_no_kernel() {
    require!(kvm);
    for round in 0..5 {
        let noise = Rng::new(round).bytes(1 << round);
        let ended = VmmBuilder::new(file(&noise)).start().wait();
        assert_refused(&ended, code::CANNOT_START, "kernel");
    }
}
