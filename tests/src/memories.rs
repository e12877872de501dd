//! What root can read of a process's memory: every mapping, by `/proc/PID/mem`, which is what a debugger and a core file see too.
//!
//! Only pages that exist are read (`/proc/PID/pagemap` says which): a mapping of terabytes may have three of them.
//!
//! Knows nothing of what is looked for.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use nix::unistd::Pid;

/// Bytes of a page.
const PAGE: u64 = 4096;

/// One mapping.
#[derive(Debug)]
pub struct Mapping {
    /// Its addresses.
    pub addresses: Range<u64>,
    /// What is mapped; empty for memory without a file or a purpose.
    pub name: String,
    /// The kernel's two-letter words for it.
    pub flags: Vec<String>,
    /// The bytes of its pages, neighbours together.
    pub pieces: Vec<Vec<u8>>,
    /// Whether some of them could not be read.
    pub refused: bool,
}

impl Mapping {
    /// Whether it is memory that the process shares with a guest.
    #[must_use]
    pub fn is_guests(&self) -> bool {
        self.name.starts_with("/memfd:")
    }

    /// Whether it is the kernel's and the same in every process: `[vvar]`, `[vdso]`, `[vsyscall]`.
    #[must_use]
    pub fn is_kernels(&self) -> bool {
        self.name.starts_with("[v")
    }

    /// Whether it is memory that the kernel keeps from everybody else.
    #[must_use]
    pub fn is_secret(&self) -> bool {
        self.name.starts_with("/secretmem")
    }

    /// Whether the kernel says so of it.
    #[must_use]
    pub fn is(&self, flag: &str) -> bool {
        self.flags.iter().any(|found| found == flag)
    }

    /// How often `bytes` is in it.
    #[must_use]
    pub fn count(&self, bytes: &[u8]) -> usize {
        self.pieces.iter().map(|piece| count(piece, bytes)).sum()
    }
}

/// How often `wanted` is in `bytes`.
#[must_use]
pub fn count(bytes: &[u8], wanted: &[u8]) -> usize {
    let Some(first) = wanted.first() else {
        return 0;
    };
    bytes
        .iter()
        .enumerate()
        .filter(|(at, byte)| *byte == first && bytes[*at..].starts_with(wanted))
        .count()
}

/// Which of `wanted` are in `bytes`, wherever they begin. For many at once.
#[must_use]
pub fn which(bytes: &[u8], wanted: &BTreeSet<[u8; 16]>) -> BTreeSet<[u8; 16]> {
    let place = |start: &[u8]| usize::from(start[0]) << 8 | usize::from(start[1]);
    let mut begins = vec![false; 1 << 16];
    for piece in wanted {
        begins[place(piece)] = true;
    }
    let windows = bytes.windows(16).filter(|window| begins[place(window)]);
    windows.filter_map(|window| wanted.get(window)).copied().collect()
}

/// All mappings that process `pid` may read, of itself or of a guest.
///
/// # Panics
///
/// If the caller is not root, the process is gone, or the kernel does not say which pages there are.
#[must_use]
pub fn mappings(pid: Pid) -> Vec<Mapping> {
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps")).expect("root may look");
    let memory = File::open(format!("/proc/{pid}/mem")).expect("root may look");
    let mut all: Vec<Mapping> = Vec::new();
    for line in smaps.lines() {
        if let Some(flags) = line.strip_prefix("VmFlags:") {
            let last = all.last_mut().expect("a mapping comes before what is said of it");
            last.flags = flags.split_whitespace().map(str::to_owned).collect();
        } else if let Some((addresses, name)) = first_line(line) {
            all.push(Mapping {
                addresses,
                name,
                flags: Vec::new(),
                pieces: Vec::new(),
                refused: false,
            });
        }
    }
    all.retain(|mapping| mapping.is("rd"));
    let pagemap = File::open(format!("/proc/{pid}/pagemap")).expect("root may look");
    for mapping in &mut all {
        for pages in present(&pagemap, mapping) {
            let len = usize::try_from(pages.end - pages.start).expect("what exists fits into memory");
            let mut bytes = vec![0; len];
            match memory.read_exact_at(&mut bytes, pages.start) {
                Ok(()) => mapping.pieces.push(bytes),
                Err(_) => mapping.refused = true,
            }
        }
    }
    all
}

/// The stretches of `mapping` that are in memory or in swap.
fn present(pagemap: &File, mapping: &Mapping) -> Vec<Range<u64>> {
    let addresses = &mapping.addresses;
    let first = addresses.start / PAGE;
    let count = usize::try_from((addresses.end - addresses.start) / PAGE).expect("a mapping of ours");
    let mut entries = vec![0; count * 8];
    if let Err(error) = pagemap.read_exact_at(&mut entries, first * 8) {
        assert!(mapping.is_kernels(), "what there is of {mapping:x?}: {error}");
        return Vec::new();
    }
    let mut found: Vec<Range<u64>> = Vec::new();
    for (page, entry) in (first..).zip(entries.as_chunks::<8>().0) {
        // Bit 63 is for memory, bit 62 for swap: Documentation/admin-guide/mm/pagemap.rst.
        if u64::from_ne_bytes(*entry) >> 62 == 0 {
            continue;
        }
        let start = page * PAGE;
        match found.last_mut() {
            Some(last) if last.end == start => last.end = start + PAGE,
            _ => found.push(start..start + PAGE),
        }
    }
    found
}

/// Addresses and name, if `line` is the first of a mapping.
fn first_line(line: &str) -> Option<(Range<u64>, String)> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let address = |text| u64::from_str_radix(text, 16).ok();
    let addresses = address(start)?..address(end)?;
    Some((addresses, words.nth(4).unwrap_or_default().to_owned()))
}

/// What of `all` could not be read though it is neither the kernel's nor secret.
#[must_use]
pub fn unread(all: &[Mapping]) -> Vec<&str> {
    all.iter()
        .filter(|mapping| mapping.refused && !mapping.is_kernels() && !mapping.is_secret())
        .map(|mapping| mapping.name.as_str())
        .collect()
}
