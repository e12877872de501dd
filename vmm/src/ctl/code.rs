//! The exit codes of `mayfly ctl`. Where a number means something elsewhere in Mayfly, it means the same here.

protocol::exit_codes! {
    /// How a `mayfly ctl` ended.
    pub(crate) enum Code {
        /// Done.
        Done = 0 => "done",
        /// Something failed on the way.
        Failed = 1 => "failed: a file cannot be written, or the helper could not finish a save; nothing is left of it, \
                       or the message says what",
        /// The command line made no sense.
        Usage = 2 => "wrong usage",
        /// A bug.
        Panicked = 9 => "a bug: the program panicked",
        /// Nobody answers.
        Unreachable = 21 => "no helper can be reached at the socket, or it ended or stopped answering",
        /// Not done.
        Refused = 22 => "refused, by the helper, or because of the files or of who serves the socket: nothing has changed",
    }
}
