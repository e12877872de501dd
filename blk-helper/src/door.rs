//! Where frontends come in: a listening socket, or one connection that was handed over.
//!
//! The socket's path belongs to whoever started this process; it is created here if need be and never removed, for the
//! process cannot reach any path by the time it ends. A dead socket at the path is replaced, a live one is left alone.

use log::debug;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, getsockopt, listen, socket, sockopt,
};
use nix::sys::stat::{Mode, fchmod};
use rustix::net::{SocketType, sockopt as options};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;

/// Where to find the door.
#[derive(Debug)]
pub(crate) enum DoorSource {
    /// To be made at this path.
    Path(PathBuf),
    /// Inherited, listening.
    Listener(OwnedFd),
    /// Inherited, connected.
    Connection(OwnedFd),
    /// None: the operator attaches every frontend.
    Closed,
}

/// The door.
#[derive(Debug)]
pub(crate) enum Door {
    /// One frontend after the other.
    Listening(UnixListener),
    /// A frontend is there already, and no other comes by itself.
    Single(UnixStream),
    /// None comes by itself (any more).
    Closed,
}

/// Why there is no door.
#[derive(Debug, Error)]
pub(crate) enum DoorError {
    #[error("cannot listen on {}", path.display())]
    Listen {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot listen on {}: another process serves there", path.display())]
    Taken { path: PathBuf },
    #[error("cannot listen on {}: something that is no socket is there", path.display())]
    NoSocket { path: PathBuf },
    #[error("descriptor {number} is not a {expected} Unix stream socket")]
    Kind { number: RawFd, expected: &'static str },
    #[error("cannot use the inherited socket")]
    Inherited(#[source] io::Error),
}

impl Door {
    /// Opens it.
    ///
    /// # Errors
    /// [`DoorError`].
    pub(crate) fn open(source: DoorSource) -> Result<Self, DoorError> {
        match source {
            DoorSource::Path(path) => {
                let listener = listen_at(&path, SockType::Stream)?;
                Ok(Self::Listening(listener.into()))
            }
            DoorSource::Listener(fd) => {
                check(&fd, true)?;
                let listener = UnixListener::from(fd);
                listener.set_nonblocking(true).map_err(DoorError::Inherited)?;
                Ok(Self::Listening(listener))
            }
            DoorSource::Connection(fd) => {
                check(&fd, false)?;
                let stream = UnixStream::from(fd);
                stream.set_nonblocking(false).map_err(DoorError::Inherited)?;
                Ok(Self::Single(stream))
            }
            DoorSource::Closed => Ok(Self::Closed),
        }
    }

    /// The descriptor's number.
    pub(crate) fn number(&self) -> Option<RawFd> {
        match self {
            Self::Listening(listener) => Some(listener.as_raw_fd()),
            Self::Single(stream) => Some(stream.as_raw_fd()),
            Self::Closed => None,
        }
    }

    /// The frontend that is there already. The door is closed behind it.
    pub(crate) fn take_single(&mut self) -> Option<UnixStream> {
        match std::mem::replace(self, Self::Closed) {
            Self::Single(stream) => Some(stream),
            other @ (Self::Listening(_) | Self::Closed) => {
                *self = other;
                None
            }
        }
    }
}

/// Whether `fd` is a Unix socket of this type that listens, or does not.
pub(crate) fn is_unix(fd: &impl AsFd, kind: SocketType, listening: bool) -> bool {
    options::socket_domain(fd) == Ok(rustix::net::AddressFamily::UNIX)
        && options::socket_type(fd) == Ok(kind)
        && options::socket_acceptconn(fd) == Ok(listening)
}

fn check(fd: &OwnedFd, listening: bool) -> Result<(), DoorError> {
    if is_unix(fd, SocketType::STREAM, listening) {
        Ok(())
    } else {
        Err(DoorError::Kind {
            number: fd.as_raw_fd(),
            expected: if listening { "listening" } else { "connected" },
        })
    }
}

/// Makes a listening Unix socket of this `kind` at `path`, for this user only.
///
/// # Errors
/// [`DoorError`].
pub(crate) fn listen_at(path: &Path, kind: SockType) -> Result<OwnedFd, DoorError> {
    let failed = |errno: Errno| DoorError::Listen {
        path: path.to_owned(),
        source: errno.into(),
    };
    remove_dead(path, kind)?;
    bind_privately(path, kind).map_err(failed)
}

/// Makes the socket with mode 0600, never for a moment more: Linux gives the file that `bind` makes the mode that the
/// socket has then, less the umask, which belongs to the whole process and stays as it is.
fn bind_privately(path: &Path, kind: SockType) -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let listener = socket(AddressFamily::Unix, kind, flags, None)?;
    fchmod(&listener, Mode::S_IRUSR | Mode::S_IWUSR)?;
    bind(listener.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&listener, Backlog::MAXCONN)?;
    Ok(listener)
}

/// Removes a socket that nobody serves any more.
fn remove_dead(path: &Path, kind: SockType) -> Result<(), DoorError> {
    let failed = |source| DoorError::Listen {
        path: path.to_owned(),
        source,
    };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(info) if !info.file_type().is_socket() => {
            return Err(DoorError::NoSocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    match is_served(path, kind).map_err(failed)? {
        false => fs::remove_file(path).map_err(failed),
        true => Err(DoorError::Taken { path: path.to_owned() }),
    }
}

/// Whether somebody listens at `path`. A full queue of connections means yes, and nobody waits for a place in it; so does a socket
/// of another kind.
fn is_served(path: &Path, kind: SockType) -> io::Result<bool> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let probe = socket(AddressFamily::Unix, kind, flags, None)?;
    match connect(probe.as_raw_fd(), &UnixAddr::new(path)?) {
        Ok(()) | Err(Errno::EAGAIN | Errno::EPROTOTYPE) => Ok(true),
        Err(Errno::ECONNREFUSED) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Bears with a system that has no descriptor, or no memory, for one who knocks: waits a moment.
///
/// # Errors
/// What is not to be borne.
pub(crate) fn bear(errno: Errno) -> Result<(), Errno> {
    /// How long, so that a loop does not spin. A guess.
    const EXHAUSTED: Duration = Duration::from_millis(100);
    if !matches!(errno, Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM) {
        return Err(errno);
    }
    debug!("cannot accept a connection: {errno}");
    std::thread::sleep(EXHAUSTED);
    Ok(())
}

/// Who may be a frontend or give orders: this process's users (the one that started it, the one it became) and root.
#[derive(Clone, Debug)]
pub(crate) struct Admission {
    uids: [u32; 3],
    all_users_shown: bool,
}

/// What the kernel shows for a user that a user namespace does not know.
const OVERFLOW_UID: u32 = 65534;

/// Whether this process's user namespace knows every user under its own number.
fn all_users_are_shown() -> bool {
    fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| map.split_ascii_whitespace().eq(["0", "0", "4294967295"]))
}

impl Admission {
    /// Admits root, `started_by` and `serves_as`. Where users may be hidden behind the overflow uid, that one is nobody.
    pub(crate) fn new(started_by: u32, serves_as: u32) -> Self {
        Self {
            uids: [0, started_by, serves_as],
            all_users_shown: all_users_are_shown(),
        }
    }

    /// Whether the peer of `socket` may connect; if not, its user.
    ///
    /// Inside a user namespace the kernel shows users that are not mapped there, root included, as the overflow uid,
    /// which is nobody we know: they are turned away.
    ///
    /// # Errors
    /// The uid of who may not, or the kernel's refusal to tell.
    pub(crate) fn check(&self, socket: &impl AsFd) -> Result<(), PeerRefused> {
        let peer = getsockopt(socket, sockopt::PeerCredentials).map_err(PeerRefused::Unknown)?;
        let known = peer.uid() != OVERFLOW_UID || self.all_users_shown;
        if known && self.uids.contains(&peer.uid()) {
            Ok(())
        } else {
            Err(PeerRefused::Uid(peer.uid()))
        }
    }
}

/// A peer that may not connect.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(crate) enum PeerRefused {
    #[error("user {0} may not connect")]
    Uid(u32),
    #[error("the kernel does not say who connects")]
    Unknown(#[source] Errno),
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn open(path: &Path) -> Result<Door, DoorError> {
        Door::open(DoorSource::Path(path.to_owned()))
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");

        let first = open(&path).unwrap();
        assert!(matches!(open(&path), Err(DoorError::Taken { .. })));
        drop(first);

        open(&path).unwrap();
    }

    #[test]
    fn a_socket_of_another_kind_is_left_alone_while_it_is_served() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let packets = listen_at(&path, SockType::SeqPacket).unwrap();
        assert!(matches!(open(&path), Err(DoorError::Taken { .. })));

        drop(packets);

        open(&path).unwrap();
        listen_at(&path, SockType::SeqPacket).unwrap();
    }

    #[test]
    fn only_the_owner_may_connect() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");

        let _door = open(&path).unwrap();

        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_file_at_the_path_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("precious");
        fs::write(&path, "data").unwrap();
        assert!(matches!(open(&path), Err(DoorError::NoSocket { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"data");
    }

    #[test]
    fn an_inherited_descriptor_must_be_what_it_is_said_to_be() {
        let (one, other) = UnixStream::pair().unwrap();
        assert!(matches!(
            Door::open(DoorSource::Listener(one.into())),
            Err(DoorError::Kind {
                expected: "listening",
                ..
            })
        ));
        assert!(matches!(
            Door::open(DoorSource::Connection(other.into())),
            Ok(Door::Single(_))
        ));
        let file = tempfile::tempfile().unwrap();
        Door::open(DoorSource::Connection(file.into())).unwrap_err();
    }

    #[test]
    fn ourselves_are_admitted_and_strangers_are_not() {
        let (one, _other) = UnixStream::pair().unwrap();
        let me = nix::unistd::getuid().as_raw();
        Admission::new(me, 65534).check(&one).unwrap();
        if me != 0 {
            let refused = Admission::new(me + 1, me + 2).check(&one);
            assert_eq!(refused, Err(PeerRefused::Uid(me)));
        }
    }
}
