//! The start-up contract between a helper and whoever launches it: exit codes and what they mean.

/// How a `blk-helper` ended. The number is the process's exit code.
///
/// In every case the overlay is gone: its last descriptor is closed by the kernel, whatever the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// Asked to end (SIGTERM, SIGINT, SIGHUP), or the only frontend left (`--fd`, `--exit-on-disconnect`), or the operator
    /// did (`--control-fd`).
    Burnt = 0,
    /// It could not start: base, overlay, socket.
    CannotStart = 1,
    /// The command line made no sense.
    Usage = 2,
    /// A required layer of confinement could not be put in place or did not read back.
    NotConfined = 3,
    /// A forbidden act was possible (`--check-confinement` only).
    ForbiddenActPossible = 4,
    /// A ring with history met a fresh overlay: serving it would silently roll back a living guest's disk.
    HistoryRefused = 5,
    /// A queue could not be stopped in time; a live process with a dead queue must not exist.
    DrainTimedOut = 6,
    /// Guest memory vanished under a mapping (SIGBUS): its file was truncated.
    GuestMemoryGone = 7,
    /// The parent died (`--die-with-parent`, `--fd` or `--control-fd`).
    ParentGone = 8,
    /// A bug: the process panicked.
    Panicked = 9,
    /// The event loop itself failed.
    ServeFailed = 10,
    /// A frontend made the control thread wait, and it would have taken no more messages.
    Stalled = 11,
}

impl ExitCode {
    /// Every code, for `--help` and the manual.
    pub const ALL: [Self; 12] = [
        Self::Burnt,
        Self::CannotStart,
        Self::Usage,
        Self::NotConfined,
        Self::ForbiddenActPossible,
        Self::HistoryRefused,
        Self::DrainTimedOut,
        Self::GuestMemoryGone,
        Self::ParentGone,
        Self::Panicked,
        Self::ServeFailed,
        Self::Stalled,
    ];

    /// The number that `exit` gets.
    #[must_use]
    #[expect(clippy::as_conversions, reason = "the discriminants are declared as bytes, above")]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// One line for an operator.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Burnt => "ended as asked: by a signal, or because the frontend or the operator left",
            Self::CannotStart => "could not start: base, overlay or socket",
            Self::Usage => "wrong usage",
            Self::NotConfined => "a required layer of confinement failed",
            Self::ForbiddenActPossible => "--check-confinement: a forbidden act was possible",
            Self::HistoryRefused => "a ring with history met a fresh overlay",
            Self::DrainTimedOut => "a queue could not be stopped in time",
            Self::GuestMemoryGone => "guest memory was truncated while mapped",
            Self::ParentGone => "the parent process died",
            Self::Panicked => "a bug: the process panicked",
            Self::ServeFailed => "the event loop failed",
            Self::Stalled => "a frontend made the helper wait for too long",
        }
    }
}
