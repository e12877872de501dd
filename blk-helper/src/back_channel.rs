//! The channel back to a frontend (vhost-user, "Back-end message types"): one message of twelve bytes, that the configuration
//! changed, so that a guest learns of a disk's new size.
//!
//! The `vhost` crate takes the channel and lets nothing be sent on it that it does not know, so the message that brings it is
//! handled here. A frontend that does not read is not waited for; it sees the size when it next asks.

use crate::gate::{HEADER_BYTES, REPLY, VERSION};
use nix::errno::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendFlags, recvmsg, sendmsg,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// SET_BACKEND_REQ_FD.
const CODE: u32 = 21;

/// VHOST_USER_BACKEND_CONFIG_CHANGE_MSG.
const CONFIG_CHANGE: u32 = 2;

/// The bit of the flags that asks for an answer.
const NEED_REPLY: u32 = 8;

/// A frontend's end of the channel is known.
#[derive(Debug)]
pub(crate) struct BackChannel(OwnedFd);

impl BackChannel {
    /// Takes the message that is in `stream`, whole, and answers it if that is wanted.
    ///
    /// # Errors
    /// It is not what it should be, and the connection is to be dropped.
    pub(crate) fn take(stream: &UnixStream) -> Result<Self, Errno> {
        let mut header = [0; HEADER_BYTES];
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut came = RecvAncillaryBuffer::new(&mut room);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let message = recvmsg(stream, &mut [IoSliceMut::new(&mut header)], &mut came, flags).map_err(errno)?;
        let mut descriptors = Vec::new();
        for ancillary in came.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = ancillary {
                descriptors.extend(rights);
            }
        }
        let [_, _, _, _, f0, f1, f2, f3, size @ ..] = header;
        let (Some(descriptor), None) = (descriptors.pop(), descriptors.pop()) else {
            return Err(Errno::EBADMSG);
        };
        // The header is the whole message: it has no body.
        if message.bytes != HEADER_BYTES || size != [0; 4] {
            return Err(Errno::EBADMSG);
        }
        if u32::from_ne_bytes([f0, f1, f2, f3]) & NEED_REPLY != 0 {
            let mut reply = words([CODE, VERSION | REPLY, 8]).to_vec();
            reply.extend([0; 8]);
            // The gate saw room for it.
            send(stream, &reply)?;
        }
        Ok(Self(descriptor))
    }

    /// Says that the configuration is not what it was, if there is room.
    pub(crate) fn tell_of_change(&self) {
        let told = send(&self.0, &words([CONFIG_CHANGE, VERSION, 0]));
        if let Err(errno) = told {
            log::debug!("the frontend takes no message: {errno}");
        }
    }
}

fn words(words: [u32; 3]) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    for (place, word) in bytes.chunks_mut(4).zip(words) {
        place.copy_from_slice(&word.to_ne_bytes());
    }
    bytes
}

fn send(to: &impl AsFd, bytes: &[u8]) -> Result<(), Errno> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let sent = sendmsg(to, &[IoSlice::new(bytes)], &mut SendAncillaryBuffer::default(), flags).map_err(errno)?;
    if sent == bytes.len() {
        Ok(())
    } else {
        Err(Errno::EMSGSIZE)
    }
}

fn errno(errno: rustix::io::Errno) -> Errno {
    Errno::from_raw(errno.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    use std::io::Read;
    use std::os::fd::AsRawFd;

    fn say(to: &UnixStream, flags: u32, descriptors: &[&UnixStream]) {
        let raw: Vec<_> = descriptors.iter().map(|stream| stream.as_raw_fd()).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let rights = if raw.is_empty() { &[][..] } else { &rights };
        let bytes = words([CODE, flags, 0]);
        sendmsg::<()>(to.as_raw_fd(), &[IoSlice::new(&bytes)], rights, MsgFlags::empty(), None).unwrap();
    }

    #[test]
    fn a_frontend_is_told_on_the_channel_that_it_gave() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (channel, mut told) = UnixStream::pair().unwrap();
        say(&theirs, VERSION | NEED_REPLY, &[&channel]);

        BackChannel::take(&ours).unwrap().tell_of_change();

        let mut reply = [0; 20];
        theirs.read_exact(&mut reply).unwrap();
        assert_eq!(reply[..12], words([CODE, VERSION | REPLY, 8]));
        assert_eq!(reply[12..], [0; 8]);
        let mut message = [0; 12];
        told.read_exact(&mut message).unwrap();
        assert_eq!(message, words([2, 1, 0]));
    }

    #[test]
    fn without_a_channel_or_with_two_it_is_no_message() {
        let (channel, _told) = UnixStream::pair().unwrap();
        for sent in [&[][..], &[&channel, &channel][..]] {
            let (ours, theirs) = UnixStream::pair().unwrap();
            say(&theirs, VERSION, sent);
            BackChannel::take(&ours).unwrap_err();
        }
    }

    #[test]
    fn a_frontend_that_reads_nothing_is_not_waited_for() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (channel, _told) = UnixStream::pair().unwrap();
        say(&theirs, VERSION, &[&channel]);
        let channel = BackChannel::take(&ours).unwrap();
        for _ in 0..10_000 {
            channel.tell_of_change();
        }
    }
}
