//! A worker: a thread that drains its rings, and watches over the control thread while there is nothing to drain.

use crate::bell::{Bell, Came, Patience};
use crate::disk::Disk;
use crate::overlay::Scratch;
use crate::pace::Pace;
use crate::ring::Ring;
use crate::staff::Task;
use crate::watch::Watch;
use protocol::launch::ExitCode;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

/// Rounds of looking at rings after which the bell is looked at too: rings that nobody looks at must not wait long for their
/// kicks to be noticed, and a look at the bell costs about as much as a small request.
const ROUNDS: u32 = 16;

/// What a worker has to do.
pub(crate) struct Draining {
    /// The rings that ring its bell.
    pub(crate) rings: Vec<Arc<Ring>>,
    pub(crate) disk: Arc<Disk>,
    pub(crate) scratch: Scratch,
    pub(crate) watch: Arc<Watch>,
    /// How many watch over the control thread.
    pub(crate) watchers: u32,
}

impl Task for Draining {
    fn run(mut self, bell: &Bell) -> nix::Result<Infallible> {
        let mut look_at = vec![false; self.rings.len()];
        let mut pace = Pace::new(Instant::now());
        let mut round = 0u32;
        loop {
            let sleeps = !look_at.contains(&true);
            if sleeps || round.is_multiple_of(ROUNDS) {
                self.wait(bell, sleeps, &mut look_at)?;
                if sleeps {
                    pace.woken();
                }
            }
            round = round.wrapping_add(1);
            self.look(&mut look_at, &mut pace);
        }
    }
}

impl Draining {
    /// Waits for kicks, if it may, and marks the rings that have them.
    fn wait(&self, bell: &Bell, sleeps: bool, look_at: &mut [bool]) -> nix::Result<()> {
        let patience = match (sleeps, self.watch.is_on()) {
            (false, _) => Patience::None,
            (true, true) => Patience::Short,
            (true, false) => Patience::Endless,
        };
        let came = bell.wait(patience, |kicked| {
            for (ring, look) in self.rings.iter().zip(&mut *look_at) {
                *look |= ring.index() == kicked;
            }
        })?;
        if came == Came::Nothing && patience == Patience::Short && self.watch.is_overdue(self.watchers) {
            log::error!("a frontend keeps the control thread waiting; the disk is burnt");
            policy::signals::exit_now(ExitCode::Stalled.number());
        }
        Ok(())
    }

    /// Gives each marked ring its turn, and marks those to be looked at again.
    fn look(&mut self, look_at: &mut [bool], pace: &mut Pace) {
        let mut found = false;
        // Whoever looks again soon need not be kicked.
        let must_kick = !pace.is_looking();
        for (ring, look) in self.rings.iter().zip(look_at) {
            if *look | ring.take_nudge() {
                let at = ring.turn(&self.disk, &mut self.scratch, must_kick);
                found |= at.some;
                *look = at.look_again;
            }
        }
        if !must_kick {
            let now = Instant::now();
            if found {
                pace.found(now);
            }
            // When it does not go on, the next round, in vain, makes drivers kick again.
            pace.goes_on(now);
        }
    }
}
