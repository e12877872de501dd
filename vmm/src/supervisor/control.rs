//! The supervisor's end of a helper's control channel. Knows the messages ([`protocol::control`]), not what follows from them.
//!
//! Who asks a helper to take another frontend, or to save, goes on listening to everything else ([`Control::event`]): it may take
//! long. Who asks how it is waits for that, since it is an operator who wants to know.

use crate::channel::{Channel, ChannelError, ORDER_PATIENCE, answer};
use nix::errno::Errno;
use protocol::control::{Answer, Command, Heard, Reply, Status};
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long helpers may take to say how they are, all together. They answer in microseconds unless they are stuck with their
/// frontends, which they leave after 5 s; this is for the operator who waits, and a guess.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

/// Packets of a helper's that are heard in a second. It has a handful to say; more is a flood. A guess.
const A_SECOND: u32 = 100;

/// Of those, what happened, for the operator to read.
const NOTICES_A_SECOND: u32 = 5;

/// How long that is.
const SECOND: Duration = Duration::from_secs(1);

/// What is kept of what a helper said while something else was waited for. It answers a question or two.
const KEPT: usize = 16;

/// What became of an order that was given: a frontend to take, a disk to reset.
#[derive(Debug)]
enum Order {
    /// The question of this number is not answered yet, and this is what the answer should be.
    Open(u64, Answer),
    /// The helper did it, or was never asked.
    Done,
    /// It did not.
    Failed(ChannelError),
}

/// A question, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Question(u64);

/// A channel.
#[derive(Debug)]
pub(crate) struct Control {
    channel: Channel,
    order: Order,
    kept: VecDeque<Heard>,
    subscribed: bool,
    /// It says nothing any more.
    ended: bool,
    second: Instant,
    heard: u32,
    notices: u32,
}

impl Control {
    /// A new channel, and the helper's end of it.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub(crate) fn pair() -> Result<(Self, OwnedFd), Errno> {
        let (channel, theirs) = Channel::pair()?;
        let control = Self {
            channel,
            order: Order::Done,
            kept: VecDeque::new(),
            subscribed: false,
            ended: false,
            second: Instant::now(),
            heard: 0,
            notices: 0,
        };
        Ok((control, theirs))
    }

    /// The channel itself, to ask for what takes long.
    pub(crate) const fn channel(&mut self) -> &mut Channel {
        &mut self.channel
    }

    /// Wants to hear what happens; does nothing the second time. The answer is nobody's.
    ///
    /// # Errors
    /// The helper cannot be reached.
    pub(crate) fn subscribe(&mut self) -> Result<(), ChannelError> {
        if std::mem::replace(&mut self.subscribed, true) {
            return Ok(());
        }
        self.channel.ask(Command::Events, None).map(drop)
    }

    /// Asks how the helper's disk is.
    ///
    /// # Errors
    /// The helper cannot be reached.
    pub(crate) fn ask_status(&mut self) -> Result<Question, ChannelError> {
        self.channel.ask(Command::Status, None).map(Question)
    }

    /// The answer to that, if it comes by `end`.
    ///
    /// # Errors
    /// [`ChannelError`].
    pub(crate) fn status(&mut self, question: Question, end: Instant) -> Result<Status, ChannelError> {
        loop {
            match self.channel.hear()? {
                Some(Heard::Reply(reply)) if reply.id == Some(question.0) => {
                    let Answer::Status(status) = answer(reply)? else {
                        return Err(ChannelError::Other);
                    };
                    return Ok(*status);
                }
                Some(heard) => {
                    let others = self.settle(heard).filter(|_| self.kept.len() < KEPT);
                    self.kept.extend(others);
                }
                None => self.channel.wait(end),
            }
            // Also where there is always something to read: a helper that a guest has taken over may send without end.
            if Instant::now() >= end {
                return Err(ChannelError::Silent(PATIENCE));
            }
        }
    }

    /// Offers the helper a new frontend.
    ///
    /// # Errors
    /// The helper cannot be reached.
    pub(crate) fn offer(&mut self, frontend: &OwnedFd) -> Result<(), ChannelError> {
        let number = self.channel.ask(Command::Attach, Some(frontend.as_fd()))?;
        self.order = Order::Open(number, Answer::Attached);
        Ok(())
    }

    /// Lets the helper forget what the guest wrote.
    ///
    /// # Errors
    /// The helper cannot be reached.
    pub(crate) fn reset(&mut self) -> Result<(), ChannelError> {
        let number = self.channel.ask(Command::Reset, None)?;
        self.order = Order::Open(number, Answer::Reset);
        Ok(())
    }

    /// Readable when the helper may have said something that may be heard.
    pub(crate) fn event(&self) -> Option<BorrowedFd<'_>> {
        (!self.ended && self.wait().is_none()).then(|| self.channel.as_fd())
    }

    /// How long nothing may be heard.
    pub(crate) fn wait(&self) -> Option<Duration> {
        let left = SECOND.saturating_sub(self.second.elapsed());
        (!self.ended && self.heard >= A_SECOND && !left.is_zero()).then_some(left)
    }

    /// Hears what the helper says, once; what is neither an answer to an order nor nonsense is given back.
    pub(crate) fn hear(&mut self) -> Option<Heard> {
        if self.second.elapsed() >= SECOND {
            self.second = Instant::now();
            self.heard = 0;
            self.notices = 0;
        }
        self.heard = self.heard.saturating_add(1);
        match self.channel.hear() {
            Ok(Some(Heard::Notice(notice))) => {
                self.notices = self.notices.saturating_add(1);
                (self.notices <= NOTICES_A_SECOND).then_some(Heard::Notice(notice))
            }
            Ok(heard) => self.settle(heard?),
            Err(error) => {
                self.ended = true;
                if self.is_open() {
                    self.order = Order::Failed(error);
                }
                None
            }
        }
    }

    /// What was heard while something else was waited for.
    pub(crate) fn kept(&mut self) -> Option<Heard> {
        self.kept.pop_front()
    }

    /// Whether the helper says nothing any more.
    pub(crate) const fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether an order is not answered yet.
    pub(crate) const fn is_open(&self) -> bool {
        matches!(self.order, Order::Open(..))
    }

    /// What came of the order, until now.
    ///
    /// # Errors
    /// [`ChannelError`].
    pub(crate) fn accepted(&mut self) -> Result<(), ChannelError> {
        match std::mem::replace(&mut self.order, Order::Done) {
            Order::Done => Ok(()),
            Order::Open(..) => Err(ChannelError::Silent(ORDER_PATIENCE)),
            Order::Failed(error) => Err(error),
        }
    }

    /// Takes a reply to an order; gives back what is none.
    fn settle(&mut self, heard: Heard) -> Option<Heard> {
        match (heard, &self.order) {
            (Heard::Reply(reply), Order::Open(number, wanted)) if reply.id == Some(*number) => {
                self.order = settled(reply, wanted);
                None
            }
            (heard, _) => Some(heard),
        }
    }
}

