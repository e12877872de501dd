//! Hidden from other processes of the same user: not dumpable, and since when.
//!
//! A process that is not dumpable cannot be traced by others of its user, nor can its memory and descriptors be taken. But
//! execve makes a process dumpable, unless who calls it cannot read the program's file: between that and the first line of
//! `prepare` somebody can attach, or open `/proc/PID/mem`, and keeps what he has. So it matters whether the file was readable,
//! and the report says it. `make install` makes files that are not.

use nix::sys::prctl;
use std::fs;

use crate::error::StepError;
use crate::identity::Authority;
use crate::report::Layer;
use crate::sys;

/// The layer of a process that nobody of its user could reach before it was prepared.
const FROM_THE_START: &str = "hidden from start";

/// What `PR_GET_DUMPABLE` says of a process that others of its user may inspect.
const DUMPABLE: i32 = 1;

/// Hides this process from others of the same user: no ptrace, no `/proc/PID/fd`, no `pidfd_getfd`, no core file.
///
/// # Errors
///
/// The kernel refuses, which none does.
pub fn hide() -> Result<(), StepError> {
    prctl::set_dumpable(false).map_err(StepError::system("make the process undumpable"))
}

/// Hides this process, and says whether it was so from its first instruction on.
///
/// # Errors
///
/// It was, and somebody traces it all the same: he was there before the program was.
pub(crate) fn from_the_start(authority: Authority) -> Result<Layer, StepError> {
    let found = sys::dumpability().map_err(StepError::system("read dumpability"))?;
    hide()?;
    // Who is not there by now cannot come any more.
    let tracer = tracer();
    if found != DUMPABLE
        && let Some(tracer @ 1..) = tracer
    {
        return Err(StepError::NotInForce {
            layer: FROM_THE_START,
            found: format!("process {tracer} traces this one"),
        });
    }
    let result = match (authority, tracer) {
        (Authority::Root, _) => {
            Ok("root of this user namespace started it, to whose processes other users cannot attach".to_owned())
        }
        (Authority::Ordinary { .. }, None) => Err("no /proc to see a tracer in".to_owned()),
        (Authority::Ordinary { .. }, Some(0)) if found != DUMPABLE => Ok(format!(
            "PR_GET_DUMPABLE was {found} before anything was done about it, TracerPid is 0"
        )),
        (Authority::Ordinary { .. }, Some(0)) => Err("who started it can read the program's file, so others of \
             this user could attach while it started: install it with make install"
            .to_owned()),
        (Authority::Ordinary { .. }, Some(tracer)) => Err(format!("process {tracer} traces this one")),
    };
    Ok(Layer::where_permitted(FROM_THE_START, result))
}

/// Who traces this process; 0 for nobody.
fn tracer() -> Option<u32> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("TracerPid:"))?;
    line.trim().parse().ok()
}

/// Reads back that the process is not dumpable.
pub(crate) fn read_back() -> Result<Layer, StepError> {
    let found = sys::dumpability().map_err(StepError::system("read dumpability back"))?;
    if found != 0 {
        return Err(StepError::NotInForce {
            layer: "not dumpable",
            found: format!("PR_GET_DUMPABLE says {found}"),
        });
    }
    Ok(Layer::required("not dumpable", "PR_GET_DUMPABLE = 0"))
}
