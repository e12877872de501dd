//! What the environment says, read once: the process clears it right afterwards.

use std::env;
use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::PathBuf;

/// The variables this program knows.
#[derive(Debug)]
pub(crate) struct Environment {
    /// Where temporary files go (`TMPDIR`).
    pub(crate) temporary: Option<PathBuf>,
    /// How many descriptors a service manager passed to this process (`LISTEN_FDS`, `LISTEN_PID`).
    pub(crate) passed: u32,
    /// Where a service manager wants to hear READY (`NOTIFY_SOCKET`).
    pub(crate) notify: Option<OsString>,
}

/// The first descriptor that a service manager passes (sd_listen_fds(3)).
pub(crate) const FIRST_PASSED: RawFd = 3;

impl Environment {
    /// Reads it.
    pub(crate) fn read() -> Self {
        let number = |name| env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
        let for_us = number("LISTEN_PID") == Some(std::process::id());
        Self {
            temporary: env::var_os("TMPDIR").filter(|dir| !dir.is_empty()).map(PathBuf::from),
            passed: number("LISTEN_FDS").filter(|_| for_us).unwrap_or(0),
            notify: env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()),
        }
    }
}
