//! Processes as root sees them under `/proc`: who they are, what they hold, what they may do, how much memory they use.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use tests::files::{self, OpenFile};

/// What a check may start, by the names that the kernel knows.
const OURS: [&str; 4] = ["mayfly", "mayfly-vmm", "blk-helper", "qemu-system-x86"];

/// A process that was there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) name: String,
}

/// What a process uses, in KiB.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Memory {
    /// The pages of its program's file.
    pub(crate) program_kib: u64,
    /// Everything else.
    pub(crate) other_kib: u64,
}

impl Process {
    pub(crate) fn at(pid: u32) -> Self {
        let name = read(pid, "comm");
        Self {
            pid,
            name: name.trim_end().to_owned(),
        }
    }

    /// All files it holds.
    pub(crate) fn files(&self) -> Vec<OpenFile> {
        files::of(self.pid).unwrap_or_else(|error| panic!("cannot list the files of {self:?}: {error}"))
    }

    /// The inodes of its sockets, each once.
    pub(crate) fn sockets(&self) -> BTreeSet<u64> {
        let files = self.files().into_iter().filter(|file| file.kind() == "socket");
        files.map(|file| file.identity.1).collect()
    }

    /// Its own memory: Pss, which divides what is shared among those who share it, without the guest's memory.
    pub(crate) fn own_memory(&self) -> Memory {
        let program = fs::read_link(format!("/proc/{}/exe", self.pid)).expect("root may see it");
        let mut memory = Memory::default();
        let mut file = String::new();
        for line in read(self.pid, "smaps").lines() {
            match line.split_once(':') {
                Some(("Pss", kib)) => {
                    let kib = kib.trim().trim_end_matches(" kB");
                    let kib: u64 = kib.parse().expect("Pss is a number of kB");
                    match file.as_str() {
                        path if path.starts_with("/memfd:") => {}
                        path if Path::new(path) == program => memory.program_kib += kib,
                        _ => memory.other_kib += kib,
                    }
                }
                // The first line of a mapping: its addresses, and at the end what is mapped.
                _ if line.starts_with(|letter: char| letter.is_ascii_hexdigit() && !letter.is_uppercase()) => {
                    file = line.splitn(6, ' ').nth(5).unwrap_or_default().trim().to_owned();
                }
                _ => {}
            }
        }
        assert_ne!(memory.other_kib, 0, "{self:?} has no memory");
        memory
    }

    /// Each of its threads is nobody, may nothing, and has a filter.
    pub(crate) fn assert_confined(&self) {
        let none = "0000000000000000";
        let wanted = [
            ("CapInh:", none),
            ("CapPrm:", none),
            ("CapEff:", none),
            ("CapAmb:", none),
            ("NoNewPrivs:", "1"),
            ("Seccomp:", "2"),
        ];
        for task in fs::read_dir(format!("/proc/{}/task", self.pid)).expect("it is still there") {
            let status = fs::read_to_string(task.expect("it is still there").path().join("status"));
            let status = status.expect("it is still there");
            let value = |name: &str| {
                status
                    .lines()
                    .find_map(|line| line.strip_prefix(name))
                    .unwrap_or("")
                    .trim()
            };
            for (name, wanted) in wanted {
                assert_eq!(value(name), wanted, "{name} of {self:?}:\n{status}");
            }
            for name in ["Uid:", "Gid:"] {
                let ids = value(name).split_ascii_whitespace().collect::<Vec<_>>();
                assert!(ids.len() == 4 && !ids.contains(&"0"), "{name} of {self:?}:\n{status}");
            }
        }
    }
}

/// The processes whose parent is `pid`.
pub(crate) fn children_of(pid: u32) -> Vec<Process> {
    all()
        .into_iter()
        .filter(|(_, parent)| *parent == pid)
        .map(|(process, _)| process)
        .collect()
}

/// What is still there of a check after a while.
pub(crate) fn left_behind(patience: Duration) -> Vec<Process> {
    let end = Instant::now() + patience;
    loop {
        let processes = all().into_iter().map(|(process, _)| process);
        let left: Vec<_> = processes
            .filter(|process| OURS.contains(&process.name.as_str()))
            .collect();
        if left.is_empty() || Instant::now() > end {
            return left;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Every process, with its parent.
fn all() -> Vec<(Process, u32)> {
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc is mounted").map_while(Result::ok) {
        let Ok(pid) = entry.file_name().to_string_lossy().parse() else {
            continue;
        };
        let status = read(pid, "status");
        let value = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        // One that ended meanwhile has no status.
        if let (Some(name), Some(parent)) = (value("Name:"), value("PPid:")) {
            let process = Process {
                pid,
                name: name.to_owned(),
            };
            all.push((process, parent.parse().expect("PPid is a number")));
        }
    }
    all
}

/// `/proc/PID/name`; nothing if the process ended.
fn read(pid: u32, name: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default()
}
