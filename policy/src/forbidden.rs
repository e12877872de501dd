//! Acts that a confined process must not be able to perform, for a program that checks its own confinement.
//!
//! A filter kills whoever asks the wrong question, so fill in [`Targets`] before the process is sealed (`getppid` is not allowed
//! after), and attempt [`CONTROL`] once: it must be possible, or the check proves nothing.
//!
//! Each is performed in a process of its own that went through the same steps as a real one and is thrown away: an act changes
//! that process, and the filter kills it. Every act does no harm where it is possible: it asks with arguments that change
//! nothing, or that the kernel refuses only *after* having asked whether the caller may.
//!
//! What the process that performs an act must tell its parent, in an exit code of its choice: that the act was refused.
//! **Exit code 0 must mean that it was possible**, because an execve that succeeds never comes back to say so. A death by SIGSYS
//! is the filter's refusal.

pub mod check;
mod disk;
mod files;
mod kernel;
pub mod machine;
mod memory;
mod network;
mod privileges;
mod processes;

use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::LazyLock;

use crate::sys::{Argument, attempt};

/// What the acts are aimed at.
#[derive(Clone, Copy, Debug)]
pub struct Targets {
    /// A disk's base, which the process may only read.
    pub base: Option<RawFd>,
    /// A disk's overlay, which it may read, write and punch.
    pub overlay: Option<RawFd>,
    /// The number under which a save writes.
    pub output: Option<RawFd>,
    /// A connection to a disk's backend.
    pub backend: Option<RawFd>,
    /// The pipe with what is typed at a console.
    pub console: Option<RawFd>,
    /// Where the kernel's file was open.
    pub kernel: Option<RawFd>,
    /// A virtual machine.
    pub vm: Option<RawFd>,
    /// One of its processors.
    pub vcpu: Option<RawFd>,
    /// A tap.
    pub tap: Option<RawFd>,
    /// The process that started this one, asked for before the filter.
    pub parent: Pid,
}

impl Targets {
    /// Nothing but the parent.
    #[must_use]
    pub const fn new(parent: Pid) -> Self {
        Self {
            base: None,
            overlay: None,
            output: None,
            backend: None,
            console: None,
            kernel: None,
            vm: None,
            vcpu: None,
            tap: None,
            parent,
        }
    }

    /// Any descriptor, one worth having if there is one.
    fn any(&self) -> RawFd {
        let worth = [self.overlay, self.backend, self.vm];
        self.base.or(worth.into_iter().flatten().next()).unwrap_or(0)
    }
}

/// One of the targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aim {
    /// None of the descriptors.
    Nothing,
    /// The disk's base.
    Base,
    /// The disk's overlay.
    Overlay,
    /// The number of a save's output.
    Output,
    /// The connection to a backend.
    Backend,
    /// The console's input.
    Console,
    /// The kernel's file.
    Kernel,
    /// The virtual machine.
    Vm,
    /// The processor.
    Vcpu,
    /// The tap.
    Tap,
}

impl Aim {
    /// The descriptor, or -1: an act without a target is not performed.
    fn number(self, targets: &Targets) -> RawFd {
        let target = match self {
            Self::Nothing => None,
            Self::Base => targets.base,
            Self::Overlay => targets.overlay,
            Self::Output => targets.output,
            Self::Backend => targets.backend,
            Self::Console => targets.console,
            Self::Kernel => targets.kernel,
            Self::Vm => targets.vm,
            Self::Vcpu => targets.vcpu,
            Self::Tap => targets.tap,
        };
        target.unwrap_or(-1)
    }

    /// The same as an argument.
    fn of(self, targets: &Targets) -> Argument<'static> {
        number(self.number(targets))
    }
}

/// What came of an act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    Possible,
    /// The kernel looked at the arguments, and only they were in the way: the call itself is open to this process.
    Reached(Errno),
    /// It was refused: EACCES, EPERM, or ENOSYS where the kernel does not have it.
    Refused(Errno),
    /// The process has nothing to aim this act at.
    NoTarget,
}

impl Outcome {
    /// Whether the process was kept from doing it.
    #[must_use]
    pub const fn is_refused(self) -> bool {
        match self {
            Self::Refused(_) | Self::NoTarget => true,
            Self::Possible | Self::Reached(_) => false,
        }
    }
}

/// One forbidden act.
#[derive(Clone, Copy, Debug)]
pub struct Act {
    /// A word for command lines and reports.
    pub name: &'static str,
    /// What it would be, for an operator.
    pub what: &'static str,
    /// Performs it.
    run: fn(&Targets) -> Result<(), Errno>,
    /// What it needs.
    aim: Aim,
}

