//! How a run ends, and what the exit code of `mayfly` says about it.

use crate::contract::MachineExit;
use crate::contract::import::ImportExit;
use crate::signals;
use nix::sys::signal::Signal;
use protocol::launch::ExitCode;
use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

protocol::exit_codes! {
    /// The exit codes. Where a number means something in `blk-helper` or `mayfly-vmm`, it means the same here. A signal's number
    /// plus 128 comes on top of them, as shells have it.
    pub(crate) enum Code {
        /// The guest powered itself off, or the operator quit.
        Done = 0 => "the guest powered itself off, or you quit with C-a x",
        /// Something was missing or refused.
        CannotStart = 1 => "could not start: a file, a program, KVM, memory, a tap",
        /// The command line or the configuration file made no sense.
        Usage = 2 => "wrong usage, or a wrong configuration file",
        /// A process could not be confined.
        NotConfined = 3 => "a process could not be confined",
        /// A forbidden act was possible.
        ForbiddenActPossible = 4 => "--check-confinement: a forbidden act was possible",
        /// A bug.
        Panicked = 9 => "a bug: the supervisor panicked",
        /// The VMM failed.
        RunFailed = 10 => "the VMM (or the process that imports) failed or was killed",
        /// A disk's helper ended.
        DiskLost = 12 => "a disk's helper or backend ended while the guest ran",
        /// The guest's processor gave up.
        GuestCrashed = 13 => "the guest's processor gave up (a triple fault)",
        /// The guest did nothing but reboot.
        RebootLoop = 14 => "the guest rebooted 10 times in a row within a second of starting",
        /// The decision at the end could not be carried out.
        NotKept = 17 => "the run went well, but a disk was not saved or committed as wanted",
        /// An image was not imported, for what it is.
        ImageRefused = 20 => "an image was not imported: what it is, or needs, is not supported, or it is damaged",
    }
}

protocol::exit_codes! {
    /// The exit codes of `mayfly import`. They mean what they mean in [`Code`], said of an import.
    pub(crate) enum ImportCode {
        /// The disk is there, whole.
        Imported = 0 => "imported",
        /// A file could not be used.
        CannotStart = 1 => "a file could not be opened, read or written",
        /// The command line made no sense.
        Usage = 2 => "wrong usage",
        /// The process that reads the image could not be confined.
        NotConfined = 3 => "the process could not be confined",
        /// A bug.
        Panicked = 9 => "a bug",
        /// The process that reads the image failed.
        RunFailed = 10 => "the process that reads the image failed or was killed",
        /// The image was not imported, for what it is.
        ImageRefused = 20 => "the image is refused: it needs what is not supported or not given, or is damaged",
    }
}

/// How a run ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The guest powered itself off.
    PoweredOff,
    /// C-a x.
    Quit,
    /// A signal told us to.
    Told(Signal),
    /// The terminal is gone.
    TerminalGone,
    /// Nobody reads the console any more.
    OutputGone,
    /// A disk's helper ended.
    HelperEnded { disk: String, status: ExitStatus },
    /// The VMM lost a disk that nobody of ours serves, or that still seems to be served.
    DiskGone,
    /// The VMM ended, and not because the guest wanted to.
    MachineEnded { how: String },
    /// The guest's processor gave up.
    GuestCrashed,
    /// The guest did nothing but reboot.
    RebootLoop,
}

impl End {
    /// What `exit` gets.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::PoweredOff | Self::Quit => Code::Done.number(),
            Self::Told(signal) => signals::code(*signal),
            Self::TerminalGone => signals::code(Signal::SIGHUP),
            Self::OutputGone => signals::code(Signal::SIGPIPE),
            Self::HelperEnded { .. } | Self::DiskGone => Code::DiskLost.number(),
            Self::MachineEnded { .. } => Code::RunFailed.number(),
            Self::GuestCrashed => Code::GuestCrashed.number(),
            Self::RebootLoop => Code::RebootLoop.number(),
        }
    }

    /// Whether guest or operator wanted it so.
    pub(crate) const fn is_wanted(&self) -> bool {
        match self {
            Self::PoweredOff | Self::Quit | Self::Told(_) | Self::TerminalGone | Self::OutputGone => true,
            Self::HelperEnded { .. }
            | Self::DiskGone
            | Self::MachineEnded { .. }
            | Self::GuestCrashed
            | Self::RebootLoop => false,
        }
    }

    /// Whether it calls off the decision at the end that is under way. A terminal that is closed does not: it hangs up, its shell
    /// sends a signal and the kernel another one, each in its own time, and nobody may have changed his mind.
    pub(crate) fn calls_off(&self) -> bool {
        match self {
            Self::Told(signal) => *signal != Signal::SIGHUP,
            Self::Quit => true,
            Self::PoweredOff
            | Self::TerminalGone
            | Self::OutputGone
            | Self::HelperEnded { .. }
            | Self::DiskGone
            | Self::MachineEnded { .. }
            | Self::GuestCrashed
            | Self::RebootLoop => false,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PoweredOff => write!(to, "the guest powered itself off"),
            Self::Quit => write!(to, "quit"),
            Self::Told(signal) => write!(to, "ended by {signal}"),
            Self::TerminalGone => write!(to, "the terminal is gone"),
            Self::OutputGone => write!(to, "nobody reads the console (standard output) any more"),
            Self::HelperEnded { disk, status } => write!(
                to,
                "the helper of disk {disk} ended ({}), and with it the guest, whose disk is gone",
                helper_ended(*status)
            ),
            Self::DiskGone => write!(
                to,
                "a disk's backend closed its connection, and the guest cannot go on without"
            ),
            Self::MachineEnded { how } => write!(to, "the VMM ended: {how}"),
            Self::GuestCrashed => write!(
                to,
                "the guest's processor gave up (a triple fault): often a kernel for another machine, or too little memory"
            ),
            Self::RebootLoop => write!(
                to,
                "the guest rebooted 10 times in a row within a second of starting, which leads nowhere; look at what it \
                 printed last, or let it stop at a panic (--append panic=0)"
            ),
        }
    }
}

