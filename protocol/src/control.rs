//! The control channel: what an operator asks of a helper, and what the helper answers.
//!
//! One message is one packet of a connected Unix socket of type `SOCK_SEQPACKET`: a JSON object of at most [`MAX_BYTES`].
//! Descriptors travel beside the packet ([`Command::descriptors`] says how many). Each request gets one reply, in the order
//! of the requests, with the request's number:
//!
//! ```text
//! {"version":1,"id":7,"command":"attach"}   and one descriptor
//! {"id":7,"ok":"attached"}                  or {"id":7,"error":"busy: a frontend is connected"}
//! ```
//!
//! Whoever asks must be understood exactly, so a request with a field that nobody knows is refused. Whoever is answered may
//! know less than the answer says, so unknown fields of a reply are passed over. What changes the meaning of a message
//! changes [`VERSION`].
//!
//! Not here: sockets. docs/control.md is the same for readers who write a client.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The version of the requests that this crate speaks.
pub const VERSION: u32 = 1;

/// The longest message, in bytes. Ten times what any message needs today; a guess.
pub const MAX_BYTES: usize = 4096;

/// About the longest text of an error, in bytes. Even if JSON escapes each character, it fits.
const MAX_TEXT_BYTES: usize = 512;

/// What an operator asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// [`VERSION`].
    version: u32,
    /// The operator's number for it. The reply carries the same; the helper gives it no meaning.
    pub id: u64,
    /// What to do.
    pub command: Command,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// Serve another frontend: the descriptor that comes along, a connected Unix stream socket.
    Attach,
    /// Say how things are.
    Status,
}

impl Command {
    /// How many descriptors come with the request: exactly so many.
    #[must_use]
    pub const fn descriptors(self) -> usize {
        match self {
            Self::Attach => 1,
            Self::Status => 0,
        }
    }
}

/// What a helper answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// The request's number; none if the request could not be read so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It was done.
    Ok(Answer),
    /// It was not, and nothing changed: why, in words for people.
    Error(String),
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// The new frontend is being served.
    Attached,
    /// How things are.
    Status(Status),
}

/// How things are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Size of the disk, in bytes.
    pub disk_bytes: u64,
    /// Whether a frontend is connected.
    pub connected: bool,
    /// The overlay; a read-only disk has none.
    pub overlay: Option<OverlayStatus>,
}

/// How the overlay is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlayStatus {
    /// Clusters that the guest changed and that take space: not those it discarded.
    pub dirty_clusters: u64,
    /// The space they take, in bytes. Counted, not measured: a file system that cannot punch holes keeps more.
    pub used_bytes: u64,
    /// What `used_bytes` cannot exceed.
    pub limit_bytes: u64,
}

/// Why a message cannot be read.
#[derive(Debug, Error)]
pub enum MessageError {
    /// It is longer than [`MAX_BYTES`].
    #[error("the message is longer than {MAX_BYTES} bytes")]
    TooLong,
    /// It is no JSON, or not what a message consists of.
    #[error("the message makes no sense")]
    Json(#[source] serde_json::Error),
    /// It is for somebody else.
    #[error("the message has version {0}, and this program speaks version {VERSION}")]
    Version(u32),
}

/// A request that cannot be read.
#[derive(Debug)]
pub struct BadRequest {
    /// Its number, as far as it has one.
    pub id: Option<u64>,
    /// What is wrong with it.
    pub error: MessageError,
}

/// What is looked at first, so that a message of another version is called that.
#[derive(Deserialize)]
struct Envelope {
    /// The version.
    version: u32,
    /// The number.
    #[serde(default)]
    id: Option<u64>,
}

impl Request {
    /// A request, numbered `id` by who asks.
    #[must_use]
    pub const fn new(id: u64, command: Command) -> Self {
        Self {
            version: VERSION,
            id,
            command,
        }
    }

    /// The packet.
    ///
    /// # Panics
    /// Never: a request has no part that JSON lacks.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("numbers and names have a form in JSON")
    }

    /// Reads a packet.
    ///
    /// # Errors
    /// [`BadRequest`].
    pub fn decode(packet: &[u8]) -> Result<Self, BadRequest> {
        let bad = |id, error| BadRequest { id, error };
        let envelope: Envelope = read(packet).map_err(|error| bad(None, error))?;
        if envelope.version != VERSION {
            return Err(bad(envelope.id, MessageError::Version(envelope.version)));
        }
        read(packet).map_err(|error| bad(envelope.id, error))
    }
}

impl Reply {
    /// A reply to request `id`: it was done.
    #[must_use]
    pub const fn ok(id: u64, answer: Answer) -> Self {
        Self {
            id: Some(id),
            outcome: Outcome::Ok(answer),
        }
    }

    /// A reply to request `id`, if its number is known: it was not done. A text that is too long is cut.
    #[must_use]
    pub fn error(id: Option<u64>, text: &str) -> Self {
        Self {
            id,
            outcome: Outcome::Error(printable(text)),
        }
    }

    /// The packet, never longer than [`MAX_BYTES`].
    ///
    /// # Panics
    /// Never: a reply has no part that JSON lacks.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("numbers, names and texts have a form in JSON")
    }

    /// Reads a packet. The text of an error can be shown on a terminal: a helper that a guest has taken over may have
    /// written it.
    ///
    /// # Errors
    /// [`MessageError`].
    pub fn decode(packet: &[u8]) -> Result<Self, MessageError> {
        let reply: Self = read(packet)?;
        Ok(match reply.outcome {
            Outcome::Ok(_) => reply,
            Outcome::Error(text) => Self::error(reply.id, &text),
        })
    }
}

/// Reads a message of either direction.
fn read<'m, T: Deserialize<'m>>(packet: &'m [u8]) -> Result<T, MessageError> {
    if packet.len() > MAX_BYTES {
        return Err(MessageError::TooLong);
    }
    serde_json::from_slice(packet).map_err(MessageError::Json)
}

/// The text without what steers a terminal, and not too long.
fn printable(text: &str) -> String {
    let mut clean = String::new();
    for letter in text.chars() {
        if clean.len() >= MAX_TEXT_BYTES {
            clean.push('…');
            break;
        }
        clean.push(if letter.is_control() { ' ' } else { letter });
    }
    clean
}

#[cfg(test)]
mod tests;
