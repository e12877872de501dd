//! What stands between a frontend and the `vhost` crate's message handling.
//!
//! The crate waits for the rest of a message once it has begun to read one, checks some features by what a frontend
//! *acked*, and has messages that no feature guards. So each message is looked at first, without taking it from the
//! socket: only a code on the list passes, only when the whole message is there to be read, and only when the answer will
//! fit into the socket, so that nothing behind this file ever waits for a peer.

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use thiserror::Error;

/// Bytes of a message header: request, flags, size of the body.
pub(crate) const HEADER_BYTES: usize = 12;

/// The largest body: what the `vhost` crate reads.
const MAX_BODY_BYTES: u32 = 4096;

/// The bits of the flags that hold the protocol's version.
const VERSION_MASK: u32 = 0x3;

/// That version.
pub(crate) const VERSION: u32 = 1;

/// The bit that marks an answer.
pub(crate) const REPLY: u32 = 0x4;

/// The messages a frontend may send (vhost-user, "Front-end message types"). Refused by not being here: logging,
/// in-flight tracking, device state, postcopy, crypto, GPU, IOTLB and everything yet to be invented.
const ALLOWED: [(u32, &str); 23] = [
    (1, "GET_FEATURES"),
    (2, "SET_FEATURES"),
    (3, "SET_OWNER"),
    (4, "RESET_OWNER"),
    (5, "SET_MEM_TABLE"),
    (8, "SET_VRING_NUM"),
    (9, "SET_VRING_ADDR"),
    (10, "SET_VRING_BASE"),
    (11, "GET_VRING_BASE"),
    (12, "SET_VRING_KICK"),
    (13, "SET_VRING_CALL"),
    (14, "SET_VRING_ERR"),
    (15, "GET_PROTOCOL_FEATURES"),
    (16, "SET_PROTOCOL_FEATURES"),
    (17, "GET_QUEUE_NUM"),
    (18, "SET_VRING_ENABLE"),
    (21, CHANNEL),
    (24, "GET_CONFIG"),
    (25, "SET_CONFIG"),
    (34, "RESET_DEVICE"),
    (36, "GET_MAX_MEM_SLOTS"),
    (37, "ADD_MEM_REG"),
    (38, "REM_MEM_REG"),
];

/// The message that brings a channel back to the frontend, which the crate would keep to itself.
const CHANNEL: &str = "SET_BACKEND_REQ_FD";

/// What is in the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// Nothing.
    Empty,
    /// A message has begun, or its answer would not fit yet.
    Waiting,
    /// A whole message that may be handled, and can be without waiting.
    Whole(&'static str),
    /// The same, for the message that is not the crate's.
    Channel,
}

