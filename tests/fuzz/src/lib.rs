//! What the fuzz targets share: a guest's side of a ring, an image's bytes, and the dumbest possible models.
//!
//! A target turns a fuzzer's bytes into something structured, does it to the real code, and compares with a model or looks whether
//! what always holds still does. A finding is a panic: it aborts the target.
#![deny(unsafe_code)]

pub mod guest;
pub mod image;
pub mod model;
pub mod vhost;

use nix::sys::memfd::{MFdFlags, memfd_create};
use std::collections::BTreeMap;
use std::fs::File;

/// A file in memory.
pub fn memfd(bytes: u64) -> File {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let file: File = memfd_create(c"fuzz", flags).expect("there are descriptors").into();
    file.set_len(bytes).expect("there is memory");
    file
}

/// What is open, by number, but for what the sanitizer opens now and then.
pub fn descriptors() -> BTreeMap<String, String> {
    let list = std::fs::read_dir("/proc/self/fd").expect("there is /proc");
    let target = |entry: std::fs::DirEntry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        let target = std::fs::read_link(entry.path()).ok()?;
        let target = target.to_string_lossy().into_owned();
        let own = target.starts_with("pipe:") || target.ends_with("/fd");
        (!own).then_some((name, target))
    };
    list.filter_map(|entry| target(entry.expect("it can be listed")))
        .collect()
}
