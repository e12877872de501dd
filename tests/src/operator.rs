//! The operator of a helper: the other end of its control channel.
//!
//! Its honest calls use the types of `protocol`, as the supervisor does; the others send whatever they are told to, with any
//! descriptors, so that a test can be the operator that nobody would be.

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, sendmsg, socket, socketpair,
};
use protocol::control::{
    Answer, Command, Event, Heard, Limits, LimitsChange, MAX_BYTES, Outcome, Reply, Request, Stats, Status,
};

use crate::wire::Wire;

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(10);

/// The operator's end.
#[derive(Debug)]
pub struct Operator {
    socket: OwnedFd,
}

impl Operator {
    /// An operator, and the end that its helper inherits.
    ///
    /// # Panics
    ///
    /// If the kernel has no more sockets.
    #[must_use]
    pub fn pair() -> (Self, OwnedFd) {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).expect("sockets are to be had");
        (Self { socket: ours }, theirs)
    }

    /// A client of the socket that a helper listens on (`--control-path`).
    ///
    /// # Errors
    ///
    /// Whatever the kernel says.
    pub fn try_connect(path: &Path) -> Result<Self, Errno> {
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
        connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
        Ok(Self { socket })
    }

    /// The same, of one that takes it.
    ///
    /// # Panics
    ///
    /// If it does not.
    #[must_use]
    pub fn connect(path: &Path) -> Self {
        Self::try_connect(path).expect("the helper listens")
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Sends a packet. False if there is no room for it now.
    ///
    /// # Panics
    ///
    /// If the helper is gone.
    pub fn try_send(&self, packet: &[u8], descriptors: &[BorrowedFd<'_>]) -> bool {
        let raw: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let rights = if raw.is_empty() { &[][..] } else { &rights[..] };
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        match sendmsg::<()>(self.socket.as_raw_fd(), &[IoSlice::new(packet)], rights, flags, None) {
            Ok(_) => true,
            Err(Errno::EAGAIN | Errno::ETOOMANYREFS) => false,
            Err(errno) => panic!("the helper is gone: {errno}"),
        }
    }

    /// Sends a packet, of which nobody says that it is a request, as soon as there is room.
    ///
    /// # Panics
    ///
    /// If that takes ten seconds, or the helper is gone.
    pub fn send(&self, packet: &[u8], descriptors: &[BorrowedFd<'_>]) {
        let begun = Instant::now();
        while !self.try_send(packet, descriptors) {
            assert!(begun.elapsed() < ANSWER, "the helper takes no packet");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The next reply; none if there is none within `limit`.
    ///
    /// # Panics
    ///
    /// If what comes is no reply.
    #[must_use]
    pub fn receive_within(&self, limit: Duration) -> Option<Reply> {
        match self.hear_within(limit)? {
            Heard::Reply(reply) => Some(reply),
            Heard::Notice(notice) => panic!("nobody asked for {notice:?}"),
        }
    }

    /// The next event; none if there is none within `limit`.
    ///
    /// # Panics
    ///
    /// If what comes is no event.
    #[must_use]
    pub fn event_within(&self, limit: Duration) -> Option<Event> {
        match self.hear_within(limit)? {
            Heard::Notice(notice) => Some(notice.event),
            Heard::Reply(reply) => panic!("nobody asked for {reply:?}"),
        }
    }

    /// The next event, which is sure to come.
    ///
    /// # Panics
    ///
    /// If none comes.
    #[must_use]
    pub fn event(&self) -> Event {
        self.event_within(ANSWER).expect("something happened")
    }

    /// Whatever comes next; none if there is nothing within `limit`, or the helper closed the connection.
    ///
    /// # Panics
    ///
    /// If what comes makes no sense.
    #[must_use]
    pub fn hear_within(&self, limit: Duration) -> Option<Heard> {
        let mut ready = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        let limit = PollTimeout::try_from(limit).expect("limits are seconds");
        poll(&mut ready, limit).expect("a socket of ours can be polled");
        let mut packet = [0; MAX_BYTES];
        match recv(self.socket.as_raw_fd(), &mut packet, MsgFlags::MSG_DONTWAIT) {
            Ok(0) | Err(_) => None,
            Ok(length) => Some(Heard::decode(&packet[..length]).expect("a helper makes sense")),
        }
    }

    /// Sends a packet and takes the reply.
    ///
    /// # Panics
    ///
    /// If none comes.
    #[must_use]
    pub fn say(&self, packet: &[u8], descriptors: &[BorrowedFd<'_>]) -> Reply {
        self.send(packet, descriptors);
        self.receive_within(ANSWER).expect("each request has a reply")
    }

    /// Asks, and takes the answer; the words of the error if there is one.
    ///
    /// # Errors
    ///
    /// The helper's refusal.
    ///
    /// # Panics
    ///
    /// If the reply is to something else.
    pub fn ask(&self, command: Command, descriptors: &[BorrowedFd<'_>]) -> Result<Answer, String> {
        let reply = self.say(&Request::new(42, command).encode(), descriptors);
        assert_eq!(reply.id, Some(42), "{reply:?}");
        match reply.outcome {
            Outcome::Ok(answer) => Ok(answer),
            Outcome::Error(words) => Err(words),
        }
    }

    /// How things are.
    ///
    /// # Panics
    ///
    /// If the helper does not say.
    #[must_use]
    pub fn status(&self) -> Status {
        match self.ask(Command::Status, &[]) {
            Ok(Answer::Status(status)) => *status,
            other => panic!("no status: {other:?}"),
        }
    }

    /// What was counted.
    ///
    /// # Panics
    ///
    /// If the helper does not say.
    #[must_use]
    pub fn stats(&self) -> Stats {
        match self.ask(Command::Stats, &[]) {
            Ok(Answer::Stats(stats)) => *stats,
            other => panic!("no statistics: {other:?}"),
        }
    }

    /// Changes limits; those now in force.
    ///
    /// # Panics
    ///
    /// If the helper refuses.
    pub fn set_limits(&self, change: LimitsChange) -> Limits {
        match self.ask(Command::SetLimits(change), &[]) {
            Ok(Answer::Limited(limits)) => limits,
            other => panic!("no limits: {other:?}"),
        }
    }

    /// Asks for events.
    ///
    /// # Panics
    ///
    /// If the helper refuses.
    pub fn subscribe(&self) {
        assert_eq!(self.ask(Command::Events, &[]), Ok(Answer::Subscribed));
    }

    /// Attaches a new frontend, which has said nothing yet.
    ///
    /// # Errors
    ///
    /// The helper's refusal.
    ///
    /// # Panics
    ///
    /// If the kernel has no more sockets.
    pub fn attach(&self) -> Result<Wire, String> {
        let (ours, theirs) = UnixStream::pair().expect("sockets are to be had");
        let answer = self.ask(Command::Attach, &[theirs.as_fd()])?;
        assert_eq!(answer, Answer::Attached);
        Ok(Wire::over(ours))
    }

    /// Whether the helper closes the connection within `limit`, having said nothing.
    ///
    /// # Panics
    ///
    /// If the socket cannot be polled.
    #[must_use]
    pub fn closes_within(&self, limit: Duration) -> bool {
        let mut ready = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        let limit = PollTimeout::try_from(limit).expect("limits are seconds");
        poll(&mut ready, limit).expect("a socket of ours can be polled");
        let events = ready[0].revents().expect("the kernel knows its events");
        events.contains(PollFlags::POLLHUP)
    }

    /// Takes the replies that nobody read, until the helper has been quiet for a moment.
    #[must_use]
    pub fn catch_up(&self) -> Vec<Reply> {
        std::iter::from_fn(|| self.receive_within(Duration::from_millis(200))).collect()
    }
}
