//! What a run does about each thing that happens; what ends the run is returned.
//!
//! Nothing here waits for longer than a helper may take to say how it is (`control::PATIENCE`), which C-a c and C-a s ask, and a
//! commit for a lock (half a second).

use super::Run;
use crate::supervisor::child::Child;
use crate::supervisor::console::Gone;
use crate::supervisor::end::End;
use crate::supervisor::events::{Source, Stream};
use crate::supervisor::keys::{self, Action};
use crate::supervisor::socket_identity::SocketIdentity;
use crate::supervisor::status;
use nix::sys::signal::Signal;
use std::process::ExitStatus;
use std::time::Instant;

impl Run<'_> {
    /// Deals with one thing that happened.
    pub(super) fn handle(&mut self, source: Source) -> Option<End> {
        match source {
            Source::Signal => self.heed_signals(),
            Source::Helper(index, stream) => self.hear_helper(index, stream),
            Source::Answer(index) => {
                self.hear_control(index);
                None
            }
            Source::Machine(stream) => {
                self.hear_machine(stream);
                None
            }
            // A C-c came before what was typed after it, perhaps since signals were looked at.
            Source::Input => self.heed_signals().or_else(|| self.take_input()),
            Source::Typed => {
                self.console.write_typed();
                None
            }
            Source::Printed => {
                self.console.read_printed();
                None
            }
            Source::Output => self.console.write_output().err().map(end_of),
        }
    }

    fn take_input(&mut self) -> Option<End> {
        match self.console.read_input() {
            Ok(actions) => actions.into_iter().find_map(|action| self.act(action)),
            Err(gone) => Some(end_of(gone)),
        }
    }

    fn heed_signals(&mut self) -> Option<End> {
        while let Some(signal) = self.signals.next() {
            if signal == Signal::SIGINT && self.asked.is_some() {
                // C-c at a question while the guest runs is an answer to it.
                if let Some(answer) = self.console.give_up_asking() {
                    self.act(answer);
                }
                continue;
            }
            if signal != Signal::SIGCONT {
                return Some(End::Told(signal));
            }
            if self.console.is_asking() {
                continue;
            }
            if let Some(raw) = &self.raw
                && raw.again().is_err()
            {
                return Some(End::TerminalGone);
            }
        }
        None
    }

    fn hear_helper(&mut self, index: usize, stream: Stream) -> Option<End> {
        let helper = self.crew.helpers.get_mut(index)?.as_mut()?;
        let disk = self.plan.disks.get(index)?;
        let status = hear(&mut helper.child, stream, self.verbose);
        if helper.socket.is_none() && helper.child.is_ready() == Some(true) {
            helper.socket = disk.control.as_deref().and_then(SocketIdentity::at);
        }
        Some(End::HelperEnded {
            disk: disk.name.clone(),
            status: status?,
        })
    }

    fn hear_machine(&mut self, stream: Stream) {
        let Some(machine) = &mut self.crew.machine else {
            return;
        };
        if let Some(status) = hear(machine, stream, self.verbose) {
            self.gone = Some((status, Instant::now()));
            self.console.hang_up();
        }
    }

    /// Does what a key asks for.
    fn act(&mut self, action: Action) -> Option<End> {
        match action {
            Action::Quit => return Some(End::Quit),
            Action::Help => self.console.show(keys::HELP),
            Action::Save => self.ask_to_keep(),
            Action::Answer(line) => self.take_answer(&line),
            Action::Status => {
                let text = status::text(self.plan, &mut self.crew, self.began, self.reboots);
                self.console.show(&text);
                self.hear_kept();
            }
        }
        None
    }
}

/// Deals with what a process says; how it ended, if that is what it says.
fn hear(child: &mut Child, stream: Stream, verbose: bool) -> Option<ExitStatus> {
    match stream {
        Stream::Ready => child.read_ready(),
        Stream::Log => child.relay(verbose),
        Stream::Exit => {
            let status = child.look()?;
            child.hear_rest(verbose);
            return Some(status);
        }
    }
    None
}

const fn end_of(gone: Gone) -> End {
    match gone {
        Gone::Terminal => End::TerminalGone,
        Gone::Output => End::OutputGone,
    }
}