/// Why a connection is not worth keeping.
#[derive(Debug, Error)]
pub(crate) enum GateError {
    #[error("the frontend closed the connection")]
    Closed,
    #[error("the connection failed")]
    Broken(#[source] Errno),
    #[error("message {0} is not one this backend takes")]
    Code(u32),
    #[error("message {code} has impossible flags {flags:#x}")]
    Flags { code: u32, flags: u32 },
    #[error("message {code} claims a body of {size} bytes")]
    Size { code: u32, size: u32 },
}

/// Looks at the next message without taking it.
///
/// # Errors
/// [`GateError`], after which the connection is to be dropped.
pub(crate) fn look(stream: &UnixStream) -> Result<Look, GateError> {
    let mut header = [0; HEADER_BYTES];
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    match recv(stream.as_raw_fd(), &mut header, flags) {
        Ok(0) => return Err(GateError::Closed),
        Ok(HEADER_BYTES) => {}
        Ok(_) => return Ok(Look::Waiting),
        Err(Errno::EAGAIN | Errno::EINTR) => return Ok(Look::Empty),
        Err(Errno::ECONNRESET) => return Err(GateError::Closed),
        Err(errno) => return Err(GateError::Broken(errno)),
    }
    let (name, size) = judge(header)?;
    let waiting = crate::sys::bytes_waiting(stream).map_err(GateError::Broken)?;
    let whole = HEADER_BYTES.saturating_add(usize::try_from(size).unwrap_or(usize::MAX));
    if waiting >= whole && has_room(stream) {
        Ok(if name == CHANNEL {
            Look::Channel
        } else {
            Look::Whole(name)
        })
    } else {
        Ok(Look::Waiting)
    }
}

/// Whether the peer closed the connection, even if something that it said before is still to be read.
pub(crate) fn is_hung_up(stream: &UnixStream) -> bool {
    // Nothing is asked for: the kernel tells of a hang-up all the same.
    let mut state = [PollFd::new(stream.as_fd(), PollFlags::empty())];
    poll(&mut state, PollTimeout::ZERO).is_ok()
        && state[0]
            .revents()
            .is_some_and(|events| events.contains(PollFlags::POLLHUP))
}

/// The name of the message and the size of its body, if it may pass.
fn judge(header: [u8; HEADER_BYTES]) -> Result<(&'static str, u32), GateError> {
    let [c0, c1, c2, c3, f0, f1, f2, f3, s0, s1, s2, s3] = header;
    let code = u32::from_ne_bytes([c0, c1, c2, c3]);
    let flags = u32::from_ne_bytes([f0, f1, f2, f3]);
    let size = u32::from_ne_bytes([s0, s1, s2, s3]);
    let (_, name) = ALLOWED
        .iter()
        .find(|(allowed, _)| *allowed == code)
        .ok_or(GateError::Code(code))?;
    if flags & VERSION_MASK != VERSION || flags & REPLY != 0 {
        return Err(GateError::Flags { code, flags });
    }
    if size > MAX_BODY_BYTES {
        return Err(GateError::Size { code, size });
    }
    Ok((name, size))
}

/// Whether an answer can be sent without waiting: the kernel calls a socket writable while most of its buffer is free,
/// and an answer is a few hundred bytes.
fn has_room(stream: &UnixStream) -> bool {
    let mut ready = [PollFd::new(stream.as_fd(), PollFlags::POLLOUT)];
    poll(&mut ready, PollTimeout::ZERO).is_ok()
        && ready[0]
            .revents()
            .is_some_and(|events| events.contains(PollFlags::POLLOUT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn message(code: u32, flags: u32, size: u32) -> Vec<u8> {
        [code, flags, size].iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    fn look_at(bytes: &[u8]) -> Result<Look, GateError> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(bytes).unwrap();
        look(&ours)
    }

    #[test]
    fn a_message_passes_only_whole() {
        let mut bytes = message(2, 1, 8);
        assert_eq!(look_at(&[]).unwrap(), Look::Empty);
        assert_eq!(look_at(&bytes[..5]).unwrap(), Look::Waiting);
        assert_eq!(look_at(&bytes).unwrap(), Look::Waiting);
        bytes.extend([0; 7]);
        assert_eq!(look_at(&bytes).unwrap(), Look::Waiting);
        bytes.push(0);
        assert_eq!(look_at(&bytes).unwrap(), Look::Whole("SET_FEATURES"));
    }

    #[test]
    fn looking_takes_nothing() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(&message(1, 1, 0)).unwrap();
        for _ in 0..3 {
            assert_eq!(look(&ours).unwrap(), Look::Whole("GET_FEATURES"));
        }
    }

    #[test]
    fn a_closed_connection_is_told_from_a_silent_one() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        assert_eq!(look(&ours).unwrap(), Look::Empty);
        drop(theirs);
        assert!(matches!(look(&ours), Err(GateError::Closed)));
    }

    #[test]
    fn a_hang_up_shows_behind_what_was_said_before() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(&message(1, 1, 0)).unwrap();
        assert!(!is_hung_up(&ours));
        drop(theirs);
        assert!(is_hung_up(&ours));
        assert_eq!(look(&ours).unwrap(), Look::Whole("GET_FEATURES"));
    }

    #[test]
    fn codes_flags_and_sizes_outside_the_list_are_refused() {
        assert!(matches!(look_at(&message(6, 1, 0)), Err(GateError::Code(6))));
        assert!(matches!(look_at(&message(42, 1, 0)), Err(GateError::Code(42))));
        assert!(matches!(look_at(&message(1, 2, 0)), Err(GateError::Flags { .. })));
        assert!(matches!(look_at(&message(1, 5, 0)), Err(GateError::Flags { .. })));
        assert!(matches!(look_at(&message(1, 1, 4097)), Err(GateError::Size { .. })));
    }

    #[test]
    fn a_peer_that_reads_no_answers_makes_messages_wait() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        while ours.write(&[0; 4096]).is_ok() {}
        theirs.write_all(&message(1, 1, 0)).unwrap();
        assert_eq!(look(&ours).unwrap(), Look::Waiting);
    }
}
