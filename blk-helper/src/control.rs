//! One connection of the control channel: requests taken from it and replies put into it, one a packet, without ever waiting.
//!
//! Whoever is at the other end was started by, or is, the user who started this process. That makes them trusted, and their
//! programs no less faulty than others: a packet that makes no sense, is too long or brings the wrong descriptors
//! is answered with an error, whoever reads no replies gets none, and what came along is closed.
//!
//! It does not know who is connected (`clients.rs` does), what a command does (`serve/orders.rs` does) nor what a message looks
//! like ([`protocol::control`] does).

use crate::decide::DecisionRefusal;
use crate::door::is_unix;
use crate::limits::NothingToLimit;
use log::debug;
use nix::errno::Errno;
use policy::logging::chain;
use protocol::control::{Answer, BadRequest, Command, MAX_BYTES, MessageError, Outcome, Reply, Request};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendFlags, SocketType,
    recvmsg, sendmsg,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use thiserror::Error;

/// Room for the descriptors of a request, and for one too many, so that too many are told from enough.
const DESCRIPTORS: usize = 2;

/// The connection. That of `--control-fd` is never dropped: a frontend's descriptor that came back under its number would be the
/// operator. The filter sees to that too.
#[derive(Debug)]
pub(crate) struct Channel {
    socket: OwnedFd,
}

/// The descriptor is no channel.
#[derive(Debug, Error)]
#[error("descriptor {0} is not a connected Unix socket of packets (SOCK_SEQPACKET)")]
pub(crate) struct NoChannel(RawFd);

/// A packet.
#[derive(Debug)]
pub(crate) struct Packet {
    request: Result<Request, BadRequest>,
    descriptors: Vec<OwnedFd>,
    /// More descriptors were sent than are here.
    incomplete: bool,
}

