//! The supervisor's end of a helper's control channel: one question, one answer, within a time. Knows the messages
//! ([`protocol::control`]), not what follows from them.

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, recv, sendmsg, socketpair,
};
use protocol::control::{Answer, Command, MAX_BYTES, MessageError, Outcome, Reply, Request, Status};
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};
use thiserror::Error;

/// How long a helper may take to say how it is. It answers in microseconds unless it is stuck with its frontend, which it
/// leaves after 5 s; this is for the operator who waits, and a guess.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a helper may take to accept another frontend. It first finishes what the last one asked for, and gives a slow disk
/// 30 s for that: who gave up before would burn a disk that is only slow.
const PATIENCE_TO_ATTACH: Duration = Duration::from_secs(40);

/// Why there is no answer.
#[derive(Debug, Error)]
pub(crate) enum ControlError {
    #[error("cannot reach the helper")]
    Channel(#[source] Errno),
    #[error("the helper closed its control channel")]
    Closed,
    #[error("the helper did not answer within {} s", .0.as_secs())]
    Silent(Duration),
    #[error("cannot understand the helper's answer")]
    Message(#[source] MessageError),
    #[error("the helper refused: {0}")]
    Refused(String),
    #[error("the helper answered something else")]
    Other,
}

/// A channel.
#[derive(Debug)]
pub(crate) struct Control {
    socket: OwnedFd,
    asked: u64,
}

impl Control {
    /// A new channel, and the helper's end of it.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub(crate) fn pair() -> Result<(Self, OwnedFd), Errno> {
        let (socket, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        Ok((Self { socket, asked: 0 }, theirs))
    }

    /// How the helper's disk is.
    ///
    /// # Errors
    /// [`ControlError`].
    pub(crate) fn status(&mut self) -> Result<Status, ControlError> {
        match self.ask(Command::Status, None, PATIENCE)? {
            Answer::Status(status) => Ok(status),
            Answer::Attached => Err(ControlError::Other),
        }
    }

    /// Gives the helper a new frontend.
    ///
    /// # Errors
    /// [`ControlError`].
    pub(crate) fn attach(&mut self, frontend: &OwnedFd) -> Result<(), ControlError> {
        match self.ask(Command::Attach, Some(frontend), PATIENCE_TO_ATTACH)? {
            Answer::Attached => Ok(()),
            Answer::Status(_) => Err(ControlError::Other),
        }
    }

    fn ask(
        &mut self,
        command: Command,
        descriptor: Option<&OwnedFd>,
        patience: Duration,
    ) -> Result<Answer, ControlError> {
        self.asked = self.asked.wrapping_add(1);
        let packet = Request::new(self.asked, command).encode();
        let numbers: Vec<_> = descriptor.iter().map(|fd| fd.as_raw_fd()).collect();
        let rights = [ControlMessage::ScmRights(&numbers)];
        let beside = if numbers.is_empty() { &[][..] } else { &rights[..] };
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        sendmsg::<UnixAddr>(self.socket.as_raw_fd(), &[IoSlice::new(&packet)], beside, flags, None)
            .map_err(ControlError::Channel)?;
        let end = Instant::now() + patience;
        loop {
            let Some(reply) = self.receive(end)? else {
                return Err(ControlError::Silent(patience));
            };
            // The answer to a question that was given up on comes first.
            if reply.id == Some(self.asked) {
                return match reply.outcome {
                    Outcome::Ok(answer) => Ok(answer),
                    Outcome::Error(text) => Err(ControlError::Refused(text)),
                };
            }
        }
    }

    /// The next reply, whatever it answers, or nothing if none came by `end`: a helper that a guest has taken over may send
    /// others without end.
    fn receive(&self, end: Instant) -> Result<Option<Reply>, ControlError> {
        // One byte more than there may be, so that a message which is too long shows.
        let mut packet = [0; MAX_BYTES + 1];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            match recv(self.socket.as_raw_fd(), &mut packet, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => return Err(ControlError::Closed),
                Ok(count) => {
                    let reply = Reply::decode(packet.get(..count).unwrap_or_default());
                    return reply.map(Some).map_err(ControlError::Message);
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    let mut event = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
                    let limit = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
                    // However it ends, the next look tells why.
                    let _ = poll(&mut event, limit);
                }
                Err(errno) => return Err(ControlError::Channel(errno)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::send;

    fn answer(theirs: &OwnedFd, reply: &Reply) {
        send(theirs.as_raw_fd(), &reply.encode(), MsgFlags::empty()).unwrap();
    }

    #[test]
    fn an_answer_that_comes_too_late_is_not_taken_for_the_next() {
        let (mut control, theirs) = Control::pair().unwrap();
        control.asked = 1;
        answer(&theirs, &Reply::error(Some(1), "late"));
        answer(&theirs, &Reply::ok(2, Answer::Attached));

        control.attach(&theirs).unwrap();
    }

    #[test]
    fn answers_to_what_nobody_asked_keep_nobody_waiting() {
        let (mut control, theirs) = Control::pair().unwrap();
        let packet = Reply::error(Some(77), "x").encode();
        // Two, so that there is always an answer waiting.
        let floods = [(); 2].map(|()| {
            let (theirs, packet) = (theirs.try_clone().unwrap(), packet.clone());
            std::thread::spawn(move || while send(theirs.as_raw_fd(), &packet, MsgFlags::MSG_NOSIGNAL).is_ok() {})
        });
        let begun = Instant::now();

        let outcome = control.status();

        assert!(matches!(outcome, Err(ControlError::Silent(PATIENCE))), "{outcome:?}");
        assert!(begun.elapsed() < PATIENCE * 3);
        drop(control);
        floods.into_iter().for_each(|flood| flood.join().unwrap());
    }

    #[test]
    fn what_goes_wrong_is_told_apart() {
        let (mut control, theirs) = Control::pair().unwrap();

        answer(&theirs, &Reply::error(Some(1), "busy"));
        assert!(matches!(control.status(), Err(ControlError::Refused(text)) if text == "busy"));
        answer(&theirs, &Reply::ok(2, Answer::Attached));
        assert!(matches!(control.status(), Err(ControlError::Other)));
        send(theirs.as_raw_fd(), b"{", MsgFlags::empty()).unwrap();
        assert!(matches!(control.status(), Err(ControlError::Message(_))));
        assert!(matches!(control.status(), Err(ControlError::Silent(PATIENCE))));
        drop(theirs);
        assert!(matches!(
            control.status(),
            Err(ControlError::Channel(_) | ControlError::Closed)
        ));
    }
}
