//! The operator's end of a helper's control channel: packets there and back ([`protocol::control`] has the words).
//!
//! Nothing here waits but [`Channel::call`] and [`Channel::wait`], which have a limit: a helper may be stuck, or taken over
//! by its guest.

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, getsockopt, recv, sendmsg, socket,
    socketpair, sockopt,
};
use nix::unistd::{Uid, geteuid, seteuid};
use protocol::control::{Answer, Command, Heard, MAX_BYTES, MessageError, Outcome, Reply, Request};
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};
use thiserror::Error;

/// How long a helper may take to carry out an order. It first finishes what a frontend asked for, and gives a slow disk 30 s for
/// that: who gave up before would burn a disk that is only slow.
pub(crate) const ORDER_PATIENCE: Duration = Duration::from_secs(40);

/// Why there is no answer.
#[derive(Debug, Error)]
pub(crate) enum ChannelError {
    #[error("cannot reach the helper")]
    Unreachable(#[source] Errno),
    #[error(
        "user {0} serves there, who is neither you nor root: nothing was sent; if that is who started the helper, say \
         --trust-user {0}"
    )]
    Stranger(u32),
    #[error("cannot become user {0} to connect, and root again")]
    Disguise(u32, #[source] Errno),
    #[error("the kernel does not say who serves there")]
    Unknown(#[source] Errno),
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

impl ChannelError {
    /// Whether the helper would do later what it does not do now.
    pub(crate) fn is_busy(&self) -> bool {
        matches!(self, Self::Refused(why) if why.starts_with("busy"))
    }
}

/// A channel.
#[derive(Debug)]
pub(crate) struct Channel {
    socket: OwnedFd,
    asked: u64,
}

impl Channel {
    /// A new channel, and the helper's end of it.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub(crate) fn pair() -> Result<(Self, OwnedFd), Errno> {
        let (socket, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        Ok((Self { socket, asked: 0 }, theirs))
    }

    /// A channel to the helper that listens at `path`; fails at once where it takes nobody now. Who made that socket listen must be
    /// this user, root, or `trusted`: a stranger could have taken the name, and would get the orders and descriptors.
    ///
    /// Root connects as `trusted`, where that user may: a helper that was started by another user is in a user namespace which
    /// does not know root, and turns away whom it does not know. The kernel notes who connects at that moment.
    ///
    /// # Errors
    /// [`ChannelError`]; nothing was sent.
    pub(crate) fn connect(path: &Path, trusted: Option<u32>) -> Result<Self, ChannelError> {
        let connected = || {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
            connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
            Ok(socket)
        };
        let socket = match trusted.filter(|_| geteuid().is_root()) {
            // What only root can reach is root's, who knows root.
            Some(user) => match as_user(user, connected)? {
                Err(Errno::EACCES) => connected(),
                reached => reached,
            },
            None => connected(),
        };
        let socket = socket.map_err(ChannelError::Unreachable)?;
        let server = getsockopt(&socket, sockopt::PeerCredentials).map_err(ChannelError::Unknown)?;
        let me = geteuid().as_raw();
        if [Some(0), Some(me), trusted].contains(&Some(server.uid())) {
            Ok(Self { socket, asked: 0 })
        } else {
            Err(ChannelError::Stranger(server.uid()))
        }
    }

    /// Sends a request, with the descriptor that goes with it; its number.
    ///
    /// # Errors
    /// The helper cannot be reached.
    pub(crate) fn ask(&mut self, command: Command, descriptor: Option<BorrowedFd<'_>>) -> Result<u64, ChannelError> {
        self.asked = self.asked.wrapping_add(1);
        let packet = Request::new(self.asked, command).encode();
        let numbers: Vec<_> = descriptor.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&numbers)];
        let beside = if numbers.is_empty() { &[][..] } else { &rights[..] };
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        sendmsg::<UnixAddr>(self.socket.as_raw_fd(), &[IoSlice::new(&packet)], beside, flags, None)
            .map_err(ChannelError::Unreachable)?;
        Ok(self.asked)
    }

    /// What the helper says next, if it has said something.
    ///
    /// # Errors
    /// [`ChannelError`].
    pub(crate) fn hear(&self) -> Result<Option<Heard>, ChannelError> {
        // One byte more than there may be, so that a message which is too long shows.
        let mut packet = [0; MAX_BYTES + 1];
        match recv(self.socket.as_raw_fd(), &mut packet, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => Err(ChannelError::Closed),
            Ok(count) => {
                let heard = Heard::decode(packet.get(..count).unwrap_or_default());
                heard.map(Some).map_err(ChannelError::Message)
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
            Err(errno) => Err(ChannelError::Unreachable(errno)),
        }
    }

    /// Asks and waits for the answer, `patience` at most. What else is heard meanwhile is nobody's.
    ///
    /// # Errors
    /// [`ChannelError`].
    pub(crate) fn call(&mut self, command: Command, patience: Duration) -> Result<Answer, ChannelError> {
        let number = self.ask(command, None)?;
        let end = Instant::now() + patience;
        loop {
            match self.hear()? {
                Some(Heard::Reply(reply)) if reply.id == Some(number) => return answer(reply),
                Some(Heard::Reply(_) | Heard::Notice(_)) => {}
                None => self.wait(end),
            }
            // Also where there is always something to hear.
            if Instant::now() >= end {
                return Err(ChannelError::Silent(patience));
            }
        }
    }

    /// Waits until there is something to hear, or `end`.
    pub(crate) fn wait(&self, end: Instant) {
        let left = end.saturating_duration_since(Instant::now());
        let mut event = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        let limit = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        // However it ends, the next look tells why.
        let _ = poll(&mut event, limit);
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Does something with the rights and the name of another user. For root, who gets his own back.
///
/// # Errors
/// [`ChannelError::Disguise`].
fn as_user<T>(user: u32, act: impl FnOnce() -> T) -> Result<T, ChannelError> {
    let disguise = |errno| ChannelError::Disguise(user, errno);
    let root = geteuid();
    seteuid(Uid::from_raw(user)).map_err(disguise)?;
    let done = act();
    seteuid(root).map_err(disguise)?;
    Ok(done)
}

/// The answer in a reply.
///
/// # Errors
/// [`ChannelError::Refused`].
pub(crate) fn answer(reply: Reply) -> Result<Answer, ChannelError> {
    match reply.outcome {
        Outcome::Ok(answer) => Ok(answer),
        Outcome::Error(text) => Err(ChannelError::Refused(text)),
    }
}
