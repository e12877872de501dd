//! What a backend takes besides processor time: memory, and disk.
//!
//! Both are read from `/proc/PID`, which a confined process shows only to root; others get no number.

use std::fs;
use std::os::unix::fs::MetadataExt;

use ::tests::files::{self, Access};

/// MiB of memory, by share where it is shared, without the guest's.
pub(crate) fn memory(pid: u32) -> Option<f64> {
    let kib = without_guest(&fs::read_to_string(format!("/proc/{pid}/smaps")).ok()?);
    (kib > 0).then(|| kib as f64 / 1024.0)
}

/// The sum of `Pss` over all mappings but guest memory, in KiB.
fn without_guest(smaps: &str) -> u64 {
    let mut guest = false;
    let mut sum = 0;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        if first.contains('-') && !first.ends_with(':') {
            guest = line.contains("memfd:guest-memory");
        } else if first == "Pss:" && !guest {
            sum += words.next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    sum
}

/// Bytes of disk that the files use which it may write.
pub(crate) fn disk(pid: u32) -> Option<u64> {
    let written = |file: &&files::OpenFile| file.is_in_a_file_system() && file.access == Access::ReadWrite;
    let held = files::of(pid).ok()?;
    let blocks = held.iter().filter(written).filter_map(|file| {
        let file = fs::metadata(format!("/proc/{pid}/fd/{}", file.number)).ok()?;
        Some(file.blocks() * 512)
    });
    // A file that is held twice is there once.
    blocks.max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_memory_does_not_count() {
        let smaps = "\
7f00-7f10 rw-s 00000000 00:01 5 /memfd:guest-memory (deleted)
Rss:                4096 kB
Pss:                2048 kB
7f20-7f30 r-xp 00000000 fe:00 9 /usr/bin/blk-helper
Rss:                 900 kB
Pss:                 700 kB
Pss_Dirty:             4 kB
7f40-7f50 rw-p 00000000 00:00 0
Pss:                  12 kB
";
        assert_eq!(without_guest(smaps), 712);
    }
}
