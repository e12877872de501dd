//! What `mayfly-import` may call while it converts an image: one call a line, with its condition and its reason.
//!
//! The images are only read, the output is only written, at offsets; nothing is opened, closed, duplicated, mapped or resized. It
//! has one thread and no signal handlers.

use std::os::fd::RawFd;

use super::c_library::data;
use super::{Argument, Filter, Row, Value, named, table};

/// The descriptors whose numbers the conditions name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportDescriptors {
    /// The images, opened read-only.
    pub images: Vec<RawFd>,
    /// What they are converted into.
    pub output: RawFd,
}

/// `fd`, the first argument of most calls.
const FD: Argument = Argument::int(0, "fd");

/// The filter that `mayfly-import` converts under.
#[must_use]
pub fn import_filter(descriptors: &ImportDescriptors) -> Filter {
    Filter::new([conversion_rows(descriptors), runtime_rows()].concat())
}

/// Reading, writing, and saying how far it is.
fn conversion_rows(descriptors: &ImportDescriptors) -> Vec<Row> {
    let image = |&number| Value::descriptor(number, "image");
    // The kernel compares numbers; a reader wants the word once.
    let images = || FD.is_one_of(descriptors.images.iter().map(image).collect());
    let output = FD.is(Value::descriptor(descriptors.output, "output"));
    let whence = Argument::int(2, "whence").is_one_of(vec![named!(SEEK_DATA), named!(SEEK_HOLE)]);
    let streams = FD.is_one_of(vec![
        Value::descriptor(libc::STDOUT_FILENO, "standard output"),
        Value::descriptor(libc::STDERR_FILENO, "standard error"),
    ]);
    table! {
        allow: SYS_pread64 [images()] "the image, and what it is based on";
        allow: SYS_lseek [images(), whence] "passes over the holes of a raw backing image";
        allow: SYS_pwrite64 [output] "the disk; whoever started the process gives the file its length";
        allow: SYS_write [streams] "how far it is, what is wrong with the image; log lines";
        allow: SYS_poll [] "asks whether standard error takes a line without blocking";
    }
}

/// What any program needs.
fn runtime_rows() -> Vec<Row> {
    let flags = Argument::long(3, "flags");
    // No MAP_NORESERVE, as elsewhere: glibc reserves memory so for the heaps of further threads only, and there are none.
    let private = Argument::long(3, "flags").is(named!(MAP_PRIVATE | MAP_ANONYMOUS));
    let option = Argument::int(0, "option");
    table! {
        allow: SYS_mmap [data(), private] "the allocator; never at a fixed address, never code";
        allow: SYS_munmap [] "the allocator gives a large block back";
        allow: SYS_mremap [flags.is(named!(MREMAP_MAYMOVE))] "the allocator grows a large block";
        allow: SYS_brk [] "the allocator";
        allow: SYS_clock_gettime [] "how long it is since it said how far it is, where the clock needs a system call";
        allow: SYS_prctl [option.is(named!(PR_GET_SECCOMP))] "reads back that the process has this filter";
        allow: SYS_exit_group [] "the end";
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::machine::{Verdict, X86_64, verdict_on};
    use super::*;

    const IMAGE: u64 = 3;
    const OUTPUT: u64 = 5;

    fn filter() -> Filter {
        import_filter(&ImportDescriptors {
            images: vec![3, 4],
            output: 5,
        })
    }

    fn verdict(call: i64, first: u64, third: u64) -> Verdict {
        verdict_on(&filter(), X86_64, call, [first, 0, third, 0, 0, 0])
    }

    #[test]
    fn the_documentation_shows_this_filter() {
        let documentation = include_str!("../../../docs/sandbox.md");
        let (_, rest) = documentation.split_once("<!-- import filter: begin -->\n").unwrap();
        let (shown, _) = rest.split_once("<!-- import filter: end -->").unwrap();

        let table = import_filter(&ImportDescriptors {
            images: vec![3],
            output: 4,
        })
        .to_markdown();

        assert!(shown.trim() == table.trim(), "put this into docs/sandbox.md:\n{table}");
    }

    #[test]
    fn each_file_has_one_use() {
        for number in 0..8 {
            let expected = |allowed| if allowed { Verdict::Allowed } else { Verdict::Killed };

            assert_eq!(
                verdict(libc::SYS_pread64, number, 0),
                expected((3..5).contains(&number))
            );
            assert_eq!(verdict(libc::SYS_pwrite64, number, 0), expected(number == OUTPUT));
            assert_eq!(verdict(libc::SYS_write, number, 0), expected((1..3).contains(&number)));
            for whence in 0..5 {
                let seeks = (3..5).contains(&number) && (3..5).contains(&whence);
                assert_eq!(verdict(libc::SYS_lseek, number, whence), expected(seeks));
            }
        }
    }

    #[test]
    fn memory_is_private_and_no_heap_of_another_thread() {
        let private = u64::try_from(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS).unwrap();
        let reserved = u64::try_from(libc::MAP_NORESERVE).unwrap();
        let mmap = |flags| verdict_on(&filter(), X86_64, libc::SYS_mmap, [0, 4096, 3, flags, u64::MAX, 0]);

        assert_eq!(mmap(private), Verdict::Allowed);
        assert_eq!(mmap(private | reserved), Verdict::Killed);
    }

    #[test]
    fn nothing_else_is_done_to_a_file() {
        for call in [
            libc::SYS_openat,
            libc::SYS_close,
            libc::SYS_dup,
            libc::SYS_fcntl,
            libc::SYS_ioctl,
            libc::SYS_ftruncate,
            libc::SYS_fallocate,
            libc::SYS_copy_file_range,
            libc::SYS_fstat,
            libc::SYS_read,
            libc::SYS_sendmsg,
            libc::SYS_clone,
            libc::SYS_futex,
        ] {
            for number in [0, 1, IMAGE, OUTPUT] {
                assert_eq!(verdict(call, number, 0), Verdict::Killed, "{call}");
            }
        }
    }
}
