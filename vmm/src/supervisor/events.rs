//! What can happen, and waiting for it. The list is made anew from the state each time, so that interest in something and the
//! state that it depends on cannot disagree.
//!
//! `poll` and not `epoll`: standard input may be a file, of which epoll will not hear, and there are few descriptors.

use super::child::Child;
use super::console::Console;
use super::crew::Crew;
use crate::signals::Signals;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// Something that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A signal came.
    Signal,
    /// A disk's helper said or did something.
    Helper(usize, Stream),
    /// A disk's helper answered.
    Answer(usize),
    /// The VMM said or did something.
    Machine(Stream),
    /// Something was typed.
    Input,
    /// The guest takes what was typed.
    Typed,
    /// The guest printed something.
    Printed,
    /// Somebody takes what the guest printed.
    Output,
}

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    /// It is on its way to READY.
    Ready,
    /// It logged something.
    Log,
    /// It ended.
    Exit,
}

/// Waits until something happened, `limit` at most. In the order in which it should be dealt with: what a process said before
/// that it ended, and the end of a helper before that of the VMM, which may follow from it.
///
/// # Errors
/// There is no memory left.
pub(crate) fn wait(signals: &Signals, crew: &Crew, console: &Console, limit: Duration) -> Result<Vec<Source>, Errno> {
    let mut watched: Vec<(Source, BorrowedFd<'_>, PollFlags)> =
        vec![(Source::Signal, signals.as_fd(), PollFlags::POLLIN)];
    for (index, helper) in crew.helpers.iter().enumerate() {
        if let Some(helper) = helper {
            watched.extend(
                streams(&helper.child).map(|(stream, event)| (Source::Helper(index, stream), event, PollFlags::POLLIN)),
            );
            let answer = helper.control.event();
            watched.extend(answer.map(|event| (Source::Answer(index), event, PollFlags::POLLIN)));
        }
    }
    if let Some(machine) = &crew.machine {
        watched.extend(streams(machine).map(|(stream, event)| (Source::Machine(stream), event, PollFlags::POLLIN)));
    }
    for (source, event, flags) in [
        (Source::Printed, console.printed_event(), PollFlags::POLLIN),
        (Source::Output, console.output_event(), PollFlags::POLLOUT),
        (Source::Input, console.input_event(), PollFlags::POLLIN),
        (Source::Typed, console.typed_event(), PollFlags::POLLOUT),
    ] {
        watched.extend(event.map(|event| (source, event, flags)));
    }
    let mut events: Vec<_> = watched
        .iter()
        .map(|(_, event, flags)| PollFd::new(*event, *flags))
        .collect();
    match poll(&mut events, timeout(crew, limit)) {
        Ok(_) => {}
        Err(Errno::EINTR) => return Ok(Vec::new()),
        Err(errno) => return Err(errno),
    }
    let happened = watched
        .iter()
        .zip(&events)
        .filter(|(_, event)| event.any().unwrap_or(true));
    Ok(happened.map(|((source, _, _), _)| *source).collect())
}

/// Not longer than until a process that said too much may be heard again.
fn timeout(crew: &Crew, limit: Duration) -> PollTimeout {
    let logs = crew.processes().filter_map(|child| child.log().wait());
    let controls = crew.helpers.iter().flatten().filter_map(|helper| helper.control.wait());
    let shortest = logs.chain(controls).fold(limit, Duration::min);
    // Rounded up: a wait of less than a millisecond would be none, over and over.
    PollTimeout::try_from(shortest.saturating_add(Duration::from_millis(1))).unwrap_or(PollTimeout::MAX)
}

/// What to watch of a process.
fn streams(child: &Child) -> impl Iterator<Item = (Stream, BorrowedFd<'_>)> {
    let all = [
        (Stream::Ready, child.ready_event()),
        (Stream::Log, child.log().event()),
        (Stream::Exit, child.exit_event()),
    ];
    all.into_iter()
        .filter_map(|(stream, event)| event.map(|event| (stream, event)))
}
