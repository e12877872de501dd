//! What `mayfly-vmm` may call while a guest runs: what every thread needs, and what each kind of thread needs on top.
//!
//! Two filters lie over each thread. The *common* one is loaded for all threads at once and allows what any of them needs, and
//! one thing more: to load a filter. Then each thread loads its *own*, which allows what that thread needs and no further filter.
//! The kernel takes the strictest answer, so a processor's thread, which is where a guest breaks out, cannot send a descriptor to
//! a disk's backend, and no thread can open, connect, fork, map code, or ask KVM for anything but to run its own processor.
//! Threads share memory, though: who writes where it likes may in the end make another thread act. What no thread may do, the
//! common filter does not allow either.
//!
//! Signal handlers only `_exit`, so there is no `rt_sigreturn`; threads never end, so there is no `exit`.

use std::os::fd::RawFd;

use super::c_library::{data, private};
use super::{Argument, Filter, Row, Value, named, table};

/// The kinds of threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The control thread: vhost-user messages, console input, entropy.
    Control,
    /// A virtual processor's.
    Vcpu {
        /// The processor's descriptor.
        vcpu: RawFd,
    },
    /// A network card's.
    Net {
        /// Its tap.
        tap: RawFd,
    },
}

impl Role {
    /// The names of all kinds.
    pub const NAMES: [&str; 3] = ["control", "vcpu", "net"];

    /// Its kind's name, for command lines and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Vcpu { .. } => "vcpu",
            Self::Net { .. } => "net",
        }
    }
}

/// The descriptors whose numbers the conditions name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VmmDescriptors {
    /// The sockets to the disks' backends, by every number they have.
    pub disks: Vec<RawFd>,
    /// The taps of the network cards.
    pub taps: Vec<RawFd>,
    /// The pipe with what is typed.
    pub console_in: RawFd,
    /// The processors.
    pub vcpus: Vec<RawFd>,
}

/// `fd`, the first argument of most calls.
const FD: Argument = Argument::int(0, "fd");

/// KVM_RUN; not in the libc crate. `_IO(0xae, 0x80)`.
const KVM_RUN: u64 = 0xae80;

/// What a disk's socket is called in the table.
const DISK: &str = "a disk's socket";

/// What a tap is called in the table.
const TAP: &str = "a tap";

impl VmmDescriptors {
    /// The filter for the whole process: whatever a thread may need, and loading the thread's own.
    #[must_use]
    pub fn common_filter(&self) -> Filter {
        let vcpus = self.vcpus.iter().map(|&vcpu| vcpu_rows(self, vcpu));
        let taps = self.taps.iter().map(|&tap| net_rows(self, tap));
        let all = [everybodys_rows(), control_rows(self), loading_rows()];
        Filter::union(all.into_iter().chain(vcpus).chain(taps))
    }

    /// The filter for one thread.
    #[must_use]
    pub fn filter(&self, role: Role) -> Filter {
        let own = match role {
            Role::Control => control_rows(self),
            Role::Vcpu { vcpu } => vcpu_rows(self, vcpu),
            Role::Net { tap } => net_rows(self, tap),
        };
        Filter::new([everybodys_rows(), own, sealed_rows()].concat())
    }

    /// The sockets to the disks.
    fn disks(&self) -> Vec<Value> {
        self.disks.iter().map(|&disk| Value::descriptor(disk, DISK)).collect()
    }

    /// What no thread writes to as it writes to an eventfd: sockets take messages only, and a tap belongs to one thread.
    fn peers(&self) -> Vec<Value> {
        let taps = self.taps.iter().map(|&tap| Value::descriptor(tap, TAP));
        self.disks().into_iter().chain(taps).collect()
    }
}

/// What every thread needs.
fn everybodys_rows() -> Vec<Row> {
    let flags = Argument::long(3, "flags");
    let advice = Argument::int(2, "advice");
    let op = Argument::int(1, "op").is_one_of(vec![
        named!(FUTEX_WAIT | FUTEX_PRIVATE_FLAG),
        named!(FUTEX_WAKE | FUTEX_PRIVATE_FLAG),
        named!(FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG),
    ]);
    let option = Argument::int(0, "option");
    let open_flags = Argument::int(2, "flags");
    let reads = open_flags.has_none_of(named!(O_WRONLY | O_RDWR | O_CREAT | O_TRUNC));
    table! {
        allow: SYS_mmap [data(), private()] "the allocator; no file, never at a fixed address, never code";
        allow: SYS_mprotect [data()] "the allocator grows a thread's heap; never code";
        allow: SYS_munmap [] "the allocator";
        allow: SYS_mremap [flags.is(named!(MREMAP_MAYMOVE))] "the allocator grows a large block";
        allow: SYS_madvise [advice.is(named!(MADV_DONTNEED))] "the allocator gives memory back";
        allow: SYS_brk [] "the allocator";
        allow: SYS_futex [op] "locks between our own threads";
        allow: SYS_clock_gettime [] "deadlines, where the clock cannot be read without a system call";
        allow: SYS_sched_yield [] "a channel waits for a sender that was interrupted in the middle";
        allow: SYS_restart_syscall [] "the kernel resumes a timed wait after the process was stopped and continued";
        allow: SYS_poll [] "asks whether standard error, or the console's pipe, takes a write without blocking";
        allow: SYS_prctl [option.is(named!(PR_GET_SECCOMP))] "each thread reads back that it is filtered";
        allow: SYS_exit_group [] "the end of the run, from any thread and from signal handlers";
        deny EACCES: SYS_openat [reads] "glibc's malloc asks how memory is overcommitted when a thread's heap shrinks";
        deny EPERM: SYS_sched_getaffinity [] "glibc's malloc counts the processors when a thread first needs memory";
    }
}

