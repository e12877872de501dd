//! What a test needs of its machine, and what happens where that is missing: it says so, loudly, and is counted.
//!
//! A skipped test passes, because the harness of Rust has no third outcome; so each skip goes to standard error
//! past the harness's capture and, where `MAYFLY_SKIPS` names a file, is appended there for the caller to count.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::process::{Command, Stdio};

/// What a test says that only root can run.
const NEEDS_ROOT: &str = "needs root";

/// What a test says that is the same for everybody.
const ONCE: &str = "is not run twice";

/// What a test says that needs a machine with KVM, in hardware or software, and may not use it.
const NEEDS_KVM: &str = "needs to be let to /dev/kvm";

/// Why a test cannot run here.
pub type Missing = String;

/// Ends the test here, as skipped, unless the requirement (a function of this module) is met.
#[macro_export]
macro_rules! require {
    ($requirement:ident) => {
        if let Err(missing) = $crate::require::$requirement() {
            $crate::require::skip(&missing);
            return;
        }
    };
}

/// Root, for mounts and for looking into other processes.
///
/// # Errors
///
/// What is missing.
pub fn root() -> Result<(), Missing> {
    if nix::unistd::geteuid().is_root() {
        Ok(())
    } else {
        Err(NEEDS_ROOT.to_owned())
    }
}

/// To be the first: for what is the same whoever starts it, and takes minutes. Of a run of all tests as root and as an
/// ordinary user, only root's does it.
///
/// # Errors
///
/// That it was done.
pub fn first_time() -> Result<(), Missing> {
    if also_as_root() { Err(ONCE.to_owned()) } else { Ok(()) }
}

fn also_as_root() -> bool {
    std::env::var_os("MAYFLY_ALSO_AS_ROOT").is_some()
}

/// KVM, in hardware or software: enough for a [payload](crate::payload).
///
/// # Errors
///
/// What is missing.
pub fn kvm() -> Result<(), Missing> {
    let opened = OpenOptions::new().read(true).write(true).open("/dev/kvm");
    opened.map(drop).map_err(|error| {
        if error.kind() == ErrorKind::PermissionDenied {
            NEEDS_KVM.to_owned()
        } else {
            format!("needs /dev/kvm: {error}")
        }
    })
}

/// A private mount namespace in which a tmpfs can be mounted: as root, or through a user namespace.
///
/// # Errors
///
/// What is missing.
pub fn private_mounts() -> Result<(), Missing> {
    let tried = private_mount_command()
        .args(["mount", "-t", "tmpfs", "none", "/mnt"])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("needs unshare: {error}"))?;
    if tried.status.success() {
        return Ok(());
    }
    Err(format!(
        "needs a mount namespace of its own: {}",
        String::from_utf8_lossy(&tried.stderr).trim()
    ))
}

/// `unshare`, ready to take a command that may mount and is still the same user.
#[must_use]
pub fn private_mount_command() -> Command {
    let mut command = Command::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        command.args(["--user", "--map-current-user", "--keep-caps"]);
    }
    command.args(["--mount", "--"]);
    command
}

/// Records that the running test did not take place.
///
/// # Panics
///
/// If `MAYFLY_SKIPS` names a file that cannot be written: a skip that nobody counts is a lie.
pub fn skip(missing: &str) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("a test");
    // The same test ran as root a moment ago, in the same run: nothing is missing.
    let left_to_root = [NEEDS_ROOT, NEEDS_KVM, ONCE].contains(&missing) && also_as_root();
    let how = if left_to_root { "LEFT TO ROOT" } else { "SKIPPED" };
    let line = format!("{how} {name}: {missing}\n");
    // Straight to the descriptor: the harness captures only what the print macros write.
    let _ = std::io::stderr().write_all(line.as_bytes());
    if left_to_root {
        return;
    }
    if let Some(path) = std::env::var_os("MAYFLY_SKIPS") {
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .expect("MAYFLY_SKIPS names a file that can be written");
        file.write_all(line.as_bytes())
            .expect("MAYFLY_SKIPS can be appended to");
    }
}
