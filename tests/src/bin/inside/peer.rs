//! QEMU on the same KVM: if its guest does not boot, the nested host is at fault and not what is tested on it.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use tests::guest::{Assets, Guest, GuestError, System};

use crate::machine::{BOOT, QUIET, ok};

/// The smallest machine that QEMU has, with the tests' kernel; it dies with the thread that starts it. What is written to
/// the disk is thrown away.
pub(crate) fn microvm(disk: Option<&Path>) -> Result<Command, GuestError> {
    let assets = Assets::find()?;
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
    command.args(["-M", "microvm", "-accel", "kvm", "-cpu", "host", "-m", "256M"]);
    command.args(["-nodefaults", "-no-user-config", "-display", "none"]);
    command.args(["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]);
    command.arg("-kernel").arg(assets.kernel);
    command.arg("-initrd").arg(assets.initramfs);
    command.args(["-append", QUIET]);
    if let Some(disk) = disk {
        let drive = format!("id=disk,if=none,format=raw,snapshot=on,file={}", disk.display());
        command.arg("-drive").arg(drive);
        command.args(["-device", "virtio-blk-device,drive=disk"]);
    }
    Ok(command)
}

/// KVM works in here.
pub(crate) fn boots() -> Result<String, GuestError> {
    let begun = Instant::now();
    let mut guest = Guest::of(microvm(None)?, System::Busybox, None)?;
    guest.wait_for_shell(BOOT)?;
    let took = begun.elapsed();
    // A paravirtual clock is KVM's.
    let clocks = ok(
        &mut guest,
        "cat /sys/devices/system/clocksource/clocksource0/available_clocksource",
    )?;
    assert!(clocks.contains("kvm-clock"), "{clocks}");
    guest.kill()?;
    Ok(format!("a shell in QEMU's guest after {took:.1?}"))
}
