//! The control channel: what an operator asks of a helper, and what the helper answers.
//!
//! One message is one packet of a connected Unix socket of type `SOCK_SEQPACKET`: a JSON object of at most [`MAX_BYTES`].
//! Descriptors travel beside the packet ([`Command::descriptors`] says how many). Each request gets one reply, in the order
//! of the requests, with the request's number:
//!
//! ```text
//! {"version":1,"id":7,"command":"attach"}   and one descriptor
//! {"id":7,"ok":"attached"}                  or {"id":7,"error":"busy: a frontend is connected"}
//! {"event":{"kind":"connected"},"missed":0} at any time, to whoever asked for events
//! ```
//!
//! Whoever asks must be understood exactly, so a request with a field that nobody knows is refused. Whoever is answered may
//! know less than the answer says, so unknown fields of a reply are passed over. What changes the meaning of a message
//! changes [`VERSION`].
//!
//! Not here: sockets. docs/control.md is the same for readers who write a client.

mod event;
mod limits;
mod stats;
mod status;
mod text;

pub use event::{Event, Notice};
pub use limits::{AtLimit, Limits, LimitsChange, Rate};
pub use stats::{Count, LATENCY_BUCKETS, Latency, Stats};
pub use status::{BaseStatus, Confinement, OverlayStatus, SaveState, SaveStatus, Status};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The version of the requests that this crate speaks.
pub const VERSION: u32 = 1;

/// The longest message, in bytes. The longest one is a save whose [`SaveRequest::backing`] is as long as qcow2 allows, 1023 bytes,
/// and which JSON writes with six letters each; statistics whose numbers are all as long as can be take 2 KiB.
pub const MAX_BYTES: usize = 8192;

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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// Serve another frontend: the descriptor that comes along, a connected Unix stream socket.
    Attach,
    /// Say how things are.
    Status,
    /// Say what was counted.
    Stats,
    /// From now on, say on this connection what happens.
    Events,
    /// Write the disk, as it is now, into the descriptor that comes along: an empty regular file, open for reading and writing.
    Save(SaveRequest),
    /// Call the save of this connection off.
    CancelSave,
    /// Forget all that the guest wrote.
    Reset,
    /// Change limits.
    SetLimits(LimitsChange),
    /// Make the disk larger.
    Resize(ResizeRequest),
    /// Burn the disk and end.
    Stop,
}

impl Command {
    /// How many descriptors come with the request: exactly so many.
    #[must_use]
    pub const fn descriptors(&self) -> usize {
        match self {
            Self::Attach | Self::Save(_) => 1,
            Self::Status
            | Self::Stats
            | Self::Events
            | Self::CancelSave
            | Self::Reset
            | Self::SetLimits(_)
            | Self::Resize(_)
            | Self::Stop => 0,
        }
    }
}

/// What to save, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SaveRequest {
    /// In which format.
    pub format: SaveFormat,
    /// The name of the base that a qcow2 file is to carry: what QEMU will open. At most 1023 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backing: Option<String>,
}

/// The format of what is saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SaveFormat {
    /// The whole disk, byte for byte.
    Raw,
    /// A qcow2 file with what the guest changed, over the base.
    Qcow2Delta,
}

/// How large the disk is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResizeRequest {
    /// In bytes, never less than now.
    pub disk_bytes: u64,
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
    Error(#[serde(with = "text")] String),
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// The new frontend is being served.
    Attached,
    /// How things are.
    Status(Box<Status>),
    /// What was counted.
    Stats(Box<Stats>),
    /// Events will come.
    Subscribed,
    /// The point in time is taken, the copy goes on; [`Status::save`] says how far it is.
    Saving {
        /// Its number, [`SaveStatus::number`].
        number: u64,
    },
    /// The save is called off: it ends soon, and not as done.
    Cancelled,
    /// The disk is as the base again.
    Reset,
    /// The limits now in force.
    Limited(Limits),
    /// The disk has the new size.
    Resized,
    /// The disk burns.
    Stopping,
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
            outcome: Outcome::Error(text.to_owned()),
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
        read(packet)
    }
}

/// What a helper says: a reply, or what happened meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Heard {
    /// Something happened.
    Notice(Notice),
    /// The reply to a request.
    Reply(Reply),
}

impl Heard {
    /// Reads a packet, for who asked for events.
    ///
    /// # Errors
    /// [`MessageError`].
    pub fn decode(packet: &[u8]) -> Result<Self, MessageError> {
        read(packet)
    }
}

/// Reads a message of either direction.
fn read<'m, T: Deserialize<'m>>(packet: &'m [u8]) -> Result<T, MessageError> {
    if packet.len() > MAX_BYTES {
        return Err(MessageError::TooLong);
    }
    serde_json::from_slice(packet).map_err(MessageError::Json)
}

#[cfg(test)]
mod tests;
