//! A worker: a thread that drains its rings, and watches over the control thread while there is nothing to drain.

use crate::bell::{Bell, Sleep};
use crate::disk::{Disk, Later};
use crate::overlay::Scratch;
use crate::pace::Pace;
use crate::ring::Ring;
use crate::staff::Task;
use crate::stats::{Tally, Waited};
use crate::watch::{LOOK, Watcher};
use protocol::launch::ExitCode;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Rounds of looking at rings after which the bell is looked at too: rings that nobody looks at must not wait long for their
/// kicks to be noticed, and a look at the bell costs about as much as a small request.
const ROUNDS: u32 = 16;

/// The longest that a ring is left alone before somebody looks whether it still has to be: a debt may be of years.
const LONGEST: Duration = Duration::from_secs(1);

/// What a worker has to do.
pub(crate) struct Draining {
    /// The rings that ring its bell.
    pub(crate) rings: Vec<Arc<Ring>>,
    pub(crate) disk: Arc<Disk>,
    pub(crate) scratch: Scratch,
    pub(crate) tally: Tally,
    pub(crate) watcher: Watcher,
    /// How long it may look for requests before it sleeps.
    pub(crate) poll: Duration,
}

/// What a worker knows of one of its rings between two turns.
#[derive(Clone, Copy, Debug, Default)]
struct Attention {
    /// It is to be looked at.
    look: bool,
    /// It is to be left alone for now, whoever kicks it.
    pause: Option<Pause>,
}

/// Why, since when, and until when.
#[derive(Clone, Copy, Debug)]
struct Pause {
    why: Waited,
    since: Instant,
    until: Instant,
}

impl Attention {
    /// Its driver kicked it. One that is left alone is looked at afterwards anyway.
    fn kicked(&mut self) {
        self.look |= self.pause.is_none();
    }

    /// Ends the pause if it is time for that.
    fn expire(&mut self, now: Instant) {
        self.look |= self.pause.is_some_and(|pause| pause.until <= now);
    }
}

impl Task for Draining {
    fn run(mut self, bell: &Bell) -> nix::Result<Infallible> {
        let mut attention = vec![Attention::default(); self.rings.len()];
        let mut pace = Pace::new(Instant::now(), self.poll);
        let mut round = 0u32;
        loop {
            let sleeps = !attention.iter().any(|ring| ring.look);
            if sleeps || round.is_multiple_of(ROUNDS) {
                self.wait(bell, sleeps, &mut attention)?;
                if sleeps {
                    pace.woken();
                }
            }
            round = round.wrapping_add(1);
            self.look(&mut attention, &mut pace);
        }
    }
}

impl Draining {
    /// Waits for kicks, if it may, and marks the rings that have them, or that were left alone for long enough.
    fn wait(&mut self, bell: &Bell, sleeps: bool, attention: &mut [Attention]) -> nix::Result<()> {
        let until = attention
            .iter()
            .filter_map(|ring| ring.pause)
            .map(|pause| pause.until)
            .min();
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let sleep = match (sleeps, self.watcher.is_on(), left) {
            (false, _, _) => Sleep::None,
            (true, true, left) if left.is_none_or(|left| left >= LOOK) => Sleep::Short,
            (true, _, Some(left)) => Sleep::AtMost(left),
            (true, _, None) => Sleep::Endless,
        };
        bell.wait(sleep, |kicked| {
            for (ring, attention) in self.rings.iter().zip(&mut *attention) {
                if ring.index() == kicked {
                    attention.kicked();
                }
            }
        })?;
        // Also by who never waits that long: a guest that keeps a queue held or busy must not blind its watcher.
        if self.watcher.is_overdue() {
            log::error!("a frontend keeps the control thread waiting; the disk is burnt");
            policy::signals::exit_now(ExitCode::Stalled.number());
        }
        if until.is_some() {
            let now = Instant::now();
            for ring in attention {
                ring.expire(now);
            }
        }
        Ok(())
    }

    /// Gives each marked ring its turn, and marks those to be looked at again.
    fn look(&mut self, attention: &mut [Attention], pace: &mut Pace) {
        let mut found = 0_u32;
        // Whoever looks again soon need not be kicked.
        let must_kick = !pace.is_looking();
        for (ring, attention) in self.rings.iter().zip(attention) {
            if attention.look | ring.take_nudge() {
                if let Some(pause) = attention.pause.take() {
                    self.tally.waited(pause.why, pause.since.elapsed());
                }
                let at = ring.turn(&self.disk, &mut self.scratch, &mut self.tally, must_kick);
                found += u32::from(at.requests);
                attention.look = at.look_again;
                attention.pause = at.later.map(Pause::begin);
            }
        }
        if !must_kick {
            let now = Instant::now();
            if found > 0 {
                pace.found(now, found);
            }
            // When it does not go on, the next round, in vain, makes drivers kick again.
            pace.goes_on(now);
        }
    }
}

impl Pause {
    fn begin(later: Later) -> Self {
        let now = Instant::now();
        Self {
            why: later.why,
            since: now,
            // What overflows the clock is as good as the longest look.
            until: now.checked_add(later.time.min(LONGEST)).unwrap_or(now),
        }
    }
}
