//! The files that a process holds, as `/proc/PID/fd` and `/proc/PID/fdinfo` show them.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

/// One open file of another process.
#[derive(Debug)]
pub struct OpenFile {
    /// The descriptor's number.
    pub number: u32,
    /// How it was opened.
    pub access: Access,
    /// Where the kernel says it is.
    pub target: String,
    /// Device and inode.
    pub identity: (u64, u64),
    /// How many names it has.
    pub names: u64,
    /// Its permission bits.
    pub mode: u32,
}

/// How a file was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// `O_RDONLY`.
    ReadOnly,
    /// `O_WRONLY`.
    WriteOnly,
    /// `O_RDWR`.
    ReadWrite,
}

impl Access {
    /// As in the flags that `fdinfo` shows, in octal.
    fn from_flags(flags: u32) -> Self {
        match flags & 3 {
            0 => Self::ReadOnly,
            1 => Self::WriteOnly,
            _ => Self::ReadWrite,
        }
    }

    /// In words.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::ReadOnly => "read-only",
            Self::WriteOnly => "write-only",
            Self::ReadWrite => "read-write",
        }
    }
}

impl OpenFile {
    /// What it is, for one that has no place: "socket", "eventfd" and so on.
    #[must_use]
    pub fn kind(&self) -> &str {
        let kind = self.target.strip_prefix("anon_inode:").unwrap_or(&self.target);
        kind.split(":[").next().unwrap_or(kind).trim_matches(['[', ']'])
    }

    /// Whether it is a file that once had, or has, a place in a file system, other than the nothing in `/dev/null`.
    #[must_use]
    pub fn is_in_a_file_system(&self) -> bool {
        self.target.starts_with('/') && self.target != "/dev/null" && !self.target.starts_with("/memfd:")
    }
}

/// All that process `pid` holds, in order.
///
/// # Errors
///
/// If it is not there, or hides its files from us.
pub fn of(pid: u32) -> io::Result<Vec<OpenFile>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let name = entry?.file_name();
        let number = name.to_string_lossy().parse().map_err(io::Error::other)?;
        // One that was closed meanwhile is not held.
        if let Ok(file) = look(pid, number) {
            files.push(file);
        }
    }
    files.sort_by_key(|file: &OpenFile| file.number);
    Ok(files)
}

fn look(pid: u32, number: u32) -> io::Result<OpenFile> {
    let path = format!("/proc/{pid}/fd/{number}");
    let metadata = fs::metadata(&path)?;
    let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}"))?;
    let flags = info
        .lines()
        .find_map(|line| line.strip_prefix("flags:"))
        .unwrap_or_default();
    let flags = u32::from_str_radix(flags.trim(), 8).map_err(io::Error::other)?;
    Ok(OpenFile {
        number,
        access: Access::from_flags(flags),
        target: fs::read_link(&path)?.to_string_lossy().into_owned(),
        identity: (metadata.dev(), metadata.ino()),
        names: metadata.nlink(),
        mode: metadata.mode() & 0o7777,
    })
}
