//! The supervisor's end of a helper's control channel. Knows the messages ([`protocol::control`]), not what follows from them.
//!
//! Who asks a helper to take another frontend goes on listening to everything else ([`Control::event`]): it may take long. Who
//! asks how it is waits for that, since it is an operator who wants to know.

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, recv, sendmsg, socketpair,
};
use protocol::control::{Answer, Command, MAX_BYTES, MessageError, Outcome, Reply, Request, Status};
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};
use thiserror::Error;

/// How long helpers may take to say how they are, all together. They answer in microseconds unless they are stuck with their
/// frontends, which they leave after 5 s; this is for the operator who waits, and a guess.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

/// How long a helper may take to accept another frontend. It first finishes what the last one asked for, and gives a slow disk
/// 30 s for that: who gave up before would burn a disk that is only slow.
pub(crate) const PATIENCE_TO_ATTACH: Duration = Duration::from_secs(40);

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

/// What became of a frontend that was offered.
#[derive(Debug)]
enum Offer {
    /// The question of this number is not answered yet.
    Open(u64),
    /// The helper took the last one, or was never offered one.
    Taken,
    /// It did not.
    Failed(ControlError),
}

/// A question, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Question(u64);

/// A channel.
#[derive(Debug)]
pub(crate) struct Control {
    socket: OwnedFd,
    asked: u64,
    offer: Offer,
}

impl Control {
    /// A new channel, and the helper's end of it.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub(crate) fn pair() -> Result<(Self, OwnedFd), Errno> {
        let (socket, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        let control = Self {
            socket,
            asked: 0,
            offer: Offer::Taken,
        };
        Ok((control, theirs))
    }

    /// Asks how the helper's disk is.
    ///
    /// # Errors
    /// The helper cannot be reached.
    pub(crate) fn ask_status(&mut self) -> Result<Question, ControlError> {
        self.ask(Command::Status, None)
    }

    /// The answer to that, if it comes by `end`.
    ///
    /// # Errors
    /// [`ControlError`].
    pub(crate) fn status(&mut self, question: Question, end: Instant) -> Result<Status, ControlError> {
        loop {
            match self.receive()? {
                Some(reply) if reply.id == Some(question.0) => {
                    return if let Answer::Status(status) = answer(reply)? {
                        Ok(*status)
                    } else {
                        Err(ControlError::Other)
                    };
                }
                Some(reply) => self.settle(reply),
                None => self.wait(end),
            }
            // Also where there is always something to read: a helper that a guest has taken over may send without end.
            if Instant::now() >= end {
                return Err(ControlError::Silent(PATIENCE));
            }
        }
    }

    /// Offers the helper a new frontend.
    ///
    /// # Errors
    /// The helper cannot be reached.
    pub(crate) fn offer(&mut self, frontend: &OwnedFd) -> Result<(), ControlError> {
        let Question(number) = self.ask(Command::Attach, Some(frontend))?;
        self.offer = Offer::Open(number);
        Ok(())
    }

    /// Readable when the helper may have answered an offer; nothing while none is open.
    pub(crate) fn event(&self) -> Option<BorrowedFd<'_>> {
        self.is_open().then(|| self.socket.as_fd())
    }

    /// Hears what the helper says to an offer, once.
    pub(crate) fn hear(&mut self) {
        match self.receive() {
            Ok(None) => {}
            Ok(Some(reply)) => self.settle(reply),
            Err(error) => self.offer = Offer::Failed(error),
        }
    }

    /// Whether an offer is not answered yet.
    pub(crate) const fn is_open(&self) -> bool {
        matches!(self.offer, Offer::Open(_))
    }

    /// What came of the offer, until now.
    ///
    /// # Errors
    /// [`ControlError`].
    pub(crate) fn accepted(&mut self) -> Result<(), ControlError> {
        match std::mem::replace(&mut self.offer, Offer::Taken) {
            Offer::Taken => Ok(()),
            Offer::Open(_) => Err(ControlError::Silent(PATIENCE_TO_ATTACH)),
            Offer::Failed(error) => Err(error),
        }
    }

    fn ask(&mut self, command: Command, descriptor: Option<&OwnedFd>) -> Result<Question, ControlError> {
        self.asked = self.asked.wrapping_add(1);
        let packet = Request::new(self.asked, command).encode();
        let numbers: Vec<_> = descriptor.iter().map(|fd| fd.as_raw_fd()).collect();
        let rights = [ControlMessage::ScmRights(&numbers)];
        let beside = if numbers.is_empty() { &[][..] } else { &rights[..] };
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        sendmsg::<UnixAddr>(self.socket.as_raw_fd(), &[IoSlice::new(&packet)], beside, flags, None)
            .map_err(ControlError::Channel)?;
        Ok(Question(self.asked))
    }

    /// Takes a reply to an offer. One to a question that was given up on has nobody who wants it.
    fn settle(&mut self, reply: Reply) {
        match self.offer {
            Offer::Open(number) if reply.id == Some(number) => {
                self.offer = match answer(reply) {
                    Ok(Answer::Attached) => Offer::Taken,
                    Ok(_) => Offer::Failed(ControlError::Other),
                    Err(error) => Offer::Failed(error),
                };
            }
            Offer::Open(_) | Offer::Taken | Offer::Failed(_) => {}
        }
    }

    /// The next reply, whatever it answers, if there is one.
    fn receive(&self) -> Result<Option<Reply>, ControlError> {
        // One byte more than there may be, so that a message which is too long shows.
        let mut packet = [0; MAX_BYTES + 1];
        match recv(self.socket.as_raw_fd(), &mut packet, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => Err(ControlError::Closed),
            Ok(count) => {
                let reply = Reply::decode(packet.get(..count).unwrap_or_default());
                reply.map(Some).map_err(ControlError::Message)
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
            Err(errno) => Err(ControlError::Channel(errno)),
        }
    }

    /// Waits until there is something to receive, or `end`.
    fn wait(&self, end: Instant) {
        let left = end.saturating_duration_since(Instant::now());
        let mut event = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        let limit = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        // However it ends, the next look tells why.
        let _ = poll(&mut event, limit);
    }
}

