//! What a service manager or a container forbids before the process begins: a filter of its own.

use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use std::collections::BTreeMap;
use std::error::Error;

type Failure = Box<dyn Error>;

/// Makes system calls fail, as a launcher's filter does.
pub(crate) fn deny(errno: u32, calls: &[&str]) -> Result<(), Failure> {
    let mut rules = BTreeMap::new();
    for call in calls {
        // Reading a limit is the same call as setting one, with no new limit.
        let new_limit = SeccompCondition::new(2, SeccompCmpArgLen::Qword, SeccompCmpOp::Ne, 0)?;
        // Exactly O_WRONLY: what writes the maps of a user namespace, and nothing else in a life.
        let access = SeccompCmpOp::MaskedEq(3);
        let to_write = SeccompCondition::new(2, SeccompCmpArgLen::Dword, access, 1)?;
        let conditions = match *call {
            "prlimit64" => vec![SeccompRule::new(vec![new_limit])?],
            "openat-to-write" => vec![SeccompRule::new(vec![to_write])?],
            _ => Vec::new(),
        };
        rules.insert(number(call)?, conditions);
    }
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(errno),
        TargetArch::x86_64,
    )?;
    let program: seccompiler::BpfProgram = filter.try_into()?;
    seccompiler::apply_filter(&program)?;
    Ok(())
}

fn number(call: &str) -> Result<i64, Failure> {
    Ok(match call {
        "unshare" => libc::SYS_unshare,
        "mount" => libc::SYS_mount,
        "pivot_root" => libc::SYS_pivot_root,
        "umount2" => libc::SYS_umount2,
        "openat-to-write" => libc::SYS_openat,
        "landlock_create_ruleset" => libc::SYS_landlock_create_ruleset,
        "capset" => libc::SYS_capset,
        "setresuid" => libc::SYS_setresuid,
        "setgroups" => libc::SYS_setgroups,
        "seccomp" => libc::SYS_seccomp,
        "close_range" => libc::SYS_close_range,
        "setrlimit" => libc::SYS_setrlimit,
        "prlimit64" => libc::SYS_prlimit64,
        other => return Err(format!("no number for {other}").into()),
    })
}