/// How a helper ended, in words.
pub(crate) fn helper_ended(status: ExitStatus) -> String {
    let code = status.code().and_then(|code| ExitCode::try_from(code).ok());
    described(status, code.map(ExitCode::meaning))
}

/// How QEMU ended, in words: its exit codes mean nothing in particular.
pub(crate) fn qemu_ended(status: ExitStatus) -> String {
    described(status, None)
}

/// How a `mayfly-vmm` ended, in words.
pub(crate) fn machine_ended(status: ExitStatus) -> String {
    let code = status.code().and_then(|code| MachineExit::try_from(code).ok());
    described(status, code.map(MachineExit::meaning))
}

/// How a `mayfly-import` ended, in words.
pub(crate) fn import_ended(status: ExitStatus) -> String {
    let code = status.code().and_then(|code| ImportExit::try_from(code).ok());
    described(status, code.map(ImportExit::meaning))
}

fn described(status: ExitStatus, meaning: Option<&str>) -> String {
    match (status.signal(), status.code(), meaning) {
        (_, Some(code), Some(meaning)) => format!("exit code {code}: {meaning}"),
        (_, Some(code), None) => format!("exit code {code}"),
        (Some(signal), None, _) => match Signal::try_from(signal) {
            Ok(Signal::SIGSYS) => "killed by SIGSYS: it made a system call that its filter forbids".to_owned(),
            Ok(signal) => format!("killed by {signal}"),
            Err(_) => format!("killed by signal {signal}"),
        },
        (None, None, _) => "nobody knows how".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exited(code: i32) -> ExitStatus {
        ExitStatus::from_raw(code << 8)
    }

    #[test]
    fn every_end_has_its_code() {
        let status = exited(10);
        for (end, code) in [
            (End::PoweredOff, 0),
            (End::Quit, 0),
            (End::Told(Signal::SIGINT), 130),
            (End::Told(Signal::SIGTERM), 143),
            (End::TerminalGone, 129),
            (End::OutputGone, 141),
            (
                End::MachineEnded {
                    how: qemu_ended(status),
                },
                10,
            ),
            (
                End::HelperEnded {
                    disk: "vda".into(),
                    status,
                },
                12,
            ),
            (End::DiskGone, 12),
            (End::GuestCrashed, 13),
            (End::RebootLoop, 14),
        ] {
            assert_eq!(end.code(), code, "{end}");
        }
    }

    #[test]
    fn codes_that_others_use_too_mean_the_same() {
        for (ours, helper, machine) in [
            (Code::CannotStart, ExitCode::CannotStart, MachineExit::CannotStart),
            (Code::Usage, ExitCode::Usage, MachineExit::Usage),
            (Code::NotConfined, ExitCode::NotConfined, MachineExit::NotConfined),
            (
                Code::ForbiddenActPossible,
                ExitCode::ForbiddenActPossible,
                MachineExit::ForbiddenActPossible,
            ),
            (Code::Panicked, ExitCode::Panicked, MachineExit::Panicked),
        ] {
            assert_eq!((ours.number(), ours.number()), (helper.number(), machine.number()));
        }
        assert_eq!(Code::RunFailed.number(), MachineExit::RunFailed.number());
        assert_eq!(Code::DiskLost.number(), MachineExit::DiskGone.number());
        for (run, import) in [
            (Code::Done, ImportCode::Imported),
            (Code::CannotStart, ImportCode::CannotStart),
            (Code::Usage, ImportCode::Usage),
            (Code::NotConfined, ImportCode::NotConfined),
            (Code::Panicked, ImportCode::Panicked),
            (Code::RunFailed, ImportCode::RunFailed),
            (Code::ImageRefused, ImportCode::ImageRefused),
        ] {
            assert_eq!(run.number(), import.number());
        }
        assert_eq!(ImportCode::NotConfined.number(), ImportExit::NotConfined.number());
        assert_eq!(Code::GuestCrashed.number(), MachineExit::GuestCrashed.number());
    }

    #[test]
    fn an_end_says_what_the_code_of_the_process_means() {
        let killed = ExitStatus::from_raw(9);
        assert_eq!(helper_ended(killed), "killed by SIGKILL");
        assert!(helper_ended(exited(6)).contains("a queue could not be stopped in time"));
        assert!(machine_ended(exited(9)).contains("a bug"));
        assert!(machine_ended(exited(77)).contains("exit code 77"));
        assert!(machine_ended(ExitStatus::from_raw(31)).contains("filter"));
    }
}
