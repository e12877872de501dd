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

/// How long a helper may take to answer. It answers in microseconds unless it is stuck with its frontend, which it leaves
/// after 5 s; this is for the operator who waits, and a guess.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why there is no answer.
#[derive(Debug, Error)]
pub(crate) enum ControlError {
    #[error("cannot reach the helper")]
    Channel(#[source] Errno),
    #[error("the helper closed its control channel")]
    Closed,
    #[error("the helper did not answer within {} s", PATIENCE.as_secs())]
    Silent,
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
        match self.ask(Command::Status, None)? {
            Answer::Status(status) => Ok(status),
            Answer::Attached => Err(ControlError::Other),
        }
    }

    /// Gives the helper a new frontend.
    ///
    /// # Errors
    /// [`ControlError`].
    pub(crate) fn attach(&mut self, frontend: &OwnedFd) -> Result<(), ControlError> {
        match self.ask(Command::Attach, Some(frontend))? {
            Answer::Attached => Ok(()),
            Answer::Status(_) => Err(ControlError::Other),
        }
    }

    fn ask(&mut self, command: Command, descriptor: Option<&OwnedFd>) -> Result<Answer, ControlError> {
        self.asked = self.asked.wrapping_add(1);
        let packet = Request::new(self.asked, command).encode();
        let numbers: Vec<_> = descriptor.iter().map(|fd| fd.as_raw_fd()).collect();
        let rights = [ControlMessage::ScmRights(&numbers)];
        let beside = if numbers.is_empty() { &[][..] } else { &rights[..] };
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        sendmsg::<UnixAddr>(self.socket.as_raw_fd(), &[IoSlice::new(&packet)], beside, flags, None)
            .map_err(ControlError::Channel)?;
        let end = Instant::now() + PATIENCE;
        loop {
            let reply = self.receive(end)?;
            // The answer to a question that was given up on comes first.
            if reply.id == Some(self.asked) {
                return match reply.outcome {
                    Outcome::Ok(answer) => Ok(answer),
                    Outcome::Error(text) => Err(ControlError::Refused(text)),
                };
            }
        }
    }

    fn receive(&self, end: Instant) -> Result<Reply, ControlError> {
        // One byte more than there may be, so that a message which is too long shows.
        let mut packet = [0; MAX_BYTES + 1];
        loop {
            match recv(self.socket.as_raw_fd(), &mut packet, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => return Err(ControlError::Closed),
                Ok(count) => {
                    return Reply::decode(packet.get(..count).unwrap_or_default()).map_err(ControlError::Message);
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    let left = end.saturating_duration_since(Instant::now());
                    let mut event = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
                    let limit = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
                    if left.is_zero() || poll(&mut event, limit) == Ok(0) {
                        return Err(ControlError::Silent);
                    }
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
    fn what_goes_wrong_is_told_apart() {
        let (mut control, theirs) = Control::pair().unwrap();

        answer(&theirs, &Reply::error(Some(1), "busy"));
        assert!(matches!(control.status(), Err(ControlError::Refused(text)) if text == "busy"));
        answer(&theirs, &Reply::ok(2, Answer::Attached));
        assert!(matches!(control.status(), Err(ControlError::Other)));
        send(theirs.as_raw_fd(), b"{", MsgFlags::empty()).unwrap();
        assert!(matches!(control.status(), Err(ControlError::Message(_))));
        assert!(matches!(control.status(), Err(ControlError::Silent)));
        drop(theirs);
        assert!(matches!(
            control.status(),
            Err(ControlError::Channel(_) | ControlError::Closed)
        ));
    }
}