fn answer(reply: Reply) -> Result<Answer, ControlError> {
    match reply.outcome {
        Outcome::Ok(answer) => Ok(answer),
        Outcome::Error(text) => Err(ControlError::Refused(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::send;

    fn say(theirs: &OwnedFd, reply: &Reply) {
        send(theirs.as_raw_fd(), &reply.encode(), MsgFlags::empty()).unwrap();
    }

    fn status(control: &mut Control) -> Result<Status, ControlError> {
        let question = control.ask_status()?;
        control.status(question, Instant::now() + PATIENCE)
    }

    #[test]
    fn an_answer_that_comes_too_late_is_not_taken_for_the_next() {
        let (mut control, theirs) = Control::pair().unwrap();
        control.asked = 1;
        control.offer(&theirs).unwrap();

        say(&theirs, &Reply::error(Some(1), "late"));
        control.hear();
        assert!(control.is_open() && control.event().is_some());

        say(&theirs, &Reply::ok(2, Answer::Attached));
        control.hear();
        assert!(!control.is_open() && control.event().is_none());
        control.accepted().unwrap();
    }

    #[test]
    fn who_asks_how_a_disk_is_loses_no_answer_to_an_offer() {
        let (mut control, theirs) = Control::pair().unwrap();
        control.offer(&theirs).unwrap();
        say(&theirs, &Reply::error(Some(1), "busy"));
        say(&theirs, &Reply::error(Some(2), "no"));

        assert!(matches!(status(&mut control), Err(ControlError::Refused(text)) if text == "no"));

        assert!(matches!(control.accepted(), Err(ControlError::Refused(text)) if text == "busy"));
    }

    #[test]
    fn an_offer_that_nobody_answers_or_nobody_can_fails() {
        let (mut control, theirs) = Control::pair().unwrap();
        let (_, frontend) = Control::pair().unwrap();
        control.offer(&frontend).unwrap();
        control.hear();
        assert!(matches!(
            control.accepted(),
            Err(ControlError::Silent(PATIENCE_TO_ATTACH))
        ));

        control.offer(&frontend).unwrap();
        drop(theirs);
        control.hear();
        assert!(!control.is_open());
        assert!(matches!(
            control.accepted(),
            Err(ControlError::Channel(_) | ControlError::Closed)
        ));
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

        let outcome = status(&mut control);

        assert!(matches!(outcome, Err(ControlError::Silent(PATIENCE))), "{outcome:?}");
        assert!(begun.elapsed() < PATIENCE * 3);
        drop(control);
        floods.into_iter().for_each(|flood| flood.join().unwrap());
    }

    #[test]
    fn what_goes_wrong_is_told_apart() {
        let (mut control, theirs) = Control::pair().unwrap();

        say(&theirs, &Reply::error(Some(1), "busy"));
        assert!(matches!(status(&mut control), Err(ControlError::Refused(text)) if text == "busy"));
        say(&theirs, &Reply::ok(2, Answer::Attached));
        assert!(matches!(status(&mut control), Err(ControlError::Other)));
        send(theirs.as_raw_fd(), b"{", MsgFlags::empty()).unwrap();
        assert!(matches!(status(&mut control), Err(ControlError::Message(_))));
        assert!(matches!(status(&mut control), Err(ControlError::Silent(PATIENCE))));
        drop(theirs);
        assert!(matches!(
            status(&mut control),
            Err(ControlError::Channel(_) | ControlError::Closed)
        ));
    }
}
