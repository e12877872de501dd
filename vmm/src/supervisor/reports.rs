//! `--report`: what each process said of itself when it was ready, a line of JSON for each.
//!
//! A confined process hides from its own user what it holds, so this is where to see it without being root. The lines are for
//! programs; a person has C-a c.

use super::child::Child;
use serde::Serialize;
use serde_json::Value;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// A line.
#[derive(Serialize)]
struct Line<'a> {
    process: &'a str,
    pid: u32,
    /// Nothing for QEMU, which is not ours.
    ready: Option<Value>,
}

/// The file, and whose lines are in it.
#[derive(Debug)]
pub(crate) struct Reports {
    file: File,
    told: HashSet<u32>,
}

impl Reports {
    /// Begins the file. Nothing is overwritten: it may be a FIFO or a terminal, but no disk and no file with content, which may
    /// be the disk's image.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let file = File::options().write(true).create(true).truncate(false).open(path)?;
        let there = file.metadata()?;
        if there.file_type().is_block_device() || there.is_file() && there.len() > 0 {
            let why = "it is there already, and nothing is ever overwritten";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
        }
        Ok(Self {
            file,
            told: HashSet::new(),
        })
    }

    /// Adds those processes, all of them ready, that are not in it yet.
    pub(crate) fn add<'c>(&mut self, processes: impl Iterator<Item = &'c Child>) -> io::Result<()> {
        for child in processes {
            let (process, pid) = (child.name(), child.pid());
            if self.told.insert(pid) {
                let ready = child.report().and_then(|report| serde_json::from_str(report).ok());
                let mut line = serde_json::to_string(&Line { process, pid, ready })?;
                line.push('\n');
                self.file.write_all(line.as_bytes())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_content_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let [image, empty] = ["image", "empty"].map(|name| dir.path().join(name));
        std::fs::write(&image, b"precious").unwrap();
        std::fs::write(&empty, b"").unwrap();

        let refused = Reports::create(&image).unwrap_err();

        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&image).unwrap(), b"precious");
        Reports::create(&empty).unwrap();
        Reports::create(&dir.path().join("new")).unwrap();
    }
}
