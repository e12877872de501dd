//! `mayfly-import`: turns a qcow2 image into a raw one, in a process that can do nothing else.
//!
//! An image is a program for whoever parses it, and may come from an enemy: it names other files, points anywhere, expands
//! without end. So the process gets each file as a descriptor from the supervisor, confines itself, and looks at the first byte
//! only then. It never opens anything: a name that an image holds is quoted to the operator, no more.
//!
//! The life is `life` (with `args`, and `check` for `--check-confinement`). Then, from the bytes up: `file` reads
//! at an offset; `header` knows the header; `qcow2` knows the tables and says what lies where; `packed` decompresses; `chain` puts
//! image and backing images together; `copy` writes what is not zero.
//!
//! The reader is our own: the imago crate (0.2.6) refuses images compressed with zstd, does not look at the encryption method, and
//! brings 20,000 lines for writing and caching, of which a converter needs none.
//!
//! What bounds it: each step of the loop in `copy` advances by a block of the disk at least, and costs one table and one
//! cluster of each image at most; tables are read as they come, and one of each image is held.

mod args;
mod chain;
mod check;
mod copy;
mod error;
mod file;
#[cfg(fuzzing)]
pub mod fuzzing;
mod header;
pub mod life;
mod packed;
mod qcow2;
#[cfg(test)]
mod tests;
