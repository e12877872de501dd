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
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Serialize;

use crate::helper::beside_this_test;
use rule::{Plan, Told};

pub use rule::{Call, Rule, When};

/// What goes wrong with one program.
#[derive(Debug)]
pub struct Faults {
    plan: PathBuf,
    told: PathBuf,
    number: Cell<u64>,
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
        replace(&told, &Told::default()).expect("the place can be written");
        let faults = Self {
            plan,
            told,
            number: Cell::new(0),
        };
        faults.clear();
        faults
    }

    /// What runs a program under these faults, if it comes before the program's own command line.
    #[must_use]
    pub fn words(&self) -> [PathBuf; 3] {
        [beside_this_test("faulty"), self.plan.clone(), self.told.clone()]
    }

    /// A command that runs `program` so, ready for its arguments. It has no descriptor above 2: those that another test's helper
    /// is to inherit are inheritable for a moment, and would take numbers that rules name.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        const CLOSE: &str =
            "for fd in /proc/$$/fd/*; do fd=${fd##*/}; [ $fd -le 2 ] || eval \"exec $fd>&-\"; done; exec \"$@\"";
        let mut command = Command::new("bash");
        command.args(["-c", CLOSE, "bash"]).args(self.words()).arg(program);
        command
    }

    /// From now on this goes wrong, and nothing else.
    ///
    /// # Panics
    ///
    /// If its place is gone.
    pub fn set(&self, rules: &[Rule]) {
        self.set_seeded(0, rules);
    }

    /// The same, where what happens at random is determined by `seed`.
    ///
    /// # Panics
    ///
    /// If its place is gone.
    pub fn set_seeded(&self, seed: u64, rules: &[Rule]) {
        self.number.set(self.number.get() + 1);
        let plan = Plan {
            number: self.number.get(),
            seed,
            rules: rules.to_vec(),
        };
        replace(&self.plan, &plan).expect("the place can be written");
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
        let text = fs::read(&self.told).expect("it stays as long as its place");
        let told: Told = serde_json::from_slice(&text).expect("the tracer writes JSON");
        if told.plan == self.number.get() {
            told.spoilt
        } else {
            Vec::new()
        }
    }
}

/// Writes a file anew, in one step for whoever reads it: never is there a half.
fn replace(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, serde_json::to_vec(value)?)?;
    fs::rename(new, path)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::place::Place;

    #[test]
    fn nobody_reads_half_a_plan() {
        let place = Place::with_noise(4096, 1);
        let faults = Faults::new(place.dir());
        let path = faults.plan.clone();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let text = fs::read(&path).unwrap();
                    let plan: Plan = serde_json::from_slice(&text).unwrap();
                    // Long ones and short ones.
                    assert_eq!(plan.rules.len(), if plan.number % 2 == 1 { 0 } else { 50 });
                }
            });
            for _ in 0..500 {
                faults.set(&vec![Rule::fail(&[Call::Pread], 5); 50]);
                faults.clear();
            }
            done.store(true, Ordering::Relaxed);
        });
    }
}
