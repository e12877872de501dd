//! Acts that reach other processes through sockets.

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, sendmsg, socket, socketpair,
};
use std::io::IoSlice;
use std::os::fd::AsRawFd;

use super::{Act, NULL, Targets, call, number};

/// The acts.
pub(super) const ACTS: &[Act] = &[
    Act::new("socket-inet", "make an internet socket", |_| make(libc::AF_INET)),
    Act::new("socket-inet6", "make an internet socket (IPv6)", |_| {
        make(libc::AF_INET6)
    }),
    Act::new("socket-unix", "make a Unix socket", |_| make(libc::AF_UNIX)),
    Act::new("socket-netlink", "make a socket to the kernel", |_| {
        call(
            libc::SYS_socket,
            [number(libc::AF_NETLINK), number(libc::SOCK_RAW), NULL],
        )
    }),
    Act::new("connect-abstract", "connect to an abstract Unix socket", |_| {
        // Nobody listens there: ECONNREFUSED is the answer to somebody who may connect.
        let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        connect(socket.as_raw_fd(), &UnixAddr::new_abstract(b"mayfly-forbidden")?)
    }),
    Act::new("socketpair", "make a pair of sockets", |_| pair().map(drop)),
    Act::new("pass-descriptor", "pass a descriptor to a new socket", pass_descriptor),
];

/// Makes a socket.
fn make(family: libc::c_int) -> Result<(), Errno> {
    call(libc::SYS_socket, [number(family), number(libc::SOCK_STREAM), NULL])
}

/// Makes a pair of sockets.
fn pair() -> Result<(std::os::fd::OwnedFd, std::os::fd::OwnedFd), Errno> {
    socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)
}

/// Sends a descriptor to itself.
fn pass_descriptor(targets: &Targets) -> Result<(), Errno> {
    let (ours, _theirs) = pair()?;
    let descriptors = [targets.any()];
    sendmsg::<()>(
        ours.as_raw_fd(),
        &[IoSlice::new(b"x")],
        &[ControlMessage::ScmRights(&descriptors)],
        MsgFlags::empty(),
        None,
    )
    .map(drop)
}
