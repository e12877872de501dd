//! One frontend's connection: messages are handled as they are complete, and a peer that dawdles is dropped.

use crate::back_channel::BackChannel;
use crate::backend::Backend;
use crate::gate::{self, GateError, Look};
use log::debug;
use nix::errno::Errno;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use thiserror::Error;
use vhost::vhost_user::BackendReqHandler;

/// How long a new frontend may say nothing. A real one speaks at once; ten seconds are for machines under load, a guess.
const FIRST_WORD: Duration = Duration::from_secs(10);

/// How long a message, once begun, may take to arrive, or its answer to be read. Also a guess.
const WHOLE_MESSAGE: Duration = Duration::from_secs(5);

/// How often to look whether a message that was not whole is whole now.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Messages handled before others get a turn.
const MESSAGES_A_TURN: usize = 64;

/// A frontend.
pub(crate) struct Connection {
    stream: UnixStream,
    handler: BackendReqHandler<Mutex<Backend>>,
    /// When it must have gone on, if it owes us something.
    deadline: Option<Instant>,
    /// It sent a message that was in order: a frontend, not somebody who looks whether anybody is there.
    spoke: bool,
    /// The way to tell it something unasked.
    channel: Option<BackChannel>,
}

/// Why a connection ended.
#[derive(Debug, Error)]
pub(crate) enum Ended {
    #[error(transparent)]
    Gate(#[from] GateError),
    #[error("message {name} failed: {error}")]
    Message {
        name: &'static str,
        error: vhost::vhost_user::Error,
    },
    #[error("the channel back to the frontend cannot be used")]
    Channel(#[source] Errno),
    #[error("the frontend said nothing")]
    Silent,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Wait for the frontend, however long.
    Wait,
    /// Come back after this time, or when the frontend goes on.
    Within(Duration),
}

impl Connection {
    /// A connection on `stream`, for the device `backend`; with `others` waiting, it must speak soon.
    ///
    /// # Errors
    /// When the descriptor cannot be duplicated.
    pub(crate) fn new(stream: UnixStream, backend: Arc<Mutex<Backend>>, others: bool) -> io::Result<Self> {
        // The crate keeps its stream to itself, so the gate looks at the socket through a second descriptor.
        let second = stream.try_clone()?;
        Ok(Self {
            stream,
            handler: BackendReqHandler::from_stream(second, backend),
            deadline: others.then(|| Instant::now() + FIRST_WORD),
            spoke: false,
            channel: None,
        })
    }

    /// Whether it is a frontend, as far as one can tell.
    pub(crate) fn has_spoken(&self) -> bool {
        self.spoke
    }

    /// The socket.
    pub(crate) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Tells the frontend, if it can be told, that the disk has another size.
    pub(crate) fn tell_of_resize(&self) {
        if let Some(channel) = &self.channel {
            channel.tell_of_change();
        }
    }

    /// Handles what has arrived.
    ///
    /// # Errors
    /// [`Ended`]; the connection is to be dropped.
    pub(crate) fn advance(&mut self) -> Result<Next, Ended> {
        for _ in 0..MESSAGES_A_TURN {
            match gate::look(&self.stream)? {
                Look::Whole(name) => {
                    debug!("{name}");
                    self.deadline = None;
                    self.handler
                        .handle_request()
                        .map_err(|error| Ended::Message { name, error })?;
                    self.spoke = true;
                }
                Look::Channel => {
                    self.deadline = None;
                    self.channel = Some(BackChannel::take(&self.stream).map_err(Ended::Channel)?);
                    self.spoke = true;
                }
                Look::Empty => return self.wait(),
                Look::Waiting => {
                    let now = Instant::now();
                    self.deadline.get_or_insert(now + WHOLE_MESSAGE);
                    return self.wait().map(|_| Next::Within(LOOK_AGAIN));
                }
            }
        }
        Ok(Next::Within(Duration::ZERO))
    }

    fn wait(&self) -> Result<Next, Ended> {
        match self.deadline {
            None => Ok(Next::Wait),
            Some(deadline) => match deadline.checked_duration_since(Instant::now()) {
                None | Some(Duration::ZERO) => Err(Ended::Silent),
                Some(left) => Ok(Next::Within(left)),
            },
        }
    }
}
