//! A vhost-user-blk backend of the worst kind: it answers as one should, until a message at which it does not.
//!
//! It serves nothing; what a guest asks of its disk stays unanswered. It knows messages, not rings.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::wire::{Message, NEED_REPLY, REPLY, VERSION, Wire, code, header};

/// What it does instead of answering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing, with the connection open.
    Silence,
    /// Closes the connection.
    HangsUp,
    /// Says half of an answer's header, and nothing more.
    Stops,
    /// Says what is no message.
    Noise,
    /// Answers another question.
    AnotherCode,
    /// Asks instead of answering.
    NoReply,
    /// Answers with less than was asked for.
    TooShort,
    /// Answers with more.
    TooLong,
    /// Announces 4 GiB.
    Huge,
    /// Gives descriptors, which nobody asked for.
    Descriptors,
    /// Answers twice.
    Twice,
    /// Says that it does not want to.
    Refuses,
}

impl Fault {
    /// Those that leave a frontend waiting for more.
    pub const QUIET: [Self; 3] = [Self::Silence, Self::Stops, Self::TooShort];

    /// Those of which a frontend can know at once that they are faults.
    pub const LOUD: [Self; 5] = [Self::HangsUp, Self::Noise, Self::AnotherCode, Self::NoReply, Self::Huge];

    /// Those of which it knows when it hears the next answer.
    pub const BELATED: [Self; 2] = [Self::TooLong, Self::Twice];
}

/// VERSION_1, protocol features, MQ, FLUSH.
const FEATURES: u64 = 1 << 32 | 1 << 30 | 1 << 12 | 1 << 9;
/// MQ, REPLY_ACK, CONFIG.
const PROTOCOL: u64 = 1 | 1 << 3 | 1 << 9;

/// A connection to a backend.
#[derive(Debug)]
pub struct Backend {
    heard: Receiver<u32>,
}

impl Backend {
    /// A backend with this fault at the message `at`, and the frontend's end of the connection. It lives until that is closed.
    ///
    /// # Panics
    ///
    /// If the kernel has no more sockets.
    #[must_use]
    pub fn connected(at: u32, fault: Fault) -> (Self, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("sockets are to be had");
        let (tell, heard) = channel();
        thread::spawn(move || {
            let wire = Wire::over(ours);
            while let Ok(message) = wire.receive() {
                // Whoever is not interested is gone.
                let _ = tell.send(message.code);
                let answer = sound(&message);
                let goes_on = if message.code == at {
                    misbehaves(&wire, &message, fault, &answer.unwrap_or_default())
                } else {
                    answer.is_none_or(|body| wire.send(message.code, REPLY, &body, &[]).is_ok())
                };
                if !goes_on {
                    return;
                }
            }
        });
        (Self { heard }, theirs)
    }

    /// Waits until it hears one of these messages, or the connection is closed; whether it heard it.
    #[must_use]
    pub fn hears(&self, codes: &[u32], limit: Duration) -> bool {
        let end = Instant::now() + limit;
        let left = || end.saturating_duration_since(Instant::now());
        std::iter::from_fn(|| self.heard.recv_timeout(left()).ok()).any(|code| codes.contains(&code))
    }
}

/// What should be answered, if anything.
fn sound(message: &Message) -> Option<Vec<u8>> {
    let number = |number: u64| Some(number.to_le_bytes().to_vec());
    match message.code {
        code::GET_FEATURES => number(FEATURES),
        code::GET_PROTOCOL_FEATURES => number(PROTOCOL),
        code::GET_QUEUE_NUM => number(4),
        // What was asked for, and where: a disk of as many sectors as the first bytes say.
        code::GET_CONFIG | code::GET_VRING_BASE => Some(message.body.clone()),
        _ if message.flags & NEED_REPLY != 0 => number(0),
        _ => None,
    }
}

/// Whether the conversation goes on.
fn misbehaves(wire: &Wire, message: &Message, fault: Fault, answer: &[u8]) -> bool {
    let send = |code, flags, body: &[u8]| wire.send(code, flags, body, &[]).is_ok();
    let code = message.code;
    match fault {
        Fault::Silence => true,
        Fault::HangsUp => false,
        Fault::Stops => wire.send_bytes(&header(code, VERSION | REPLY, 8)[..6], &[]).is_ok(),
        Fault::Noise => wire.send_bytes(&[0xa5; 4096], &[]).is_ok(),
        Fault::AnotherCode => send(code + 1, REPLY, answer),
        Fault::NoReply => send(code, 0, answer),
        Fault::TooShort => send(code, REPLY, &answer[..answer.len() / 2]),
        Fault::TooLong => send(code, REPLY, &[answer, &[0; 100]].concat()),
        Fault::Huge => {
            let bytes = [&header(code, VERSION | REPLY, u32::MAX)[..], answer].concat();
            wire.send_bytes(&bytes, &[]).is_ok()
        }
        Fault::Descriptors => {
            let (one, another) = UnixStream::pair().expect("sockets are to be had");
            wire.send(code, REPLY, answer, &[one.as_fd(), another.as_fd()]).is_ok()
        }
        Fault::Twice => send(code, REPLY, answer) && send(code, REPLY, answer),
        Fault::Refuses => send(code, REPLY, &1_u64.to_le_bytes()),
    }
}
