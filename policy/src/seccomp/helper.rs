//! What `blk-helper` may call while it serves: one call a line, with its condition and its reason.
//!
//! The conditions keep the roles of descriptors apart: the base is only read, the overlay's two files are only read, written,
//! punched and emptied, and no number of theirs can be closed and come back as something else; nor can those of the control
//! channel. One reserved number takes what a save writes to, one file after the other. No clone, no execve, no open, no socket; the
//! disk is never duplicated or mapped, and no memory becomes code. Signal handlers only `_exit`, so there is no `rt_sigreturn`.

use std::os::fd::RawFd;

use super::c_library::{CLibrary, data};
use super::{Argument, Condition, Filter, Row, Value, named, table};

/// The descriptors whose numbers the conditions name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HelperDescriptors {
    /// The base, opened read-only.
    pub base: RawFd,
    /// The overlay's two files, of which one is in use; a read-only disk has none, and its filter then has no line that writes
    /// to a file.
    pub overlay: Option<[RawFd; 2]>,
    /// Whether what goes into the overlay is encrypted, and so never comes straight from guest memory.
    pub encrypted: bool,
    /// The number under which a save writes, and that of what is there between saves; a read-only disk is not saved.
    pub output: Option<[RawFd; 2]>,
    /// The socket on which further frontends arrive; none with `--fd`.
    pub listener: Option<RawFd>,
    /// The operator's channel; none without `--control-fd`.
    pub control: Option<RawFd>,
    /// The socket on which further clients of the control channel arrive; none without `--control-path`.
    pub control_listener: Option<RawFd>,
}

/// `fd`, the first argument of most calls.
const FD: Argument = Argument::int(0, "fd");

/// What the process was started with: there may be a log behind them, which is somebody else's file.
fn standard() -> [Value; 3] {
    [(0, "standard input"), (1, "standard output"), (2, "standard error")]
        .map(|(number, role)| Value::descriptor(number, role))
}

impl HelperDescriptors {
    /// Of a helper that has everything, with an overlay in the clear; its descriptors are `first` to `first + 8`, of which one is
    /// somebody else's.
    #[cfg(test)]
    pub(super) const fn example(first: RawFd) -> Self {
        Self {
            base: first,
            overlay: Some([first + 1, first + 6]),
            encrypted: false,
            output: Some([first + 7, first + 8]),
            listener: Some(first + 2),
            control: Some(first + 3),
            control_listener: Some(first + 4),
        }
    }

    /// The base and, where there is one, the overlay.
    fn disk(&self) -> Vec<Value> {
        let base = Value::descriptor(self.base, "base");
        let overlay = self.overlay.map(overlay_values);
        [base].into_iter().chain(overlay.into_iter().flatten()).collect()
    }

    /// The disk, and the place of a save's output.
    fn files(&self) -> Vec<Value> {
        let output = self.output.map(|[output, _]| Value::descriptor(output, "output"));
        self.disk().into_iter().chain(output).collect()
    }

    /// What never gets another number, and is never mapped.
    fn kept_apart(&self) -> Vec<Value> {
        standard().into_iter().chain(self.files()).collect()
    }

    /// What stays open to the end: the disk and, where there are any, the place of a save's output and the ways in for orders.
    fn lasting(&self) -> Vec<Value> {
        let nothing = self.output.map(|[_, nothing]| Value::descriptor(nothing, "nothing"));
        let mut all = self.files();
        all.extend(nothing);
        all.extend(self.orders());
        all
    }

    /// The ways in for orders.
    fn orders(&self) -> Vec<Value> {
        let control = self.control.map(|number| Value::descriptor(number, "control"));
        control.into_iter().chain(self.control_listener()).collect()
    }

    /// The socket on which clients of the control channel arrive.
    fn control_listener(&self) -> Option<Value> {
        let named = |number| Value::descriptor(number, "control listener");
        self.control_listener.map(named)
    }

