//! Faults below a program: system calls that fail, or move fewer bytes than they were asked to, when a test says so.
//!
//! The program is the real one, confined as ever; it runs under `faulty`, a program of this crate that traces it ([`tracer`]). What
//! goes wrong is a list of [`Rule`]s, which a test changes while the program runs: from the moment [`Faults::set`] returns, every
//! call that begins is under the new ones.
//!
//! Knows nothing of disks; what a descriptor is a test finds in the program's report.

pub mod disk;
pub mod rule;
mod tracee;
pub mod tracer;

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Serialize;

use crate::helper::beside_this_test;
use rule::{Plan, Told};

pub use rule::{Call, Rule, When};

/// How long the file of a plan is. Plans and what is told of them are written at once, at one place, so that nobody reads a half.
const PLAN_BYTES: usize = 4096;

/// What goes wrong with one program.
#[derive(Debug)]
pub struct Faults {
    plan: PathBuf,
    told: PathBuf,
    number: Cell<u64>,
    file: File,
}

impl Faults {
    /// Nothing yet; there will be two files in `dir`.
    ///
    /// # Panics
    ///
    /// If `dir` cannot be written.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        let (plan, told) = (dir.join("faults-plan"), dir.join("faults-told"));
        let file = File::create(&plan).expect("the place can be written");
        File::create(&told)
            .and_then(|file| file.write_all_at(&padded(&Told::default()), 0))
            .expect("the place can be written");
        let faults = Self {
            plan,
            told,
            number: Cell::new(0),
            file,
        };
        faults.clear();
        faults
    }

    /// What runs a program under these faults, if it comes before the program's own command line.
    #[must_use]
    pub fn words(&self) -> [PathBuf; 3] {
        [beside_this_test("faulty"), self.plan.clone(), self.told.clone()]
    }

    /// A command that runs `program` so, ready for its arguments.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let [faulty, plan, told] = self.words();
        let mut command = Command::new(faulty);
        command.args([plan, told]).arg(program);
        command
    }

    /// From now on this goes wrong, and nothing else.
    ///
    /// # Panics
    ///
    /// If there are more rules than anybody writes.
    pub fn set(&self, rules: &[Rule]) {
        self.set_seeded(0, rules);
    }

    /// The same, where what happens at random is determined by `seed`.
    ///
    /// # Panics
    ///
    /// If there are more rules than anybody writes.
    pub fn set_seeded(&self, seed: u64, rules: &[Rule]) {
        self.number.set(self.number.get() + 1);
        let plan = Plan {
            number: self.number.get(),
            seed,
            rules: rules.to_vec(),
        };
        self.file
            .write_all_at(&padded(&plan), 0)
            .expect("the place can be written");
    }

    /// From now on nothing goes wrong.
    pub fn clear(&self) {
        self.set(&[]);
    }

    /// How many calls went wrong since [`Self::set`], rule by rule.
    ///
    /// # Panics
    ///
    /// If its file is gone.
    #[must_use]
    pub fn spoilt(&self) -> Vec<u64> {
        let read = || {
            let text = std::fs::read(&self.told).expect("it stays as long as its place");
            serde_json::from_slice::<Told>(text.trim_ascii_end())
        };
        // A half of it may be there: not every file system writes and reads at one moment.
        let told = (0..1000).find_map(|_| read().ok()).expect("the tracer writes JSON");
        if told.plan == self.number.get() {
            told.spoilt
        } else {
            Vec::new()
        }
    }
}

/// Text of a constant length.
fn padded(value: &impl Serialize) -> Vec<u8> {
    let mut text = serde_json::to_vec(value).expect("plain values become JSON");
    assert!(text.len() <= PLAN_BYTES, "a handful of rules is enough");
    text.resize(PLAN_BYTES, b' ');
    text
}
