//! What is not in memory: the places of base and overlay that a request needs and that storage has still to deliver.
//!
//! A worker never waits for storage as long as there is another way: it executes a request without patience, and whatever
//! would have to be waited for is noted here, for somebody else to wait for ([`crate::warmer`]). The request is executed
//! again from its beginning when that is done, which does no harm, since it has not been answered.

use crate::transfer::Patience;
use std::io;

/// Most places noted for one request: more than a write has parts of clusters, of which each segment of a write of zeros has two
/// at most. A read that needs more finds the others at its next attempt.
const MOST: usize = 64;

/// Where bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Base,
    Overlay,
}

/// Bytes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) part: Part,
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

/// A worker's patience, and what it did not wait for.
#[derive(Debug)]
pub(crate) struct Cold {
    patience: Patience,
    places: Vec<Place>,
}

impl Default for Cold {
    fn default() -> Self {
        Self {
            patience: Patience::Endless,
            places: Vec::new(),
        }
    }
}

impl Cold {
    /// An attempt at a request begins, which waits so long.
    pub(crate) fn begin(&mut self, patience: Patience) {
        self.patience = patience;
        // Of an attempt that ended otherwise.
        self.places.clear();
    }

    /// How long to wait.
    pub(crate) fn patience(&self) -> Patience {
        self.patience
    }

    /// Notes the place from which was `read`, if it would have had to be waited for.
    pub(crate) fn note(&mut self, read: &io::Result<()>, part: Part, offset: u64, bytes: u64) {
        let is_cold = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
        if read.as_ref().is_err_and(is_cold) && self.places.len() < MOST {
            self.places.push(Place { part, offset, bytes });
        }
    }

    /// What was noted, which is forgotten.
    pub(crate) fn take(&mut self) -> Vec<Place> {
        std::mem::take(&mut self.places)
    }
}
