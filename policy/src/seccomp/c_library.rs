//! What a C library calls by itself, below the functions that a program calls: reading, waiting, duplicating,
//! memory.
//!
//! A release's helper is static and so built against musl, everything else against glibc. They wait with different calls and have
//! different allocators; each program has the lines of its own library and not of the other. What programs want from the
//! kernel is the same and stands in [`helper`](super::helper).

use super::{Argument, Condition, Row, Value, named, table};

/// The C library that a program was built against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CLibrary {
    /// Debian's and nearly everybody's.
    Glibc,
    /// The one for static programs.
    Musl,
}

impl CLibrary {
    /// This program's.
    pub(super) const OURS: Self = if cfg!(target_env = "musl") {
        Self::Musl
    } else {
        Self::Glibc
    };

    /// `preadv2` of these files, beside the call of that name.
    pub(super) fn reading_rows(self, files: Vec<Value>) -> Vec<Row> {
        let files = Argument::int(0, "fd").is_one_of(files);
        match self {
            Self::Glibc => Vec::new(),
            Self::Musl => table! {
                allow: SYS_preadv [files] "the same reads, where they may wait: musl's preadv2 makes this call if there are no flags";
            },
        }
    }

    /// `epoll_wait`.
    pub(super) fn waiting_rows(self) -> Vec<Row> {
        let signals = Argument::long(4, "sigmask").is(Value::new(0, "NULL"));
        match self {
            Self::Glibc => table! {
                allow: SYS_epoll_wait [] "waits for kicks and messages; kicks are edge-triggered and never read";
            },
            Self::Musl => table! {
                allow: SYS_epoll_pwait [signals]
                    "waits for kicks and messages, as musl's epoll_wait does; kicks are edge-triggered and never read";
            },
        }
    }

    /// `fcntl(F_DUPFD_CLOEXEC)`, beside the call of that name.
    pub(super) fn duplicating_rows(self) -> Vec<Row> {
        let again = Argument::int(1, "cmd").is(named!(F_SETFD));
        let flag = Argument::int(2, "arg").is(named!(FD_CLOEXEC));
        match self {
            Self::Glibc => Vec::new(),
            Self::Musl => table! {
                allow: SYS_fcntl [again, flag] "musl makes what it duplicated close on exec once more, for kernels that forgot it";
            },
        }
    }

    /// `malloc`.
    pub(super) fn allocator_rows(self) -> Vec<Row> {
        let flags = Argument::long(3, "flags");
        let both = table! {
            allow: SYS_mremap [flags.is(named!(MREMAP_MAYMOVE))] "the allocator grows a large block";
            allow: SYS_brk [] "the allocator";
        };
        let own = match self {
            Self::Glibc => glibc_rows(),
            Self::Musl => musl_rows(flags),
        };
        [both, own].concat()
    }
}

/// glibc's allocator, with what it tries and does without.
fn glibc_rows() -> Vec<Row> {
    let reads = Argument::int(2, "flags").has_none_of(named!(O_WRONLY | O_RDWR | O_CREAT | O_TRUNC));
    table! {
        allow: SYS_mmap [data(), private()] "the allocator; never at a fixed address, never code";
        allow: SYS_mprotect [data()] "the allocator grows a thread's heap; never code";
        deny EACCES: SYS_openat [reads] "glibc's malloc asks how memory is overcommitted when a thread's heap shrinks";
        deny EPERM: SYS_sched_getaffinity [] "glibc's malloc counts the processors when a thread first needs memory";
    }
}

/// musl's allocator.
fn musl_rows(flags: Argument) -> Vec<Row> {
    table! {
        allow: SYS_mmap [data(), flags.is(named!(MAP_PRIVATE | MAP_ANONYMOUS))] "the allocator; never at a fixed address, never code";
        allow: SYS_mprotect [data()] "the allocator's own records take another page; never code";
    }
}

/// `prot`: data, never code.
pub(super) fn data() -> Condition {
    Argument::long(2, "prot").has_only(named!(PROT_READ | PROT_WRITE))
}

/// `flags` of memory of the caller's own, as glibc's allocator asks for it.
pub(super) fn private() -> Condition {
    let flags = Argument::long(3, "flags");
    flags.is_with_optional(named!(MAP_PRIVATE | MAP_ANONYMOUS), named!(MAP_NORESERVE))
}
