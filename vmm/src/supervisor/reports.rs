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
    /// Begins the file, over whatever was there.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        Ok(Self {
            file: File::create(path)?,
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
