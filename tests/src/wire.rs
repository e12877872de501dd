//! vhost-user on the wire: one message at a time, true or false, with any descriptors attached.
//!
//! The honest calls follow the vhost-user specification ("Message Specification"); the others say exactly what the
//! caller wants, so that a test can be the frontend that no VMM would be. It knows messages, not rings.

use std::io::{self, IoSlice, Read};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

/// Request codes of the specification, as far as tests say them by name.
#[expect(missing_docs, reason = "the names are the specification's")]
pub mod code {
    pub const GET_FEATURES: u32 = 1;
    pub const SET_FEATURES: u32 = 2;
    pub const SET_OWNER: u32 = 3;
    pub const SET_MEM_TABLE: u32 = 5;
    pub const SET_LOG_BASE: u32 = 6;
    pub const SET_VRING_NUM: u32 = 8;
    pub const SET_VRING_ADDR: u32 = 9;
    pub const SET_VRING_BASE: u32 = 10;
    pub const GET_VRING_BASE: u32 = 11;
    pub const SET_VRING_KICK: u32 = 12;
    pub const SET_VRING_CALL: u32 = 13;
    pub const SET_VRING_ERR: u32 = 14;
    pub const GET_PROTOCOL_FEATURES: u32 = 15;
    pub const SET_PROTOCOL_FEATURES: u32 = 16;
    pub const GET_QUEUE_NUM: u32 = 17;
    pub const SET_VRING_ENABLE: u32 = 18;
    pub const SET_BACKEND_REQ_FD: u32 = 21;
    pub const GET_CONFIG: u32 = 24;
    pub const SET_CONFIG: u32 = 25;
    pub const RESET_DEVICE: u32 = 34;
    pub const GET_MAX_MEM_SLOTS: u32 = 36;
    pub const ADD_MEM_REG: u32 = 37;
    pub const REM_MEM_REG: u32 = 38;
}

/// Bits of the header's flags: the version, which is 1, and two marks.
pub const VERSION: u32 = 1;
/// The message answers another.
pub const REPLY: u32 = 4;
/// The sender wants an answer where the message alone has none.
pub const NEED_REPLY: u32 = 8;

/// How long an honest answer may take.
const ANSWER: Duration = Duration::from_secs(10);

/// A message as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Which request it answers.
    pub code: u32,
    /// [`VERSION`] and [`REPLY`].
    pub flags: u32,
    /// The rest.
    pub body: Vec<u8>,
}

impl Message {
    /// The body as a number.
    ///
    /// # Panics
    ///
    /// If it has not eight bytes.
    #[must_use]
    pub fn number(&self) -> u64 {
        u64::from_le_bytes(self.body.as_slice().try_into().expect("the answer is a number"))
    }
}

/// A connection on which anything can be said.
#[derive(Debug)]
pub struct Wire {
    stream: UnixStream,
}

impl Wire {
    /// Connects; an accepted connection may still be closed at once.
    ///
    /// # Panics
    ///
    /// If nobody listens.
    #[must_use]
    pub fn connect(socket: &Path) -> Self {
        Self::over(UnixStream::connect(socket).expect("the helper listens"))
    }

    /// Takes a connected socket.
    ///
    /// # Panics
    ///
    /// If the socket takes no time-out.
    #[must_use]
    pub fn over(stream: UnixStream) -> Self {
        stream
            .set_read_timeout(Some(ANSWER))
            .expect("ten seconds are a time-out");
        stream
            .set_write_timeout(Some(ANSWER))
            .expect("ten seconds are a time-out");
        Self { stream }
    }

    /// Sends bytes, of which nobody says that they are a message, with descriptors at the first of them.
    ///
    /// # Errors
    ///
    /// The kernel's: mostly that the helper closed the connection.
    pub fn send_bytes(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let raw: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let control = if raw.is_empty() { &[][..] } else { &rights[..] };
        let mut left = bytes;
        let mut attached = control;
        while !left.is_empty() {
            let begun = Instant::now();
            let send = || {
                let bytes = [IoSlice::new(left)];
                sendmsg::<()>(self.stream.as_raw_fd(), &bytes, attached, MsgFlags::MSG_NOSIGNAL, None)
            };
            let mut sent = send();
            // How many descriptors may be on their way is counted for a user, and other tests send floods of them.
            while sent == Err(Errno::ETOOMANYREFS) && begun.elapsed() < ANSWER {
                sleep(Duration::from_millis(1));
                sent = send();
            }
            left = &left[sent?..];
            attached = &[];
        }
        Ok(())
    }

    /// Sends a message whose header is true to its body.
    ///
    /// # Errors
    ///
    /// As [`Self::send_bytes`].
    pub fn send(&self, code: u32, flags: u32, body: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let size = u32::try_from(body.len()).expect("bodies are small");
        let mut bytes = header(code, VERSION | flags, size).to_vec();
        bytes.extend_from_slice(body);
        self.send_bytes(&bytes, fds)
    }

    /// The next message from the helper; an error at the end of the connection.
    ///
    /// # Errors
    ///
    /// `UnexpectedEof` or `ConnectionReset` when the helper closed it, `WouldBlock` when it says nothing.
    pub fn receive(&self) -> io::Result<Message> {
        let mut header = [0; 12];
        (&self.stream).read_exact(&mut header)?;
        let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes of twelve"));
        let size = usize::try_from(word(8)).expect("usize has 64 bits on every supported target");
        let mut body = vec![0; size];
        (&self.stream).read_exact(&mut body)?;
        Ok(Message {
            code: word(0),
            flags: word(4),
            body,
        })
    }

    /// Asks, and takes the answer.
    ///
    /// # Errors
    ///
    /// As [`Self::receive`].
    pub fn ask(&self, code: u32, body: &[u8]) -> io::Result<Message> {
        self.send(code, 0, body, &[])?;
        self.receive()
    }

    /// Says something that has no answer of its own, and asks for the acknowledgement: 0 is yes.
    ///
    /// # Errors
    ///
    /// As [`Self::receive`].
    pub fn tell(&self, code: u32, body: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<u64> {
        self.send(code, NEED_REPLY, body, fds)?;
        Ok(self.receive()?.number())
    }

    /// Reads and throws away until the helper closes the connection; false if it did not in time.
    #[must_use]
    pub fn closes_within(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        let mut bytes = [0; 4096];
        while let Some(left) = end
            .checked_duration_since(Instant::now())
            .filter(|left| !left.is_zero())
        {
            self.stream
                .set_read_timeout(Some(left))
                .expect("what is left is not zero");
            match (&self.stream).read(&mut bytes) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return true,
            }
        }
        false
    }
}

/// The twelve bytes before each body.
#[must_use]
pub fn header(code: u32, flags: u32, size: u32) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&code.to_le_bytes());
    bytes[4..8].copy_from_slice(&flags.to_le_bytes());
    bytes[8..].copy_from_slice(&size.to_le_bytes());
    bytes
}

/// A body of 32-bit numbers.
#[must_use]
pub fn words(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// A body of 64-bit numbers.
#[must_use]
pub fn longs(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}
