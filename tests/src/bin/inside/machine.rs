//! How guests are started in here: by `mayfly run`, or, to compare, by QEMU with the same KVM.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tests::guest::{Assets, Guest, GuestError};
use tests::place::Place;

use crate::processes::{self, Process};

/// How long a guest may take to boot. It takes 10 s, Debian 40 s, and a new try is better than more patience.
pub(crate) const BOOT: Duration = Duration::from_secs(120);

/// How long anything else in a guest may take.
pub(crate) const ACT: Duration = Duration::from_secs(60);

/// For a kernel that says nothing unless something is wrong.
pub(crate) const QUIET: &str = "console=ttyS0 loglevel=3 panic=-1";

/// `mayfly run` with the tests' kernel, which finds out by itself that there is a KVM; it dies with the thread that
/// starts it.
pub(crate) fn mayfly(disk: &Path, overlays: &Path, more: &[&str]) -> Result<Command, GuestError> {
    let assets = Assets::find()?;
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program("mayfly"));
    command.arg("run");
    command.arg("--disk").arg(disk).arg("--overlay-dir").arg(overlays);
    command.arg("--kernel").arg(assets.kernel);
    command.arg("--initrd").arg(assets.initramfs);
    command.args(more);
    Ok(command)
}

/// The same on a test's place, with a busybox system.
pub(crate) fn busybox(place: &Place, more: &[&str]) -> Result<Command, GuestError> {
    let mut command = mayfly(&place.base(), &place.overlay_dir(), &["--cmdline", QUIET])?;
    command.args(more);
    Ok(command)
}

/// A program that was built beside this one.
fn program(name: &str) -> PathBuf {
    let this = std::env::current_exe().expect("/proc is mounted");
    this.with_file_name(name)
}

/// The processes of a running `mayfly run`.
#[derive(Debug)]
pub(crate) struct Family {
    pub(crate) supervisor: Process,
    pub(crate) vmm: Process,
    pub(crate) helper: Process,
}

impl Family {
    /// Looks for them.
    pub(crate) fn of(guest: &Guest) -> Self {
        let supervisor = Process::at(guest.pid());
        let children = processes::children_of(guest.pid());
        let only = |name: &str| {
            let named: Vec<_> = children.iter().filter(|child| child.name == name).collect();
            match named[..] {
                [process] => process.clone(),
                _ => panic!("expected one {name} among {children:?}"),
            }
        };
        assert_eq!(supervisor.name, "mayfly");
        let (vmm, helper) = (only("mayfly-vmm"), only("blk-helper"));
        Self {
            supervisor,
            vmm,
            helper,
        }
    }
}

/// Runs a command that must succeed; returns what it wrote.
pub(crate) fn ok(guest: &mut Guest, command: &str) -> Result<String, GuestError> {
    let output = guest.sh(command, ACT)?;
    assert_eq!(output.status, 0, "{command}: {output:?}\n{:?}", guest.transcript());
    Ok(output.text.trim_end().to_owned())
}

/// The SHA-256 of a file in the guest, read from the disk and not from memory.
pub(crate) fn guest_digest(guest: &mut Guest, path: &str) -> Result<String, GuestError> {
    ok(
        guest,
        &format!("sync; echo 3 >/proc/sys/vm/drop_caches; sha256sum <{path}"),
    )
}

/// The SHA-256 of a file of ours, in the same form.
pub(crate) fn host_digest(path: &Path) -> String {
    let output = Command::new("sha256sum")
        .stdin(std::fs::File::open(path).expect("the base can be read"))
        .output()
        .expect("coreutils are part of every Debian");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}
