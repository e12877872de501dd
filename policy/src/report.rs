//! What was achieved, layer by layer, with the kernel's own words as evidence. A value: this crate prints nothing.

use serde::Serialize;
use std::fmt;

use crate::fds::Descriptor;
use crate::probe::ThreadEvidence;

/// One layer of the confinement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Layer {
    /// Its name, as documentation and tests use it.
    pub name: &'static str,
    /// Whether the process would have refused to start without it.
    pub required: bool,
    /// Whether it is in force.
    pub achieved: bool,
    /// What the kernel reported, or why it is not in force.
    pub evidence: String,
}

impl Layer {
    /// A required layer that was read back; one that does not hold never becomes a `Layer` but a `StepError`.
    pub(crate) fn required(name: &'static str, evidence: impl Into<String>) -> Self {
        Self {
            name,
            required: true,
            achieved: true,
            evidence: evidence.into(),
        }
    }

    /// A layer that is put in place where permitted: its evidence, or why it is not there.
    pub(crate) fn where_permitted(name: &'static str, result: Result<String, String>) -> Self {
        let achieved = result.is_ok();
        let evidence = match result {
            Ok(evidence) | Err(evidence) => evidence,
        };
        Self {
            name,
            required: false,
            achieved,
            evidence,
        }
    }
}

/// Everything that holds for this process.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// The layers, in the order in which they were put in place.
    pub layers: Vec<Layer>,
    /// What is open, the standard streams included. Verified to be exact when the process was sealed.
    pub descriptors: Vec<Descriptor>,
    /// How many lines the filter's table has.
    pub filter_lines: usize,
    /// What each thread read back for itself.
    pub threads: Vec<ThreadEvidence>,
}

impl Report {
    /// Adds what a worker thread read back for itself.
    pub fn add_thread(&mut self, thread: ThreadEvidence) {
        self.threads.push(thread);
    }

    /// The layer of that name, if the process got as far as trying it.
    #[must_use]
    pub fn layer(&self, name: &str) -> Option<&Layer> {
        self.layers.iter().find(|layer| layer.name == name)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<18} {:<15} {:<8} evidence", "layer", "tier", "in force")?;
        for layer in &self.layers {
            let tier = if layer.required { "required" } else { "where permitted" };
            let achieved = if layer.achieved { "yes" } else { "NO" };
            writeln!(f, "{:<18} {tier:<15} {achieved:<8} {}", layer.name, layer.evidence)?;
        }
        writeln!(f, "filter: {} lines", self.filter_lines)?;
        for descriptor in &self.descriptors {
            writeln!(f, "descriptor {:>3}: {}", descriptor.number, descriptor.what)?;
        }
        for thread in &self.threads {
            writeln!(f, "thread {thread}")?;
        }
        Ok(())
    }
}
