//! Whether a copy that another process makes gets on. That process may have been taken over, and say "not yet" for ever: it is
//! believed as long as what it says grows.
//!
//! Knows no clock and no channel: it is told how much is done, and when that was heard.

use std::fmt;
use std::time::{Duration, Instant};

/// How long nothing may be added. Storage that takes longer for a megabyte will not get a disk done; a guess.
pub(crate) const IDLE_MAX: Duration = Duration::from_secs(300);

/// The same before the first byte and after the last: a file system may then be at work that nobody sees, on taking back what
/// a reset left, or on bringing what was copied onto its medium. As much as there is memory for, at a slow disk's pace; a
/// guess.
pub(crate) const UNSEEN_MAX: Duration = Duration::from_secs(3600);

/// The most that counts between two looks: whoever looks may have been stopped itself (C-z), and must not blame others for it.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// It does not get on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stuck {
    /// What was done is less than before.
    Back,
    /// Nothing was added for this long.
    Idle(Duration),
}

impl fmt::Display for Stuck {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Back => write!(to, "what it says makes no sense: less was done than before"),
            Self::Idle(most) => write!(to, "nothing was added for {} minutes", most.as_secs() / 60),
        }
    }
}

/// How far a copy is.
#[derive(Clone, Debug)]
pub(crate) struct Headway {
    done: u64,
    idle: Duration,
    looked: Instant,
}

impl Headway {
    /// A copy that begins now.
    pub(crate) const fn begin(now: Instant) -> Self {
        Self {
            done: 0,
            idle: Duration::ZERO,
            looked: now,
        }
    }

    /// Notes that `done` bytes are said to be done, of `total` where there may be work besides.
    ///
    /// # Errors
    /// [`Stuck`].
    pub(crate) fn note(&mut self, done: u64, total: Option<u64>, now: Instant) -> Result<(), Stuck> {
        let pause = now.saturating_duration_since(self.looked).min(PAUSE_MAX);
        self.looked = now;
        if done < self.done {
            return Err(Stuck::Back);
        }
        if done > self.done {
            self.done = done;
            self.idle = Duration::ZERO;
            return Ok(());
        }
        self.idle = self.idle.saturating_add(pause);
        let is_unseen = total.is_some_and(|total| done == 0 || done == total);
        let most = if is_unseen { UNSEEN_MAX } else { IDLE_MAX };
        if self.idle > most {
            return Err(Stuck::Idle(most));
        }
        Ok(())
    }
}

#[cfg(test)]
impl Headway {
    /// As if nothing had been added for this long.
    pub(crate) fn rest(&mut self, idle: Duration) {
        self.idle = idle;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOTAL: Option<u64> = Some(1000);

    /// What comes of a copy that says this, at these times.
    fn copy(said: impl IntoIterator<Item = (u64, u64)>) -> Result<(), Stuck> {
        let begun = Instant::now();
        let mut headway = Headway::begin(begun);
        said.into_iter()
            .try_for_each(|(second, done)| headway.note(done, TOTAL, begun + Duration::from_secs(second)))
    }

    #[test]
    fn a_slow_copy_may_take_for_ever_and_one_that_stands_may_not() {
        copy((0..1000).flat_map(|step| (0..6).map(move |look| (step * 299 + look * 50, step)))).unwrap();
        copy((0..=300).map(|second| (second, 7))).unwrap();
        assert_eq!(copy((0..=302).map(|second| (second, 7))), Err(Stuck::Idle(IDLE_MAX)));
    }

    #[test]
    fn what_is_before_and_after_the_copy_may_take_a_while() {
        for done in [0, 1000] {
            copy((0..=3600).map(|second| (second, done))).unwrap();
            let stuck = copy((0..=3602).map(|second| (second, done)));
            assert_eq!(stuck, Err(Stuck::Idle(UNSEEN_MAX)));
        }
        let begun = Instant::now();
        let mut headway = Headway::begin(begun);
        let mut looks = (0..=302).map(|second| headway.note(0, None, begun + Duration::from_secs(second)));
        assert_eq!(
            looks.find_map(Result::err),
            Some(Stuck::Idle(IDLE_MAX)),
            "who has no such work"
        );
    }

    #[test]
    fn nobody_is_blamed_for_a_pause_of_ours() {
        copy([(0, 7), (100_000, 7), (100_001, 7)]).unwrap();
    }

    #[test]
    fn what_goes_back_is_not_believed() {
        assert_eq!(copy([(0, 7), (1, 6)]), Err(Stuck::Back));
    }
}
