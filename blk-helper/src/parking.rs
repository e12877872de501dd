//! Requests that wait for storage: popped, not answered, and out of the way of those behind them.
//!
//! A parked request keeps its chain, and with that the guest memory it lies in; whoever takes the memory away empties the
//! parking first ([`crate::ring::Ring::quiesce`]). It is executed again from its beginning, its chain walked anew.
//!
//! One that may have to be held for want of space, and for that must stay in the ring, waits *in its place*: its ring is not popped
//! until storage has delivered, and all that is kept here is what it waits for.
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

/// What a request waits for.
#[derive(Debug)]
pub(crate) struct Wait {
    /// When the request was taken up.
    pub(crate) begun: Instant,
    delivered: Delivered,
    /// How often it was executed in vain.
    attempts: u32,
}

impl Wait {
    /// How long the next attempt may wait.
    pub(crate) fn patience(&self) -> Patience {
        if self.attempts < ATTEMPTS {
            Patience::None
        } else {
            Patience::Endless
        }
    }
}

/// A request that waits.
#[derive(Debug)]
pub(crate) struct Parked {
    pub(crate) chain: HeldChain,
    pub(crate) wait: Wait,
}

/// The requests of one ring that wait.
#[derive(Debug)]
pub(crate) struct Parking {
    warmer: Arc<Warmer>,
    nudge: Arc<Nudge>,
    parked: Vec<Parked>,
    /// What the next request of the ring waits for in its place.
    next: Option<Wait>,
}

impl Parking {
    /// An empty one, of the ring behind `nudge`.
    pub(crate) fn new(warmer: Arc<Warmer>, nudge: Arc<Nudge>) -> Self {
        Self {
            warmer,
            nudge,
            parked: Vec::new(),
            next: None,
        }
    }

    /// Whether no request is parked.
    pub(crate) fn is_empty(&self) -> bool {
        self.parked.is_empty()
    }

    /// Whether the ring is not to be popped: as many as may wait do, or its next request waits in its place.
    pub(crate) fn keeps_ring(&self) -> bool {
        self.parked.len() >= MOST || self.next.as_ref().is_some_and(|next| !next.delivered.is_true())
    }

    /// What the request that was just popped had waited for in its place, if it had.
    pub(crate) fn take_next(&mut self) -> Option<Wait> {
        self.next.take()
    }

    /// Lets a request wait for `places` that was taken up at `begun`.
    pub(crate) fn park(&mut self, chain: HeldChain, begun: Instant, places: Vec<Place>) {
        let wait = self.wait(begun, places, None);
        self.parked.push(Parked { chain, wait });
    }

    /// Lets a request wait once more.
    pub(crate) fn park_again(&mut self, parked: Parked, places: Vec<Place>) {
        let Parked { chain, wait } = parked;
        let wait = self.wait(wait.begun, places, Some(&wait));
        self.parked.push(Parked { chain, wait });
    }

    /// Lets the ring's next request wait in its place, where it was put back, perhaps once more.
    pub(crate) fn keep_next(&mut self, begun: Instant, places: Vec<Place>, before: Option<&Wait>) {
        self.next = Some(self.wait(begun, places, before));
    }

    fn wait(&self, begun: Instant, places: Vec<Place>, before: Option<&Wait>) -> Wait {
        Wait {
            begun,
            delivered: self.warmer.ask(places, &self.nudge),
            attempts: before.map_or(0, |wait| wait.attempts).saturating_add(1),
        }
    }

    /// A request that has waited long enough, if there is one.
    pub(crate) fn take_ready(&mut self) -> Option<Parked> {
        let ready = self.parked.iter().position(|parked| parked.wait.delivered.is_true())?;
        Some(self.parked.remove(ready))
    }

    /// A request, whether or not it has waited long enough.
    pub(crate) fn take_any(&mut self) -> Option<Parked> {
        if self.is_empty() {
            return None;
        }
        self.forget();
        Some(self.parked.remove(0))
    }

    /// Forgets all: their ring is broken, and there is nowhere to answer; or it was stopped, and the next request may be another.
    pub(crate) fn clear(&mut self) {
        self.parked.clear();
        // Else a ring that is stopped and started again and again would pile them up while storage is slow.
        self.forget();
    }

    /// Nothing that was asked for is needed any more.
    fn forget(&mut self) {
        self.next = None;
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
            parkings[0].keep_next(Instant::now(), place(), None);
            parkings[0].clear();
        }
        let _ = warmer.ask(place(), &rings[1]);
        assert_eq!(warmer.waiting(), 1);

        parkings[1].clear();

        assert_eq!(warmer.waiting(), 0);
    }

    #[test]
    fn a_ring_waits_for_its_next_request_until_it_is_forgotten_and_not_for_ever() {
        let bell = || Arc::new(Bell::new().unwrap());
        let mut parking = Parking::new(Arc::new(Warmer::new(bell())), Arc::new(Nudge::new(bell())));
        let mut before = None;
        for attempt in 1..=ATTEMPTS {
            parking.keep_next(Instant::now(), Vec::new(), before.as_ref());
            assert!(parking.keeps_ring() && parking.is_empty());
            before = parking.take_next();
            assert!(!parking.keeps_ring());
            let is_last = before.as_ref().is_some_and(|wait| wait.patience() == Patience::Endless);
            assert_eq!(is_last, attempt == ATTEMPTS);
        }
        parking.keep_next(Instant::now(), Vec::new(), None);

        parking.clear();

        assert!(!parking.keeps_ring());
    }
}