/// What the control thread needs.
fn control_rows(descriptors: &VmmDescriptors) -> Vec<Row> {
    let console = FD.is(Value::descriptor(descriptors.console_in, "console input"));
    let flags = Argument::int(2, "flags").is(named!(GRND_NONBLOCK));
    let mut rows = table! {
        allow: SYS_epoll_wait [] "waits for what is typed, for what a driver asks, and for a disk that hangs up";
        allow: SYS_epoll_ctl [] "console input that ended, or that the guest does not take, is not looked at";
        allow: SYS_read [console] "what is typed; eventfds are edge-triggered and never read";
        allow: SYS_write [FD.is_none_of(descriptors.peers())]
            "eventfds that wake other threads or interrupt the guest, standard error";
        allow: SYS_getrandom [flags] "the guest's entropy device";
    };
    if !descriptors.disks.is_empty() {
        let disk = || FD.is_one_of(descriptors.disks());
        rows.extend(table! {
            allow: SYS_sendmsg [disk()] "vhost-user messages, with guest memory and eventfds";
            allow: SYS_recvmsg [disk()] "the answers";
            allow: SYS_alarm [] "a backend that does not answer ends the run";
        });
    }
    rows
}

/// What a processor's thread needs.
fn vcpu_rows(descriptors: &VmmDescriptors, vcpu: RawFd) -> Vec<Row> {
    let own = FD.is(Value::descriptor(vcpu, "the thread's own processor"));
    let run = Argument::int(1, "request").is(Value::new(KVM_RUN, "KVM_RUN"));
    table! {
        allow: SYS_ioctl [own, run] "the guest runs; nothing else is asked of KVM";
        allow: SYS_write [FD.is_none_of(descriptors.peers())]
            "the console's pipe, eventfds that wake other threads or interrupt the guest, standard error";
    }
}

/// What a network card's thread needs.
fn net_rows(descriptors: &VmmDescriptors, tap: RawFd) -> Vec<Row> {
    let own = FD.is(Value::descriptor(tap, "the thread's own tap"));
    let others = descriptors.taps.iter().filter(|&&other| other != tap);
    let others = others.map(|&other| Value::descriptor(other, "another tap"));
    let elsewhere = FD.is_none_of(descriptors.disks().into_iter().chain(others).collect());
    table! {
        allow: SYS_epoll_wait [] "waits for frames and for the guest";
        allow: SYS_read [own] "frames for the guest; eventfds are edge-triggered and never read";
        allow: SYS_write [elsewhere] "frames from the guest, eventfds that interrupt it, standard error";
    }
}

/// Loading a thread's own filter: in the common filter only.
fn loading_rows() -> Vec<Row> {
    let flags = Argument::int(1, "flags").is(Value::new(0, "0"));
    table! {
        allow: SYS_seccomp [load(), flags] "each thread puts its own filter on top, which forbids this call";
    }
}

/// The end of loading: in the filters of threads only.
fn sealed_rows() -> Vec<Row> {
    table! {
        deny EPERM: SYS_seccomp [load()] "a thread shows that its own filter is in force: it cannot load another";
    }
}

/// `seccomp` loads a filter.
fn load() -> super::Condition {
    Argument::int(0, "operation").is(named!(SECCOMP_SET_MODE_FILTER))
}

/// The tables for the documentation, as Markdown: every thread's lines, and what the first of each kind has on top.
#[must_use]
pub fn to_markdown(descriptors: &VmmDescriptors) -> String {
    let vcpu = descriptors.vcpus.first().map(|&vcpu| vcpu_rows(descriptors, vcpu));
    let net = descriptors.taps.first().map(|&tap| net_rows(descriptors, tap));
    [
        ("Every thread", everybodys_rows()),
        ("The control thread", control_rows(descriptors)),
        ("A processor's thread", vcpu.unwrap_or_default()),
        ("A network card's thread", net.unwrap_or_default()),
        ("Until a thread has its own filter", loading_rows()),
        ("As soon as it has it", sealed_rows()),
    ]
    .into_iter()
    .filter(|(_, rows)| !rows.is_empty())
    .map(|(title, rows)| format!("{title}:\n\n{}", Filter::new(rows).to_markdown()))
    .collect::<Vec<_>>()
    .join("\n")
}

#[cfg(test)]
mod tests;