    /// Whether anybody may give orders.
    fn is_controlled(&self) -> bool {
        self.control.is_some() || self.control_listener.is_some()
    }
}

/// The overlay's two files.
fn overlay_values([first, second]: [RawFd; 2]) -> Vec<Value> {
    vec![
        Value::descriptor(first, "overlay"),
        Value::descriptor(second, "spare overlay"),
    ]
}

/// The filter that this program, as `blk-helper`, serves under.
#[must_use]
pub fn helper_filter(descriptors: &HelperDescriptors) -> Filter {
    helper_filter_over(CLibrary::OURS, descriptors)
}

/// The filter of a `blk-helper` that was built against this C library.
pub(super) fn helper_filter_over(c_library: CLibrary, descriptors: &HelperDescriptors) -> Filter {
    let rows = [
        disk_rows(descriptors),
        c_library.reading_rows(descriptors.disk()),
        descriptors
            .overlay
            .map(|overlay| overlay_rows(descriptors, overlay))
            .unwrap_or_default(),
        // Without anybody who could ask for a save there is none.
        descriptors
            .output
            .filter(|_| descriptors.is_controlled())
            .map(|output| save_rows(descriptors, output))
            .unwrap_or_default(),
        c_library.waiting_rows(),
        ring_rows(descriptors),
        descriptors.listener.map(listener_rows).unwrap_or_default(),
        connection_rows(descriptors),
        c_library.duplicating_rows(),
        descriptors.control_listener().map(client_rows).unwrap_or_default(),
        if descriptors.is_controlled() {
            attach_rows()
        } else {
            Vec::new()
        },
        memory_rows(descriptors),
        c_library.allocator_rows(),
        runtime_rows(),
    ];
    Filter::new(rows.concat())
}

/// Reading the disk.
fn disk_rows(descriptors: &HelperDescriptors) -> Vec<Row> {
    let disk = || FD.is_one_of(descriptors.disk());
    let wait = Argument::int(5, "flags").has_only(named!(RWF_NOWAIT));
    table! {
        allow: SYS_preadv2 [disk(), wait]
            "guest reads, and the rest of a cluster that is overwritten in part; without waiting first, so that storage keeps nobody else waiting";
    }
}

/// Writing the overlay.
fn overlay_rows(descriptors: &HelperDescriptors, overlay: [RawFd; 2]) -> Vec<Row> {
    let overlay = || FD.is_one_of(overlay_values(overlay));
    let mode = Argument::int(1, "mode");
    let nothing = Argument::long(1, "length").is(Value::new(0, "0"));
    let (bytes, flags) = (Argument::long(1, "buflen"), Argument::int(2, "flags"));
    let writing = table! {
        allow: SYS_pwrite64 [overlay()] "guest writes; beside what a save writes, the overlay is the only file that is ever written";
        allow: SYS_fallocate [overlay(), mode.is(named!(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE))]
            "discard gives space back; allocating modes would defeat the quota";
    };
    let in_the_clear = table! {
        allow: SYS_pwritev [overlay()] "with --no-encrypt: guest writes straight from several pieces of guest memory";
    };
    let resetting = table! {
        allow: SYS_ftruncate [overlay(), nothing] "a reset turns to the spare file and empties the other";
        allow: SYS_getrandom [bytes.is(Value::new(64, "64")), flags.is(Value::new(0, "0"))] "the new key after a reset";
    };
    let mut rows = writing;
    if !descriptors.encrypted {
        rows.extend(in_the_clear);
    }
    if descriptors.is_controlled() {
        rows.extend(resetting);
    }
    rows
}

