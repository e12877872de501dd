//! Storage that fails, or does things by halves, below real confined programs: what is spoilt is single system calls.

mod append;
mod base;
mod commit;
mod data_path;
mod held;
mod import;
mod save;
mod single;

use tests::faults::Call;
use tests::helper::Helper;

/// Why something cannot fail here.
const OURS: &str = "the place is ours to use";

const EIO: i32 = 5;
const EAGAIN: i32 = 11;
const EINTR: i32 = 4;
const ENOSPC: i32 = 28;

const READS: [Call; 1] = [Call::Preadv2];
const WRITES: [Call; 2] = [Call::Pwrite, Call::Pwritev];

/// All that a save does to files. (Where the file system has no holes or shares no blocks it is told so, and goes on.)
const SAVING: [Call; 5] = [
    Call::Preadv2,
    Call::Pwrite,
    Call::Ftruncate,
    Call::Fallocate,
    Call::Fsync,
];

/// The base, and the overlay's two files.
fn disk(helper: &Helper) -> Vec<i32> {
    [helper.descriptors("base"), helper.descriptors("overlay")].concat()
}