impl Act {
    /// An act that any process can try.
    const fn new(name: &'static str, what: &'static str, run: fn(&Targets) -> Result<(), Errno>) -> Self {
        Self::on(Aim::Nothing, name, what, run)
    }

    /// An act on one of the descriptors.
    const fn on(aim: Aim, name: &'static str, what: &'static str, run: fn(&Targets) -> Result<(), Errno>) -> Self {
        Self { name, what, run, aim }
    }

    /// Performs the act. Only in a process that is thrown away afterwards.
    #[must_use]
    pub fn attempt(&self, targets: &Targets) -> Outcome {
        if self.aim != Aim::Nothing && self.aim.number(targets) < 0 {
            return Outcome::NoTarget;
        }
        match (self.run)(targets) {
            Ok(()) => Outcome::Possible,
            Err(errno @ (Errno::EACCES | Errno::EPERM | Errno::ENOSYS)) => Outcome::Refused(errno),
            Err(errno) => Outcome::Reached(errno),
        }
    }
}

/// What a confined process must be able to do: read its base, or say something. A check that attempts this first, and finds it
/// possible, knows that its processes get as far as the acts and do not die of something else.
pub const CONTROL: Act = Act::new("control", "do its work (must be possible)", |targets| {
    if targets.base.is_some() {
        // Into no buffers: the kernel looks whether it may be read, and is done.
        call(
            libc::SYS_preadv2,
            [Aim::Base.of(targets), NULL, number(0), NULL, NULL, NULL],
        )
    } else {
        call(libc::SYS_write, [number(2), Argument::Bytes(&[]), NULL])
    }
});

/// A file that can only be read, for a process that attempts and does not serve: it stands for a base, an image or a kernel. Not
/// the program's own file, which its user may not be able to read.
///
/// # Errors
///
/// There are no descriptors left, or `/proc` does not show this process.
pub fn stand_in() -> io::Result<File> {
    let mut written = File::from(memfd_create("stand-in", MFdFlags::MFD_CLOEXEC)?);
    written.write_all(&[1; 4096])?;
    File::open(format!("/proc/self/fd/{}", written.as_raw_fd()))
}

/// Every act that no process of ours may perform.
#[must_use]
pub fn all() -> &'static [Act] {
    static ALL: LazyLock<Vec<Act>> = LazyLock::new(|| {
        [
            files::ACTS,
            disk::ACTS,
            network::ACTS,
            processes::ACTS,
            memory::ACTS,
            privileges::ACTS,
            kernel::ACTS,
        ]
        .concat()
    });
    &ALL
}

/// An argument that is nothing.
const NULL: Argument<'static> = Argument::Number(0);

/// A number as an argument.
fn number(number: impl Into<i64>) -> Argument<'static> {
    Argument::Number(number.into())
}

/// A string as an argument.
const fn text(text: &std::ffi::CStr) -> Argument<'_> {
    Argument::Bytes(text.to_bytes_with_nul())
}

/// A call whose result does not matter.
fn call<const N: usize>(number: libc::c_long, arguments: [Argument<'_>; N]) -> Result<(), Errno> {
    attempt(number, arguments).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::os::fd::AsRawFd;

    #[test]
    fn names_are_unique() {
        let names: BTreeSet<&str> = all().iter().map(|act| act.name).collect();

        assert_eq!(names.len(), all().len());
    }

    /// A check that cannot fail is worth nothing: here nothing is confined. Only acts that leave this process as it was; the
    /// whole-process tests attempt the others.
    #[test]
    fn acts_are_possible_for_an_unconfined_process() {
        let file = std::fs::File::open("/etc/passwd").unwrap();
        let targets = Targets {
            base: Some(file.as_raw_fd()),
            ..Targets::new(nix::unistd::getppid())
        };
        for name in [
            "open",
            "stat",
            "memfd",
            "socket-unix",
            "socketpair",
            "map-code",
            "thread",
        ] {
            let act = all().iter().find(|act| act.name == name).unwrap();

            assert_eq!(act.attempt(&targets), Outcome::Possible, "{name}");
        }
        assert_eq!(CONTROL.attempt(&targets), Outcome::Possible);
    }

    #[test]
    fn without_an_overlay_there_is_nothing_to_do_to_it() {
        let act = all().iter().find(|act| act.name == "dup-overlay").unwrap();

        assert_eq!(act.attempt(&Targets::new(nix::unistd::getppid())), Outcome::NoTarget);
    }
}
