//! Signalling a peer's eventfd without ever waiting for the peer.
//!
//! A peer can fill its eventfd's counter, so that a write would block; O_NONBLOCK is no defence, since the peer shares the
//! flag and can clear it. So: look first, and write only what fits. A full counter has told the peer already. A peer that
//! races the look blocks its own queue's worker, and nothing else; stopping that queue then ends the process. The control
//! thread never signals: it leaves that to the worker.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::SFlag;
use std::fs::File;
use std::os::fd::AsFd;

/// Adds one to the counter of `eventfd`, if it has room.
pub(crate) fn signal(eventfd: &File) {
    let mut ready = [PollFd::new(eventfd.as_fd(), PollFlags::POLLOUT)];
    // A counter at its very end is an error and not writable: writing it would block all the same.
    if poll(&mut ready, PollTimeout::ZERO) == Ok(1)
        && ready[0]
            .revents()
            .is_some_and(|events| events.contains(PollFlags::POLLOUT))
    {
        // Whatever a peer made of its own descriptor, there is nobody else to tell.
        let _ = nix::unistd::write(eventfd, &1u64.to_ne_bytes());
    }
}

/// Whether `file` can be an eventfd: of all the things a peer may send, only those that are no file at all pass. An
/// eventfd has no kind of its own to ask for.
pub(crate) fn may_be_eventfd(file: &File) -> bool {
    crate::sys::file_status(file)
        .is_ok_and(|info| SFlag::from_bits_truncate(info.st_mode) & SFlag::S_IFMT == SFlag::empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::eventfd::EventFd;
    use std::os::fd::OwnedFd;

    #[test]
    fn a_full_counter_does_not_block() {
        let full = EventFd::new().unwrap();
        full.write(u64::MAX - 1).unwrap();
        let peer = File::from(OwnedFd::from(full));

        signal(&peer);
    }

    #[test]
    fn a_signal_arrives() {
        let eventfd = EventFd::new().unwrap();
        let ours = File::from(eventfd.as_fd().try_clone_to_owned().unwrap());

        signal(&ours);

        assert_eq!(eventfd.read().unwrap(), 1);
    }

    #[test]
    fn files_pipes_and_sockets_are_no_eventfds() {
        let (pipe, _other_end) = nix::unistd::pipe().unwrap();
        let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(may_be_eventfd(&File::from(OwnedFd::from(EventFd::new().unwrap()))));
        assert!(!may_be_eventfd(&tempfile::tempfile().unwrap()));
        assert!(!may_be_eventfd(&File::from(pipe)));
        assert!(!may_be_eventfd(&File::from(OwnedFd::from(socket))));
        assert!(!may_be_eventfd(&File::open("/dev/null").unwrap()));
    }
}
