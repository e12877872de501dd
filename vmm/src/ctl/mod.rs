//! `mayfly ctl`: the operator of a helper that runs already, for as long as one order takes.
//!
//! Reading order. What is wanted: `args`. The connection is [`crate::channel`]; orders that are answered at once are here, those
//! that take time in `long`. How it is told: `show` for people, `prometheus` for Prometheus, JSON as `protocol` has it.
//!
//! A helper may have been taken over by its guest: what it says is read by `protocol`, which leaves nothing in words that
//! steers a terminal, and believed as far as it is about the helper itself.

pub(crate) mod args;
pub(crate) mod code;
mod long;
mod prometheus;
pub(crate) mod show;

use self::args::{Ctl, Order};
use self::code::Code;
use crate::channel::{Channel, ChannelError, ORDER_PATIENCE};
use crate::keep::commit::CommitError;
use crate::keep::fresh::FreshError;
use crate::signals::{self, Signals};
use log::error;
use nix::errno::Errno;
use nix::sys::signal::Signal;
use policy::logging::chain;
use protocol::control::{Answer, Command, ResizeRequest, Stats, Status};
use serde::Serialize;
use std::io::{self, Write};
use std::path::PathBuf;
use thiserror::Error;

/// Why an order was not carried out.
#[derive(Debug, Error)]
enum CtlError {
    #[error("{}", socket.display())]
    Channel {
        socket: PathBuf,
        #[source]
        source: ChannelError,
    },
    #[error("{0}")]
    Usage(&'static str),
    #[error(transparent)]
    Output(#[from] FreshError),
    #[error("{}", .0.effect())]
    Commit(#[source] CommitError),
    #[error("the helper could not save the disk: {0}")]
    Save(String),
    #[error("called off by {0}; nothing is left of it")]
    Told(Signal),
    #[error("cannot print the answer")]
    Print(#[source] io::Error),
    #[error("cannot wait for what happens")]
    Wait(#[source] Errno),
}

impl CtlError {
    /// What `exit` gets.
    fn code(&self) -> u8 {
        let code = match self {
            Self::Channel { source, .. } => match source {
                ChannelError::Refused(_) | ChannelError::Stranger(_) => Code::Refused,
                ChannelError::Unreachable(_)
                | ChannelError::Disguise(..)
                | ChannelError::Unknown(_)
                | ChannelError::Closed
                | ChannelError::Silent(_)
                | ChannelError::Message(_)
                | ChannelError::Other => Code::Unreachable,
            },
            Self::Usage(_) => Code::Usage,
            Self::Output(FreshError::System { .. } | FreshError::Unsynced { .. })
            | Self::Commit(CommitError::File(FreshError::System { .. } | FreshError::Unsynced { .. })) => Code::Failed,
            Self::Output(_) | Self::Commit(_) => Code::Refused,
            Self::Print(error) if error.kind() == io::ErrorKind::BrokenPipe => return signals::code(Signal::SIGPIPE),
            Self::Save(_) | Self::Print(_) | Self::Wait(_) => Code::Failed,
            Self::Told(signal) => return signals::code(*signal),
        };
        code.number()
    }
}

/// An order, from the command line to the exit code.
pub(crate) fn main(ctl: Ctl) -> u8 {
    std::panic::set_hook(Box::new(|panic| {
        error!("a bug: {panic}");
        policy::signals::exit_now(Code::Panicked.number());
    }));
    match run(ctl) {
        Ok(()) => Code::Done.number(),
        Err(error) => {
            // Nobody is left to be told that nobody is left.
            if error.code() != signals::code(Signal::SIGPIPE) {
                error!("{}", chain(&error));
            }
            error.code()
        }
    }
}

fn run(ctl: Ctl) -> Result<(), CtlError> {
    if let Order::Save(save) = &ctl.order
        && let Some(contradiction) = save.contradiction()
    {
        return Err(CtlError::Usage(contradiction));
    }
    let channel =
        Channel::connect(&ctl.socket, ctl.trust_user.map(|user| user.0)).map_err(|source| CtlError::Channel {
            socket: ctl.socket.clone(),
            source,
        })?;
    let mut client = Client {
        channel,
        socket: ctl.socket,
        json: ctl.json,
    };
    match ctl.order {
        Order::Status => client.show_status(),
        Order::Stats { watch: true, .. } => client.watch(&client.signals()?),
        Order::Stats { prometheus, .. } => client.show_stats(prometheus),
        Order::Events => client.events(&client.signals()?),
        Order::Save(save) => client.save(&save, &client.signals()?),
        Order::Commit { base, new_owner } => client.commit(&base, new_owner, &client.signals()?),
        Order::Reset => client.order(Command::Reset, &Answer::Reset, "reset", "the disk is as the base again"),
        Order::SetLimits(limits) => client.set_limits(Command::SetLimits(limits.change())),
        Order::Resize { size } => {
            let disk_bytes = size.0;
            let command = Command::Resize(ResizeRequest { disk_bytes });
            client.order(command, &Answer::Resized, "resize", "the disk has its new size")
        }
        Order::Stop => client.order(
            Command::Stop,
            &Answer::Stopping,
            "stop",
            "the helper ends, and its disk has burnt",
        ),
    }
}

/// What is printed of an order that has no other answer.
#[derive(Serialize)]
struct Done<'a> {
    done: &'a str,
}

/// A connection, and how its answers are wanted.
#[derive(Debug)]
struct Client {
    channel: Channel,
    socket: PathBuf,
    json: bool,
}

impl Client {
    fn signals(&self) -> Result<Signals, CtlError> {
        Signals::take().map_err(CtlError::Wait)
    }

    /// What is wrong with the connection.
    fn lost(&self, source: ChannelError) -> CtlError {
        CtlError::Channel {
            socket: self.socket.clone(),
            source,
        }
    }

    fn call(&mut self, command: Command) -> Result<Answer, CtlError> {
        let answer = self.channel.call(command, ORDER_PATIENCE);
        answer.map_err(|source| self.lost(source))
    }

    fn status(&mut self) -> Result<Status, CtlError> {
        let Answer::Status(status) = self.call(Command::Status)? else {
            return Err(self.lost(ChannelError::Other));
        };
        Ok(*status)
    }

    fn stats(&mut self) -> Result<Stats, CtlError> {
        let Answer::Stats(stats) = self.call(Command::Stats)? else {
            return Err(self.lost(ChannelError::Other));
        };
        Ok(*stats)
    }

    fn show_status(&mut self) -> Result<(), CtlError> {
        let status = self.status()?;
        self.tell(&status, || show::status(&status))
    }

    fn show_stats(&mut self, prometheus: bool) -> Result<(), CtlError> {
        let stats = self.stats()?;
        if prometheus {
            let status = self.status()?;
            return print(&prometheus::text(&self.socket, &status, &stats));
        }
        self.tell(&stats, || show::stats(&stats))
    }

    fn set_limits(&mut self, command: Command) -> Result<(), CtlError> {
        let Answer::Limited(limits) = self.call(command)? else {
            return Err(self.lost(ChannelError::Other));
        };
        self.tell(&limits, || show::limits(&limits))
    }

    fn order(&mut self, command: Command, wanted: &Answer, done: &str, words: &str) -> Result<(), CtlError> {
        if self.call(command)? != *wanted {
            return Err(self.lost(ChannelError::Other));
        }
        self.tell(&Done { done }, || format!("{words}\n"))
    }

    /// Prints a line of JSON, or the words for people.
    fn tell(&self, answer: &impl Serialize, words: impl FnOnce() -> String) -> Result<(), CtlError> {
        if !self.json {
            return print(&words());
        }
        let mut line = serde_json::to_string(answer).map_err(|error| CtlError::Print(error.into()))?;
        line.push('\n');
        print(&line)
    }
}

fn print(text: &str) -> Result<(), CtlError> {
    let mut stdout = io::stdout().lock();
    let printed = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    printed.map_err(CtlError::Print)
}
