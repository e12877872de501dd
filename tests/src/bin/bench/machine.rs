//! What it is measured on.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::backend::program;

/// The machine, and the programs on it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) processors: usize,
    pub(crate) memory_gib: u64,
    pub(crate) kernel: String,
    pub(crate) file_system: String,
    pub(crate) date: String,
    pub(crate) programs: Vec<String>,
}

impl Machine {
    /// This one; the file system is that of `dir`.
    pub(crate) fn this(dir: &Path) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let helper = program("blk-helper").map_or_else(|_| String::new(), |path| path.display().to_string());
        Self {
            processor: field(&read("/proc/cpuinfo"), "model name"),
            processors: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory_gib: kib(&field(&read("/proc/meminfo"), "MemTotal")).div_ceil(1 << 20),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            file_system: file_system(&read("/proc/self/mountinfo"), dir),
            date: first_line("date", &["-u", "+%Y-%m-%d"]),
            programs: vec![
                first_line(&helper, &["--version"]),
                first_line("qemu-storage-daemon", &["--version"]),
            ],
        }
    }
}

/// The first value of `name` in a file of `name: value` lines.
fn field(text: &str, name: &str) -> String {
    let value = text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    });
    value.unwrap_or_default()
}

fn kib(text: &str) -> u64 {
    text.trim_end_matches(" kB").parse().unwrap_or(0)
}

/// Type and options of the file system that `dir` is on, from `mountinfo`.
fn file_system(mountinfo: &str, dir: &Path) -> String {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let point = mount.split(' ').nth(4)?;
        let mut kind = kind.split(' ');
        let (name, options) = (kind.next()?, kind.nth(1)?);
        dir.starts_with(point)
            .then(|| (point.len(), format!("{name} ({options})")))
    });
    mounts
        .max_by_key(|(len, _)| *len)
        .map_or_else(String::new, |(_, text)| text)
}

fn first_line(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    text.unwrap_or_default().lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_mount_counts() {
        let mounts = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,discard
30 22 0:30 / /tmp rw - tmpfs tmpfs rw,size=1g
";
        assert_eq!(file_system(mounts, Path::new("/tmp/x")), "tmpfs (rw,size=1g)");
        assert_eq!(file_system(mounts, Path::new("/var/tmp")), "ext4 (rw,discard)");
    }
}
