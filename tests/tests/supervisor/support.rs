//! What these tests share: turns, a guest with a shell, a bare machine with a program.

use std::fs;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tests::guest::Assets;
use tests::payload::{Mode, Payload};
use tests::place::Place;
use tests::supervised::Supervised;

/// A guest boots in 5 s on an idle machine of two cores; the rest is a loaded one.
pub(crate) const BOOT: Duration = Duration::from_secs(120);

/// What a shell in the guest shows when it takes commands.
pub(crate) const PROMPT: &str = "/ # ";

pub(crate) const DISK: usize = 16 << 20;

/// The right to have guests, until the test ends: two of them on one small machine would only wait for each other.
pub(crate) fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn assets() -> Assets {
    Assets::find().expect("the images are there")
}

/// An option and a path, as one word.
pub(crate) fn word(option: &str, path: &Path) -> String {
    format!("--{option}={}", path.display())
}

/// A guest with a shell in memory and the place's disk, emulated: it runs everywhere.
pub(crate) fn shell(place: &Place) -> Supervised {
    shell_on(place, &place.base())
}

/// The same with the disk from this image.
pub(crate) fn shell_on(place: &Place, base: &Path) -> Supervised {
    let assets = assets();
    Supervised::new([
        "run",
        "--accel=qemu",
        "--memory=256M",
        "--cmdline=console=ttyS0 loglevel=3",
    ])
    .and([word("kernel", &assets.kernel), word("initrd", &assets.initramfs)])
    .and([word("disk", base), word("overlay-dir", &place.overlay_dir())])
}

/// A program on a bare machine with the place's disk, on KVM.
pub(crate) fn payload(place: &Place, program: impl FnOnce(Payload) -> Payload) -> Supervised {
    let kernel = place.dir().join("payload");
    let program = program(Payload::new(Mode::Protected).print("hello\n"));
    fs::write(&kernel, program.to_elf()).expect("the place can be written");
    Supervised::new(["run", "--accel=kvm", "--memory=32M"])
        .and([word("kernel", &kernel)])
        .and(disk(place))
}

fn disk(place: &Place) -> [String; 2] {
    [word("disk", &place.base()), word("overlay-dir", &place.overlay_dir())]
}
