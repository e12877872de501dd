//! Requests that wait for storage: popped, not answered, and out of the way of those behind them.
//!
//! A parked request keeps its chain, and with that the guest memory it lies in; whoever takes the memory away empties the
//! parking first ([`crate::ring::Ring::quiesce`]). It is executed again from its beginning, its chain walked anew.
//!
//! Knows nothing of what a request does.

use crate::bell::Nudge;
use crate::chain::HeldChain;
use crate::cold::Place;
use crate::transfer::Patience;
use crate::warmer::{Delivered, Warmer};
use std::sync::Arc;
use std::time::Instant;

/// Most requests of a ring that wait at a time; the ring is not popped while there are so many. Four times the depth at which
/// most storage is at its best: a guess.
const MOST: usize = 128;

/// Attempts without patience. What was delivered may be evicted again before it is read; after so many the worker waits itself.
const ATTEMPTS: u32 = 3;

/// A request that waits.
#[derive(Debug)]
pub(crate) struct Parked {
    pub(crate) chain: HeldChain,
    /// When it was taken up.
    pub(crate) begun: Instant,
    delivered: Delivered,
    attempts: u32,
}

impl Parked {
    /// How long its next attempt may wait.
    pub(crate) fn patience(&self) -> Patience {
        if self.attempts < ATTEMPTS {
            Patience::None
        } else {
            Patience::Endless
        }
    }
}

/// The requests of one ring that wait.
#[derive(Debug)]
pub(crate) struct Parking {
    warmer: Arc<Warmer>,
    nudge: Arc<Nudge>,
    parked: Vec<Parked>,
}

impl Parking {
    /// An empty one, of the ring behind `nudge`.
    pub(crate) fn new(warmer: Arc<Warmer>, nudge: Arc<Nudge>) -> Self {
        Self {
            warmer,
            nudge,
            parked: Vec::new(),
        }
    }

    /// Whether nobody waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.parked.is_empty()
    }

    /// Whether no more may wait.
    pub(crate) fn is_full(&self) -> bool {
        self.parked.len() >= MOST
    }

    /// Lets a request wait for `places` that was taken up at `begun`.
    pub(crate) fn park(&mut self, chain: HeldChain, begun: Instant, places: Vec<Place>) {
        self.add(chain, begun, places, 1);
    }

    /// Lets a request wait once more.
    pub(crate) fn park_again(&mut self, parked: Parked, places: Vec<Place>) {
        self.add(parked.chain, parked.begun, places, parked.attempts.saturating_add(1));
    }

    fn add(&mut self, chain: HeldChain, begun: Instant, places: Vec<Place>, attempts: u32) {
        self.parked.push(Parked {
            chain,
            begun,
            delivered: self.warmer.ask(places, &self.nudge),
            attempts,
        });
    }

    /// A request that has waited long enough, if there is one.
    pub(crate) fn take_ready(&mut self) -> Option<Parked> {
        let ready = self.parked.iter().position(|parked| parked.delivered.is_true())?;
        Some(self.parked.remove(ready))
    }

    /// A request, whether or not it has waited long enough.
    pub(crate) fn take_any(&mut self) -> Option<Parked> {
        if self.is_empty() {
            return None;
        }
        self.warmer.forget(&self.nudge);
        Some(self.parked.remove(0))
    }

    /// Forgets all: their ring is broken, and there is nowhere to answer.
    pub(crate) fn clear(&mut self) {
        self.parked.clear();
        // Else a ring that is broken and started again and again would pile them up while storage is slow.
        self.warmer.forget(&self.nudge);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bell::Bell;
    use crate::cold::Part;

    #[test]
    fn a_ring_that_forgets_its_requests_leaves_nothing_asked_for() {
        let bell = || Arc::new(Bell::new().unwrap());
        let warmer = Arc::new(Warmer::new(bell()));
        let rings = [(); 2].map(|()| Arc::new(Nudge::new(bell())));
        let place = || {
            vec![Place {
                part: Part::Base,
                offset: 0,
                bytes: 4096,
            }]
        };
        let mut parkings = rings
            .each_ref()
            .map(|nudge| Parking::new(Arc::clone(&warmer), Arc::clone(nudge)));
        for _ in 0..1000 {
            let _ = warmer.ask(place(), &rings[0]);
            parkings[0].clear();
        }
        let _ = warmer.ask(place(), &rings[1]);
        assert_eq!(warmer.waiting(), 1);

        parkings[1].clear();

        assert_eq!(warmer.waiting(), 0);
    }
}
