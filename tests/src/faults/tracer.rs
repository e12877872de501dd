//! Runs a program, follows all its threads and children from call to call, and spoils what the plan says.
//!
//! It is the program's parent, for which tracing needs no privilege; the program stops itself before it is executed, so that not
//! one call is missed. A call's beginning is seen before the program's own filter looks at it, so a confined program is spoilt as
//! well as any other. If this process ends, so does the program.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::thread::sleep;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::replace;
use super::rule::{Call, Course, Effect, Plan};
use super::tracee::{Aftermath, Memory, Stopped};

/// Stops itself before it becomes the program.
const LAUNCH: &str = r#"kill -STOP $$; exec "$@""#;

/// The plan as it stands in its file, which a test replaces whenever it likes.
#[derive(Debug)]
struct Orders {
    plan: PathBuf,
    told: PathBuf,
    text: Vec<u8>,
    course: Course,
}

impl Orders {
    fn new(plan: &Path, told: &Path) -> Self {
        Self {
            plan: plan.to_owned(),
            told: told.to_owned(),
            text: Vec::new(),
            course: Course::new(Plan::default()),
        }
    }

    /// What is to happen to a call.
    fn decide(&mut self, call: Call, descriptor: u64) -> io::Result<Option<Effect>> {
        self.are_new()?;
        let effect = self.course.decide(call, descriptor);
        if effect.is_some() {
            replace(&self.told, self.course.told())?;
        }
        Ok(effect)
    }

    /// Whether there is another plan than before, which is followed from now on.
    fn are_new(&mut self) -> io::Result<bool> {
        let text = std::fs::read(&self.plan)?;
        let new = text != self.text;
        if new {
            self.course = Course::new(serde_json::from_slice(&text)?);
            self.text = text;
        }
        Ok(new)
    }
}

/// What is traced.
#[derive(Debug)]
struct Tracer {
    orders: Orders,
    /// Of each process that executed a program, by the process's number.
    memories: HashMap<Pid, Rc<Memory>>,
    /// The process of each thread that was asked for.
    groups: HashMap<Pid, Pid>,
    /// What a thread's call still needs.
    aftermaths: HashMap<Pid, Aftermath>,
    /// Threads whose calls do not begin before there is another plan.
    held: Vec<Pid>,
}

/// How often it is looked whether there is one.
const LOOK: Duration = Duration::from_millis(1);

/// How the program ended.
#[derive(Clone, Copy, Debug)]
pub enum End {
    /// With this code.
    Code(i32),
    /// By this signal.
    Signal(Signal),
}

/// Runs a program to its end, and that of its children.
///
/// # Errors
///
/// What the kernel refuses, and a plan that cannot be read.
pub fn run(plan: &Path, told: &Path, program: &[impl AsRef<OsStr>]) -> io::Result<End> {
    let mut tracer = Tracer {
        orders: Orders::new(plan, told),
        memories: HashMap::new(),
        groups: HashMap::new(),
        aftermaths: HashMap::new(),
        held: Vec::new(),
    };
    let child = Command::new("sh").args(["-c", LAUNCH, "sh"]).args(program).spawn()?;
    let root = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
    waitpid(root, Some(WaitPidFlag::WUNTRACED))?;
    let options = Options::PTRACE_O_EXITKILL
        | Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACEEXEC;
    ptrace::seize(root, options)?;
    kill(root, Signal::SIGCONT)?;
    tracer.follow(root)
}

impl Tracer {
    fn follow(&mut self, root: Pid) -> io::Result<End> {
        let mut end = None;
        loop {
            let status = match self.wait()? {
                Err(Errno::ECHILD) => return end.ok_or_else(|| io::Error::other("it vanished")),
                Err(Errno::EINTR) => continue,
                status => status?,
            };
            match status {
                WaitStatus::Exited(pid, code) => {
                    self.forget(pid);
                    end = if pid == root { Some(End::Code(code)) } else { end };
                }
                WaitStatus::Signaled(pid, signal, _) => {
                    self.forget(pid);
                    end = if pid == root { Some(End::Signal(signal)) } else { end };
                }
                WaitStatus::Stopped(pid, signal) => resume(pid, Some(signal))?,
                WaitStatus::PtraceEvent(pid, _, event) => {
                    if event == libc::PTRACE_EVENT_EXEC {
                        self.memories.insert(pid, Rc::new(Memory::of(pid)?));
                    }
                    resume(pid, None)?;
                }
                WaitStatus::PtraceSyscall(pid) => {
                    gone_is_fine(self.at_call(pid))?;
                    if !self.held.contains(&pid) {
                        resume(pid, None)?;
                    }
                }
                WaitStatus::Continued(_) | WaitStatus::StillAlive => {}
            }
        }
    }

    /// The next that happens to one of them; calls that were held begin meanwhile, when they may.
    fn wait(&mut self) -> io::Result<nix::Result<WaitStatus>> {
        while !self.held.is_empty() {
            if self.orders.are_new()? {
                self.held.drain(..).try_for_each(|pid| resume(pid, None))?;
                break;
            }
            match waitpid(None, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => sleep(LOOK),
                status => return Ok(status),
            }
        }
        Ok(waitpid(None, Some(WaitPidFlag::__WALL)))
    }

    fn forget(&mut self, pid: Pid) {
        self.held.retain(|held| *held != pid);
        self.memories.remove(&pid);
        self.groups.remove(&pid);
        self.aftermaths.remove(&pid);
    }

    /// A thread begins a call, or returns from one.
    fn at_call(&mut self, pid: Pid) -> io::Result<()> {
        if ptrace::syscall_info(pid)?.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
            let Some(aftermath) = self.aftermaths.remove(&pid) else {
                return Ok(());
            };
            let memory = self.memory_of(pid);
            return Stopped::at(pid)?.finish(aftermath, memory.as_deref());
        }
        let mut stopped = Stopped::at(pid)?;
        let (Some(call), Some(memory)) = (stopped.call(), self.memory_of(pid)) else {
            return Ok(());
        };
        if memory.is_loader(&stopped) {
            return Ok(());
        }
        let aftermath = match self.orders.decide(call, stopped.descriptor())? {
            None => None,
            Some(Effect::Fail(errno)) => Some(stopped.turn_into_nothing(errno)?),
            Some(Effect::Hold) => {
                self.held.push(pid);
                None
            }
            Some(Effect::Short) => stopped.shorten(&memory, call, |bytes| self.orders.course.fewer(bytes))?,
        };
        if let Some(aftermath) = aftermath {
            self.aftermaths.insert(pid, aftermath);
        }
        Ok(())
    }

    /// The memory of the process that thread `pid` belongs to; none before it executes a program.
    fn memory_of(&mut self, pid: Pid) -> Option<Rc<Memory>> {
        let group = match self.groups.get(&pid) {
            Some(group) => *group,
            None => {
                let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
                let group = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?;
                let group = Pid::from_raw(group.trim().parse().ok()?);
                self.groups.insert(pid, group);
                group
            }
        };
        self.memories.get(&group).map(Rc::clone)
    }
}

/// Lets it run to the next call, with a signal that it is to get.
fn resume(pid: Pid, signal: Option<Signal>) -> io::Result<()> {
    gone_is_fine(ptrace::syscall(pid, signal).map_err(io::Error::from))
}

/// A thread can be killed at any moment, even one that is stopped.
fn gone_is_fine(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        outcome => outcome,
    }
}
