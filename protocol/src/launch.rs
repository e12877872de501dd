//! The start-up contract between a helper and whoever launches it: exit codes and what they mean.

/// Makes an enum of exit codes from one line for each: its name, its number, and what it means, for an operator. They can be
/// listed (`ALL`), told (`number`, `meaning`) and recognised (`TryFrom<i32>`, which gives an unknown number back).
#[macro_export]
macro_rules! exit_codes {
    ($(#[$about:meta])* $visible:vis enum $name:ident {
        $($(#[$doc:meta])* $code:ident = $number:literal => $meaning:literal,)*
    }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        $visible enum $name {
            $($(#[$doc])* $code = $number,)*
        }

        impl $name {
            /// Every code, for help and documentation.
            $visible const ALL: &[Self] = &[$(Self::$code),*];

            /// The number that `exit` gets.
            #[must_use]
            $visible const fn number(self) -> u8 {
                match self {
                    $(Self::$code => $number,)*
                }
            }

            /// One line for an operator.
            #[must_use]
            $visible const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$code => $meaning,)*
                }
            }
        }

        impl TryFrom<i32> for $name {
            type Error = i32;

            fn try_from(number: i32) -> Result<Self, i32> {
                match number {
                    $($number => Ok(Self::$code),)*
                    unknown => Err(unknown),
                }
            }
        }
    };
}

exit_codes! {
    /// How a `blk-helper` ended. The number is the process's exit code.
    ///
    /// In every case the overlay is gone: its last descriptor is closed by the kernel, whatever the reason.
    pub enum ExitCode {
        /// Asked to end (SIGTERM, SIGINT, SIGHUP), or the only frontend left (`--fd`, `--exit-on-disconnect`), or the operator
        /// did (`--control-fd`).
        Burnt = 0 => "ended as asked: by a signal, or because the frontend or the operator left",
        /// It could not start: base, overlay, socket.
        CannotStart = 1 => "could not start: base, overlay or socket",
        /// The command line made no sense.
        Usage = 2 => "wrong usage",
        /// A required layer of confinement could not be put in place or did not read back.
        NotConfined = 3 => "a required layer of confinement failed",
        /// A forbidden act was possible (`--check-confinement` only).
        ForbiddenActPossible = 4 => "--check-confinement: a forbidden act was possible",
        /// A ring with history met a fresh overlay: serving it would silently roll back a living guest's disk.
        HistoryRefused = 5 => "a ring with history met a fresh overlay",
        /// A queue could not be stopped in time; a live process with a dead queue must not exist.
        DrainTimedOut = 6 => "a queue could not be stopped in time",
        /// Guest memory vanished under a mapping (SIGBUS): its file was truncated.
        GuestMemoryGone = 7 => "guest memory was truncated while mapped",
        /// The parent was gone (`--die-with-parent`, `--fd` or `--control-fd`) before the kernel could be asked for SIGKILL then.
        ParentGone = 8 => "the parent process died during the start; later that is SIGKILL",
        /// A bug: the process panicked.
        Panicked = 9 => "a bug: the process panicked",
        /// The event loop itself failed.
        ServeFailed = 10 => "the event loop failed",
        /// A frontend made the control thread wait, and it would have taken no more messages.
        Stalled = 11 => "a frontend made the helper wait for too long",
    }
}

#[cfg(test)]
mod tests {
    use super::ExitCode;

    #[test]
    fn the_documentation_has_every_exit_code_of_a_helper() {
        let documentation = include_str!("../../docs/sandbox.md");
        let (_, rest) = documentation.split_once("\n## Ends\n").unwrap();
        let (table, _) = rest.split_once("\n## ").unwrap();

        for exit in ExitCode::ALL {
            assert!(table.contains(&format!(" | {} |\n", exit.number())), "{exit:?}");
        }
    }
}