/// Writing what is saved.
fn save_rows(descriptors: &HelperDescriptors, [output, _]: [RawFd; 2]) -> Vec<Row> {
    let place = || Value::descriptor(output, "output");
    let base = || Value::descriptor(descriptors.base, "base");
    let mode = Argument::int(1, "mode").is(named!(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE));
    let share = Argument::int(1, "cmd").is(named!(FICLONE));
    let whence = Argument::int(2, "whence").is_one_of(vec![named!(SEEK_DATA), named!(SEEK_HOLE)]);
    let listener = descriptors.listener.map(|number| Value::descriptor(number, "listener"));
    let others = standard().into_iter().chain(descriptors.disk()).chain(listener);
    let from = Argument::int(0, "oldfd").is_none_of(others.chain(descriptors.orders()).collect());
    let to = Argument::int(1, "newfd").is(place());
    let flags = Argument::int(2, "flags").is(named!(O_CLOEXEC));
    let getfl = Argument::int(1, "cmd").is(named!(F_GETFL));
    table! {
        allow: SYS_dup3 [from, to, flags] "what the operator sent takes the reserved number, and leaves it; neither disk nor operator do, nor a log";
        allow: SYS_fcntl [getfl] "whether what the operator sent can be written, and where";
        allow: SYS_pwrite64 [FD.is(place())] "what is saved";
        allow: SYS_ftruncate [FD.is(place())] "its length; none when a save fails";
        allow: SYS_fallocate [FD.is(place()), mode] "what the guest discarded is a hole there";
        allow: SYS_ioctl [FD.is(place()), share, Argument::int(2, "src").is(base())] "it shares the base's blocks where the file system can";
        allow: SYS_fsync [FD.is(place())] "a save that is done is on the medium";
        allow: SYS_lseek [FD.is(base()), whence] "where the base has holes; nobody uses its position";
    }
}

/// Answering rings.
fn ring_rows(descriptors: &HelperDescriptors) -> Vec<Row> {
    table! {
        allow: SYS_epoll_ctl [] "a connection's descriptors come and go";
        allow: SYS_poll [] "asks whether a call eventfd or standard error takes a write without blocking";
        allow: SYS_write [FD.is_none_of(descriptors.files())]
            "call eventfds, wake-ups between threads, standard error, the notify socket";
    }
}

/// Taking the next frontend.
fn listener_rows(listener: RawFd) -> Vec<Row> {
    table! {
        allow: SYS_accept4 [FD.is(Value::descriptor(listener, "listener"))] "the next frontend";
    }
}

/// Talking to frontends.
fn connection_rows(descriptors: &HelperDescriptors) -> Vec<Row> {
    let level = || Argument::int(1, "level").is(named!(SOL_SOCKET));
    let option = Argument::int(2, "optname");
    let peer = option.is(named!(SO_PEERCRED));
    let cmd = Argument::int(1, "cmd");
    let seals = cmd.is(named!(F_GET_SEALS));
    let peek = Argument::int(3, "flags").is(named!(MSG_PEEK | MSG_DONTWAIT));
    table! {
        allow: SYS_recvmsg [] "messages of the frontend and of who gives orders, and the descriptors that come with them";
        allow: SYS_recvfrom [peek] "looks whether a whole message, or the end of the connection, is there";
        allow: SYS_sendmsg [] "replies to them, and events for who asked for them";
        allow: SYS_close [FD.is_none_of(descriptors.lasting())]
            "a connection's descriptors; the numbers of disk, operator and listener never change their meaning";
        allow: SYS_getsockopt [level(), peer] "who the peer is";
        allow: SYS_ioctl [cmd.is(named!(FIONREAD))] "how much of a message has arrived";
        allow: SYS_fcntl [seals] "whether guest memory is sealed";
        allow: SYS_fcntl [cmd.is(named!(F_GETFD))] "debug builds of Rust make sure that what they close is open";
        allow: SYS_fcntl [cmd.is(named!(F_DUPFD_CLOEXEC)), FD.is_none_of(descriptors.kept_apart())]
            "a second handle of a connection: one to look at it, one for the message handling";
        allow: SYS_fstat [] "what kind of file a frontend sent, and how long it is; it takes no path";
        allow: SYS_fstatfs [] "guest memory lies on tmpfs or hugetlbfs, nowhere else; how much the overlay's file system has free";
    }
}