/// Why a request is not done. Nothing has changed then.
#[derive(Debug, Error)]
pub(crate) enum Refusal {
    #[error("not a request")]
    Unreadable(#[source] MessageError),
    #[error("this request needs {needed} descriptors, and others came")]
    Descriptors { needed: usize },
    #[error("cannot change the limits")]
    Limits(#[source] NothingToLimit),
    #[error(transparent)]
    Decision(#[from] DecisionRefusal),
    #[error("busy: a frontend is connected")]
    Busy,
    #[error("what came is not a Unix stream socket")]
    Kind,
    #[error("what came is not connected any more")]
    HungUp,
    #[error("cannot serve the frontend")]
    Admit(#[source] std::io::Error),
}

impl Channel {
    /// Takes over what was inherited.
    ///
    /// # Errors
    /// [`NoChannel`].
    pub(crate) fn inherited(socket: OwnedFd) -> Result<Self, NoChannel> {
        if is_unix(&socket, SocketType::SEQPACKET, false) {
            Ok(Self { socket })
        } else {
            Err(NoChannel(socket.as_raw_fd()))
        }
    }

    /// What came in at a listening socket of packets.
    pub(crate) fn accepted(socket: OwnedFd) -> Self {
        Self { socket }
    }

    /// The descriptor's number.
    pub(crate) fn number(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// The next packet, if one is there. At the end of the channel there are empty ones for ever: look for the end first.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub(crate) fn hear(&self) -> Result<Option<Packet>, Errno> {
        let mut bytes = [0; MAX_BYTES];
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut came = RecvAncillaryBuffer::new(&mut room);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let packet = match recvmsg(self, &mut [IoSliceMut::new(&mut bytes)], &mut came, flags) {
            Ok(packet) => packet,
            // A reset is the end, of which the loop is told as well.
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR | rustix::io::Errno::CONNRESET) => return Ok(None),
            Err(errno) => return Err(Errno::from_raw(errno.raw_os_error())),
        };
        let request = if packet.flags.contains(ReturnFlags::TRUNC) {
            Err(BadRequest {
                id: None,
                error: MessageError::TooLong,
            })
        } else {
            Request::decode(bytes.get(..packet.bytes).unwrap_or_default())
        };
        let mut descriptors = Vec::new();
        for message in came.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        Ok(Some(Packet {
            request,
            descriptors,
            incomplete: packet.flags.contains(ReturnFlags::CTRUNC),
        }))
    }

    /// Sends a packet, if there is room for it: whoever reads none gets none. Says whether there was.
    pub(crate) fn send(&self, packet: &[u8]) -> bool {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        sendmsg(
            self,
            &[IoSlice::new(packet)],
            &mut SendAncillaryBuffer::default(),
            flags,
        )
        .is_ok()
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Packet {
    /// Lets `act` do what is asked, with the descriptors that the command takes, and says what to reply.
    pub(crate) fn answer(self, act: impl FnOnce(Command, Vec<OwnedFd>) -> Result<Answer, Refusal>) -> Reply {
        let (id, outcome) = match self.request {
            Err(bad) => (bad.id, Err(Refusal::Unreadable(bad.error))),
            Ok(Request { id, command, .. }) => {
                let needed = command.descriptors();
                let outcome = if self.incomplete || self.descriptors.len() != needed {
                    Err(Refusal::Descriptors { needed })
                } else {
                    act(command, self.descriptors)
                };
                (Some(id), outcome)
            }
        };
        match outcome {
            Ok(answer) => Reply {
                id,
                outcome: Outcome::Ok(answer),
            },
            Err(refusal) => {
                debug!("the operator's request was refused: {}", chain(&refusal));
                Reply::error(id, &chain(&refusal))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, recv, sendmsg, socketpair};
    use std::os::unix::net::UnixStream;

    fn pair() -> (Channel, OwnedFd) {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
        (Channel::inherited(ours).unwrap(), theirs)
    }

    fn send(to: &OwnedFd, bytes: &[u8], descriptors: &[RawFd]) {
        let rights = [ControlMessage::ScmRights(descriptors)];
        let rights = if descriptors.is_empty() { &[][..] } else { &rights };
        sendmsg::<()>(to.as_raw_fd(), &[IoSlice::new(bytes)], rights, MsgFlags::empty(), None).unwrap();
    }

    /// What is replied to the next packet, and how many descriptors the command got.
    fn answered(channel: &Channel) -> (Reply, usize) {
        let mut got = 0;
        let reply = channel.hear().unwrap().unwrap().answer(|_, descriptors| {
            got = descriptors.len();
            Ok(Answer::Attached)
        });
        (reply, got)
    }

    fn is_error(reply: &Reply, about: &str) -> bool {
        matches!(&reply.outcome, Outcome::Error(text) if text.contains(about))
    }

    #[test]
    fn a_request_comes_with_its_descriptor() {
        let (channel, theirs) = pair();
        assert!(channel.hear().unwrap().is_none());

        send(&theirs, &Request::new(7, Command::Attach).encode(), &[0]);

        assert_eq!(answered(&channel), (Reply::ok(7, Answer::Attached), 1));
    }

    #[test]
    fn other_descriptors_than_needed_are_refused_and_closed() {
        let (channel, theirs) = pair();
        let (sent, peer) = UnixStream::pair().unwrap();
        let request = Request::new(7, Command::Attach).encode();
        for count in [0, 2, 3, 5, 253] {
            send(&theirs, &request, &vec![sent.as_raw_fd(); count]);
            let (reply, got) = answered(&channel);
            assert!(is_error(&reply, "needs 1") && got == 0, "{count}: {reply:?}");
        }
        send(&theirs, &Request::new(8, Command::Status).encode(), &[sent.as_raw_fd()]);
        assert!(is_error(&answered(&channel).0, "needs 0"));

        drop(sent);

        assert_eq!(
            recv(peer.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT),
            Ok(0),
            "somebody holds it"
        );
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let (channel, theirs) = pair();
        let mut long = Request::new(7, Command::Status).encode();
        long.resize(MAX_BYTES + 1, b' ');
        for (packet, about) in [(&b""[..], "no sense"), (b"{", "no sense"), (&long, "longer than")] {
            send(&theirs, packet, &[0]);
            assert!(is_error(&answered(&channel).0, about), "{about}");
        }
    }

    #[test]
    fn replies_beyond_the_room_for_them_are_dropped() {
        let (channel, theirs) = pair();
        for _ in 0..10_000 {
            channel.send(&Reply::ok(1, Answer::Attached).encode());
        }
        let mut packet = [0; MAX_BYTES];
        assert!(!channel.send(b"full"));
        while recv(theirs.as_raw_fd(), &mut packet, MsgFlags::MSG_DONTWAIT).is_ok() {}

        assert!(channel.send(&Reply::ok(2, Answer::Attached).encode()));

        let length = recv(theirs.as_raw_fd(), &mut packet, MsgFlags::MSG_DONTWAIT).unwrap();
        assert_eq!(
            Reply::decode(&packet[..length]).unwrap(),
            Reply::ok(2, Answer::Attached)
        );
    }

    #[test]
    fn only_a_socket_of_packets_is_a_channel() {
        let (stream, _peer) = UnixStream::pair().unwrap();
        Channel::inherited(stream.into()).unwrap_err();
        Channel::inherited(tempfile::tempfile().unwrap().into()).unwrap_err();
    }
}
