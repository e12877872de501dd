//! C-a s: what the operator wants kept while the guest runs.
//!
//! A question is asked with the terminal as shells have it, so that a line can be edited; what the guest prints waits meanwhile.
//! What was typed before is thrown away: a guest can make a terminal type, by printing what terminals answer to, and must not
//! answer for the operator.

use super::Run;
use crate::supervisor::decision;
use crate::supervisor::fate::Fate;
use policy::logging::chain;
use protocol::control::SaveStatus;

/// What the operator was asked while the guest runs.
#[derive(Clone, Copy, Debug)]
pub(super) enum Asked {
    /// Which disk to keep.
    Which,
    /// How to keep this one.
    How(usize),
    /// Whether to call off what is under way.
    Cancel,
}

impl Run<'_> {
    /// C-a s.
    pub(super) fn ask_to_keep(&mut self) {
        let disks = self.keepable();
        if let Some(keeping) = &self.keeping {
            let far = keeping.progress().map_or_else(String::new, percent);
            let text = format!(
                "mayfly: disk {} is being kept{far}; cancel to call that off (nothing: go on): ",
                self.name(keeping.disk)
            );
            self.ask(Asked::Cancel, &text);
        } else if let [disk] = disks[..] {
            self.ask_how(disk);
        } else if disks.is_empty() {
            self.console.show("mayfly: there is no disk that could be kept\n");
        } else {
            let names: Vec<_> = disks.iter().filter_map(|disk| self.disk(*disk)).collect();
            let names: Vec<_> = names.iter().map(|disk| disk.device.as_str()).collect();
            let text = format!("mayfly: keep which disk: {} (nothing: go on)? ", names.join(", "));
            self.ask(Asked::Which, &text);
        }
    }

    fn ask_how(&mut self, disk: usize) {
        let text = format!(
            "mayfly: disk {}, as it is now: commit, or save=PATH (nothing: go on)? ",
            self.name(disk)
        );
        self.ask(Asked::How(disk), &text);
    }

    fn ask(&mut self, what: Asked, text: &str) {
        if self.console.ask(self.raw.as_ref(), text) {
            self.asked = Some(what);
        }
    }

    /// The operator's answer, while the guest runs.
    pub(super) fn take_answer(&mut self, line: &str) {
        let line = line.trim();
        let Some(asked) = self.asked.take() else {
            // At the end of the run, where it is waited for.
            self.answer = Some(line.to_owned());
            return;
        };
        if let Some(raw) = &self.raw {
            // A terminal that is gone shows when it is read next.
            let _ = raw.again();
        }
        let outcome = match asked {
            _ if line.is_empty() => Ok(()),
            Asked::Which => {
                let named = |disk: &usize| self.disk(*disk).is_some_and(|disk| disk.device == line);
                match self.keepable().into_iter().find(named) {
                    Some(disk) => return self.ask_how(disk),
                    None => Err(format!("{line:?} is none of the disks")),
                }
            }
            Asked::How(disk) => match line.parse() {
                Ok(Fate::Burn) => Err("it burns at the end of the run".to_owned()),
                Ok(fate) => match decision::forestalled(self.plan, &self.on_exit, &fate) {
                    Some(why) => Err(why),
                    None => self.begin_to_keep(disk, &fate).map_err(|error| chain(&error)),
                },
                Err(error) => Err(error),
            },
            Asked::Cancel if line == "cancel" => {
                self.call_off();
                Ok(())
            }
            Asked::Cancel => Err(format!("{line:?} is not cancel")),
        };
        if let Err(error) = outcome {
            self.console.show(&format!("mayfly: {error}; nothing was done\n"));
        }
    }
}

fn percent(save: &SaveStatus) -> String {
    let hundredth = (save.total_bytes / 100).max(1);
    format!(" ({} %)", (save.done_bytes / hundredth).min(100))
}