/// Taking the next client of the control channel.
fn client_rows(listener: Value) -> Vec<Row> {
    table! {
        allow: SYS_accept4 [FD.is(listener)] "the next client of the control channel";
    }
}

/// Taking a frontend that the operator hands over.
fn attach_rows() -> Vec<Row> {
    let level = Argument::int(1, "level").is(named!(SOL_SOCKET));
    let kind = Argument::int(2, "optname").is_one_of(vec![named!(SO_DOMAIN), named!(SO_TYPE), named!(SO_ACCEPTCONN)]);
    table! {
        allow: SYS_getsockopt [level, kind] "what the operator handed over is a connection, of the kind that frontends use";
    }
}

/// Guest memory.
fn memory_rows(descriptors: &HelperDescriptors) -> Vec<Row> {
    let shared = Argument::long(3, "flags").is(named!(MAP_SHARED | MAP_NORESERVE));
    let no_file_of_ours: Condition = Argument::int(4, "fd").is_none_of(descriptors.kept_apart());
    let advice = Argument::int(2, "advice").is(named!(MADV_DONTNEED));
    table! {
        allow: SYS_mmap [data(), shared, no_file_of_ours] "guest memory; never the disk or a log, never code";
        allow: SYS_munmap [] "guest memory of a connection that ended; the allocator";
        allow: SYS_madvise [advice] "a reset empties the map of clusters; the allocator gives memory back";
    }
}

/// What any program of several threads needs.
fn runtime_rows() -> Vec<Row> {
    let op = Argument::int(1, "op").is_one_of(vec![
        named!(FUTEX_WAIT | FUTEX_PRIVATE_FLAG),
        named!(FUTEX_WAKE | FUTEX_PRIVATE_FLAG),
        named!(FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG),
    ]);
    let option = Argument::int(0, "option");
    table! {
        allow: SYS_futex [op] "locks between our own threads";
        allow: SYS_clock_gettime [] "deadlines, where the clock cannot be read without a system call";
        allow: SYS_sched_yield [] "a channel waits for a sender that was interrupted in the middle";
        allow: SYS_clock_nanosleep [] "a pause before trying again";
        allow: SYS_restart_syscall [] "the kernel resumes a timed wait after the process was stopped and continued";
        allow: SYS_prctl [option.is(named!(PR_GET_SECCOMP))] "each thread reads back that it has this filter";
        allow: SYS_exit_group [] "the burn";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn over(c_library: CLibrary) -> Filter {
        helper_filter_over(c_library, &HelperDescriptors::example(3))
    }

    /// The lines of one filter that the other has not.
    fn only(of: &Filter, other: &Filter) -> Filter {
        let rows = of.rows().iter().filter(|row| !other.rows().contains(row));
        Filter::new(rows.cloned().collect())
    }

    fn assert_shown(between: &str, table: &str) {
        let documentation = include_str!("../../../docs/sandbox.md");
        let (_, rest) = documentation
            .split_once(&format!("<!-- {between}: begin -->\n"))
            .unwrap();
        let (shown, _) = rest.split_once(&format!("<!-- {between}: end -->")).unwrap();

        assert!(shown.trim() == table.trim(), "put this into docs/sandbox.md:\n{table}");
    }

    #[test]
    fn the_documentation_shows_this_filter() {
        assert_shown("filter", &over(CLibrary::Glibc).to_markdown());
    }

    #[test]
    fn the_documentation_shows_what_is_different_over_musl() {
        let (glibc, musl) = (over(CLibrary::Glibc), over(CLibrary::Musl));
        let (without, with) = (only(&glibc, &musl), only(&musl, &glibc));

        let tables = format!(
            "Not there:\n\n{}\nInstead:\n\n{}",
            without.to_markdown(),
            with.to_markdown()
        );
        assert_shown("musl filter", &tables);
    }
}
