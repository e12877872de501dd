//! Saves that somebody else began (`mayfly ctl`): a helper does one at a time, and who needs it next waits for that one. It is
//! believed as our own is, as long as it gets on ([`Headway`]).

use super::keep::KeepOutcome;
use super::{Run, Waited};
use crate::channel::{ChannelError, ORDER_PATIENCE};
use crate::keep::headway::{Headway, Stuck};
use crate::progress::Progress;
use crate::supervisor::control::PATIENCE;
use log::{error, info};
use policy::logging::chain;
use protocol::control::{SaveState, SaveStatus};
use std::time::{Duration, Instant};

/// Between two looks at such a save.
const LOOK: Duration = Duration::from_millis(100);

/// How long the helper stays when it has ended, so that who began it learns of that and gives the file its name: `mayfly ctl` asks
/// five times a second.
const LEARN: Duration = Duration::from_secs(1);

/// The save of somebody else that was seen last.
#[derive(Debug, Default)]
pub(super) struct Other(Option<(u64, Headway)>);

/// What a look at it shows.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// None is running, or the helper cannot be asked.
    Free,
    /// It gets on.
    Running(SaveStatus),
    /// It does not.
    Stuck(Stuck),
    /// The helper did not answer.
    Silent,
}

impl Other {
    fn note(&mut self, save: Option<SaveStatus>, now: Instant) -> Seen {
        let Some(save) = save.filter(|save| save.state == SaveState::Running) else {
            return Seen::Free;
        };
        let known = self.0.take().filter(|(number, _)| *number == save.number);
        let (number, headway) = self.0.insert(known.unwrap_or((save.number, Headway::begin(now))));
        debug_assert_eq!(*number, save.number, "it is the one that was seen last");
        match headway.note(save.done_bytes, Some(save.total_bytes), now) {
            Ok(()) => Seen::Running(save),
            Err(stuck) => Seen::Stuck(stuck),
        }
    }
}

impl Run<'_> {
    /// Looks whether a save is running on a disk, which must not be ours.
    pub(super) fn look_at(&mut self, disk: usize, other: &mut Other) -> Seen {
        let Some(Some(helper)) = self.crew.helpers.get_mut(disk) else {
            return Seen::Free;
        };
        let control = &mut helper.control;
        let asked = control.ask_status();
        match asked.and_then(|question| control.status(question, Instant::now() + PATIENCE)) {
            Ok(status) => other.note(status.save, Instant::now()),
            Err(ChannelError::Silent(_)) => Seen::Silent,
            // Who asks for more hears why not.
            Err(_) => Seen::Free,
        }
    }

    /// Waits until no save of somebody else's is running on a disk; what came of keeping it, if it shall not be begun.
    pub(super) fn until_free(&mut self, disk: usize) -> Result<(), KeepOutcome> {
        let outcome = self.until_other_ends(disk);
        self.progress = None;
        outcome
    }

    fn until_other_ends(&mut self, disk: usize) -> Result<(), KeepOutcome> {
        let mut other = Other::default();
        let mut answered = Instant::now();
        let mut was_running = false;
        loop {
            let seen = self.look_at(disk, &mut other);
            let is_silent = seen == Seen::Silent;
            match seen {
                Seen::Running(save) => {
                    if !was_running {
                        was_running = true;
                        self.begin_to_wait(disk);
                    }
                    if let Some(progress) = &mut self.progress {
                        progress.show(save.done_bytes, save.total_bytes);
                    }
                }
                Seen::Stuck(stuck) => {
                    let name = self.name(disk);
                    error!("disk {name} was not kept: the save that is running there does not get on: {stuck}");
                    return Err(KeepOutcome::Failed);
                }
                Seen::Silent if answered.elapsed() < ORDER_PATIENCE => {}
                Seen::Free if was_running => return self.pause(LEARN),
                Seen::Free | Seen::Silent => return Ok(()),
            }
            if !is_silent {
                answered = Instant::now();
            }
            self.pause(LOOK)?;
        }
    }

    fn begin_to_wait(&mut self, disk: usize) {
        let name = self.name(disk);
        info!("disk {name}: a save that mayfly ctl began is still running; waiting for its end");
        self.progress = Some(Progress::new(format!("disk {name}, for mayfly ctl"), true));
    }

    /// Waits that long, unless that is called off.
    fn pause(&mut self, pause: Duration) -> Result<(), KeepOutcome> {
        match self.wait_for(pause, |_| false) {
            Ok(Waited::End(end)) if end.calls_off() => Err(KeepOutcome::CalledOff { is_kept: false }),
            Ok(Waited::Done | Waited::TooLong | Waited::End(_)) => Ok(()),
            Err(error) => {
                error!("{}", chain(&error));
                Err(KeepOutcome::Failed)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keep::headway::IDLE_MAX;

    fn save(number: u64, done_bytes: u64, state: SaveState) -> Option<SaveStatus> {
        Some(SaveStatus {
            number,
            state,
            done_bytes,
            total_bytes: 1000,
            pause_us: 0,
        })
    }

    #[test]
    fn a_save_of_somebody_else_is_waited_for_as_long_as_it_gets_on() {
        let begun = Instant::now();
        let mut other = Other::default();
        let mut look = |second, save| other.note(save, begun + Duration::from_secs(second));
        assert_eq!(look(0, None), Seen::Free);
        assert_eq!(look(0, save(1, 1000, SaveState::Done)), Seen::Free);
        for second in (0..3000).step_by(50) {
            let running = save(2, 1 + second / 250, SaveState::Running);
            assert_eq!(look(second, running.clone()), Seen::Running(running.unwrap()));
        }
        // Another one, which has done less.
        let mut last = Seen::Free;
        for second in (3000..=3350).step_by(50) {
            last = look(second, save(3, 7, SaveState::Running));
        }
        assert_eq!(last, Seen::Stuck(Stuck::Idle(IDLE_MAX)));
    }
}