fn settled(reply: Reply, wanted: &Answer) -> Order {
    match answer(reply) {
        Ok(answer) if answer == *wanted => Order::Done,
        Ok(_) => Order::Failed(ChannelError::Other),
        Err(error) => Order::Failed(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{MsgFlags, send};
    use std::os::fd::AsRawFd;

    fn say(theirs: &OwnedFd, reply: &Reply) {
        send(theirs.as_raw_fd(), &reply.encode(), MsgFlags::empty()).unwrap();
    }

    fn status(control: &mut Control) -> Result<Status, ChannelError> {
        let question = control.ask_status()?;
        control.status(question, Instant::now() + PATIENCE)
    }

    #[test]
    fn an_answer_that_comes_too_late_is_not_taken_for_the_next() {
        let (mut control, theirs) = Control::pair().unwrap();
        control.subscribe().unwrap();
        control.offer(&theirs).unwrap();

        say(&theirs, &Reply::error(Some(1), "late"));
        control.hear();
        assert!(control.is_open());

        say(&theirs, &Reply::ok(2, Answer::Attached));
        control.hear();
        assert!(!control.is_open());
        control.accepted().unwrap();
    }

    #[test]
    fn who_asks_how_a_disk_is_loses_no_answer_to_an_offer() {
        let (mut control, theirs) = Control::pair().unwrap();
        control.offer(&theirs).unwrap();
        say(&theirs, &Reply::error(Some(1), "busy"));
        say(&theirs, &Reply::error(Some(2), "no"));

        assert!(matches!(status(&mut control), Err(ChannelError::Refused(text)) if text == "no"));

        assert!(matches!(control.accepted(), Err(ChannelError::Refused(text)) if text == "busy"));
    }

    #[test]
    fn an_offer_that_nobody_answers_or_nobody_can_fails() {
        let (mut control, theirs) = Control::pair().unwrap();
        let (_, frontend) = Control::pair().unwrap();
        control.offer(&frontend).unwrap();
        control.hear();
        assert!(matches!(control.accepted(), Err(ChannelError::Silent(ORDER_PATIENCE))));

        control.offer(&frontend).unwrap();
        drop(theirs);
        control.hear();
        assert!(!control.is_open());
        assert!(matches!(
            control.accepted(),
            Err(ChannelError::Unreachable(_) | ChannelError::Closed)
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

        assert!(matches!(outcome, Err(ChannelError::Silent(PATIENCE))), "{outcome:?}");
        assert!(begun.elapsed() < PATIENCE * 3);
        drop(control);
        floods.into_iter().for_each(|flood| flood.join().unwrap());
    }

    #[test]
    fn what_goes_wrong_is_told_apart() {
        let (mut control, theirs) = Control::pair().unwrap();

        say(&theirs, &Reply::error(Some(1), "busy"));
        assert!(matches!(status(&mut control), Err(ChannelError::Refused(text)) if text == "busy"));
        say(&theirs, &Reply::ok(2, Answer::Attached));
        assert!(matches!(status(&mut control), Err(ChannelError::Other)));
        send(theirs.as_raw_fd(), b"{", MsgFlags::empty()).unwrap();
        assert!(matches!(status(&mut control), Err(ChannelError::Message(_))));
        assert!(matches!(status(&mut control), Err(ChannelError::Silent(PATIENCE))));
        drop(theirs);
        assert!(matches!(
            status(&mut control),
            Err(ChannelError::Unreachable(_) | ChannelError::Closed)
        ));
    }
}
