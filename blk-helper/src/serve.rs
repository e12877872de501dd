//! Serving: one frontend at a time, until something ends it.
//!
//! The overlay outlives connections: a guest's reboot may bring a new one, and it finds its disk as it left it. A second
//! frontend that comes while one is served is turned away at once, so that it never hangs. With an operator, the operator
//! says when it is over and brings frontends; without one, a connection that was handed over is the only one.

use crate::connection::{Connection, Ended, Next};
use crate::control::Refusal;
use crate::door::{Door, is_unix};
use crate::gate::{self, GateError};
use crate::ring::Fatal;
use crate::service::Service;
use log::{debug, info};
use nix::errno::Errno;
use nix::sys::epoll::{EpollEvent, EpollFlags, EpollTimeout};
use policy::logging::chain;
use policy::{Confined, Report};
use protocol::control::{Answer, Command};
use rustix::net::SocketType;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use thiserror::Error;

/// Why serving ended.
#[derive(Debug, Error)]
pub(crate) enum End {
    /// The frontend is gone and there shall be no other.
    #[error("the frontend is gone")]
    FrontendGone,
    /// The operator's end of the control channel is closed.
    #[error("the operator is gone")]
    OperatorGone,
    /// A queue's state ends the process.
    #[error(transparent)]
    Fatal(#[from] Fatal),
    /// The loop itself failed.
    #[error("cannot wait for frontends and the operator")]
    Loop(#[source] Errno),
}

/// Serves until the end. Only what is confined can be served.
pub(crate) fn serve(confined: Confined<Service>) -> End {
    let (service, report) = confined.into_parts();
    match Server::new(service, report) {
        Ok(mut server) => server.run(),
        Err(errno) => End::Loop(errno),
    }
}

/// The events of the control thread's epoll.
const KNOCK: u64 = 0;
const MESSAGE: u64 = 1;
const ORDER: u64 = 2;

/// Knocks answered before the frontend gets a turn again.
const KNOCKS_A_TURN: usize = 4;

/// Requests of the operator answered before the frontend gets a turn again.
const REQUESTS_A_TURN: usize = 16;

/// How long to wait where the system has no descriptor, or no memory, for one who knocks.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// The loop's state.
struct Server {
    service: Rc<Service>,
    /// What confines the process.
    report: Report,
    connection: Option<Connection>,
    /// When to give up waiting for another frontend.
    leave_at: Option<Instant>,
    /// The operator's end of the channel is closed.
    operator_gone: bool,
}

impl Server {
    fn new(mut service: Service, report: Report) -> Result<Self, Errno> {
        let first = service.door.take_single();
        let mut server = Self {
            service: Rc::new(service),
            report,
            connection: None,
            leave_at: None,
            operator_gone: false,
        };
        if let Door::Listening(listener) = &server.service.door {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, KNOCK);
            server.service.control.add(listener, event)?;
        }
        if let Some(operator) = &server.service.operator {
            let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP, ORDER);
            server.service.control.add(operator, event)?;
        }
        if let Some(stream) = first {
            let errno = |error: io::Error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
            server.admit(stream).map_err(errno)?;
        }
        Ok(server)
    }

    fn run(&mut self) -> End {
        loop {
            match self.turn() {
                Ok(None) => {}
                Ok(Some(end)) => return end,
                Err(errno) => return End::Loop(errno),
            }
        }
    }

    /// One round: who knocks, then what the frontend said, then waiting for either.
    fn turn(&mut self) -> Result<Option<End>, Errno> {
        let service = Rc::clone(&self.service);
        let next = match service.watched(|| self.work())? {
            Ok(next) => next,
            Err(end) => return Ok(Some(end)),
        };
        let now = Instant::now();
        if self.connection.is_none() && self.leave_at.is_some_and(|at| at <= now) {
            return Ok(Some(End::FrontendGone));
        }
        self.wait(next, now)?;
        Ok(None)
    }

    /// What can be done now. Says what to wait for, or why this was the end.
    fn work(&mut self) -> Result<Result<Next, End>, Errno> {
        if let Some(end) = self.answer_knocks()? {
            return Ok(Err(end));
        }
        if let Some(end) = self.obey()? {
            return Ok(Err(end));
        }
        let next = match self.connection.as_mut().map(Connection::advance) {
            None => Next::Wait,
            Some(Ok(next)) => next,
            Some(Err(ended)) => {
                if let Some(end) = self.part(&ended) {
                    return Ok(Err(end));
                }
                Next::Wait
            }
        };
        if self.connection.as_ref().is_some_and(Connection::has_spoken) {
            self.leave_at = None;
        }
        Ok(Ok(next))
    }

    fn wait(&mut self, next: Next, now: Instant) -> Result<(), Errno> {
        let next = match next {
            Next::Wait => None,
            Next::Within(time) => Some(time),
        };
        let leave = self
            .leave_at
            .filter(|_| self.connection.is_none())
            .map(|at| at.saturating_duration_since(now));
        let timeout = match next.into_iter().chain(leave).min() {
            None => EpollTimeout::NONE,
            // Rounded up, so that a deadline has passed when it is looked at again.
            Some(time) => {
                let millis = time.saturating_add(Duration::from_micros(999)).as_millis();
                EpollTimeout::try_from(millis.min(60_000)).unwrap_or(EpollTimeout::ZERO)
            }
        };
        let mut events = [EpollEvent::empty(); 4];
        match self.service.control.wait(&mut events, timeout) {
            Ok(count) => {
                let gone = EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP;
                self.operator_gone |= events
                    .iter()
                    .take(count)
                    .any(|event| event.data() == ORDER && event.events().intersects(gone));
                Ok(())
            }
            Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Lets the next frontend in, or turns it away.
    fn answer_knocks(&mut self) -> Result<Option<End>, Errno> {
        for _ in 0..KNOCKS_A_TURN {
            let Door::Listening(listener) = &self.service.door else {
                break;
            };
            let Some(stream) = accept(listener)? else {
                break;
            };
            if let Err(refused) = self.service.admission.check(&stream) {
                info!("a frontend was turned away: {}", chain(&refused));
                continue;
            }
            // It may have left in the very moment in which the next one came.
            if let Some(end) = self.part_if_gone() {
                return Ok(Some(end));
            }
            if self.connection.is_some() {
                info!("a second frontend was turned away: there is one already");
            } else if let Err(error) = self.admit(stream) {
                info!("a frontend was turned away: {error}");
            }
        }
        Ok(None)
    }

    /// Does what the operator asks.
    fn obey(&mut self) -> Result<Option<End>, Errno> {
        let service = Rc::clone(&self.service);
        let Some(operator) = &service.operator else {
            return Ok(None);
        };
        if self.operator_gone {
            return Ok(Some(End::OperatorGone));
        }
        for _ in 0..REQUESTS_A_TURN {
            let Some(packet) = operator.hear()? else {
                break;
            };
            if let Some(end) = self.part_if_gone() {
                return Ok(Some(end));
            }
            let reply = packet.answer(|command, descriptors| match command {
                Command::Attach => self.attach(descriptors),
                Command::Status => {
                    let status = service.status(self.connection.is_some(), &self.report);
                    Ok(Answer::Status(Box::new(status)))
                }
                // Built on this branch next; none of them is merged like this.
                Command::Stats
                | Command::Events
                | Command::Save(_)
                | Command::CancelSave
                | Command::Reset
                | Command::SetLimits(_)
                | Command::Resize(_)
                | Command::Stop => Err(Refusal::Unbuilt),
            });
            operator.reply(&reply);
        }
        Ok(None)
    }

    /// Lets the operator's frontend in.
    fn attach(&mut self, descriptors: Vec<OwnedFd>) -> Result<Answer, Refusal> {
        let socket = descriptors.into_iter().next().ok_or(Refusal::Kind)?;
        if !is_unix(&socket, SocketType::STREAM, false) {
            return Err(Refusal::Kind);
        }
        let stream = UnixStream::from(socket);
        if gate::is_hung_up(&stream) {
            return Err(Refusal::HungUp);
        }
        if self.connection.is_some() {
            return Err(Refusal::Busy);
        }
        self.admit(stream).map_err(Refusal::Admit)?;
        Ok(Answer::Attached)
    }

    /// Lets the frontend go if it has left, whatever it said before; says whether that was the last one.
    fn part_if_gone(&mut self) -> Option<End> {
        let stream = self.connection.as_ref()?.stream();
        let ended = if gate::is_hung_up(stream) {
            GateError::Closed
        } else {
            gate::look(stream).err()?
        };
        self.part(&ended.into())
    }

    fn admit(&mut self, stream: UnixStream) -> io::Result<()> {
        let backend = Arc::clone(&self.service.backend);
        // Whoever was handed the only connection keeps nobody out by taking its time.
        let others = matches!(self.service.door, Door::Listening(_));
        let connection = Connection::new(stream, backend, others)?;
        let event = EpollEvent::new(
            EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET,
            MESSAGE,
        );
        self.service.control.add(connection.stream(), event)?;
        self.connection = Some(connection);
        info!("a frontend connected");
        Ok(())
    }

    /// Lets a frontend go, and says whether that was the last one.
    fn part(&mut self, ended: &Ended) -> Option<End> {
        info!("the frontend left: {}", chain(ended));
        let mut was_frontend = false;
        if let Some(connection) = self.connection.take() {
            was_frontend = connection.has_spoken();
            // It was added in `admit`; the next descriptor with its number must not inherit its place.
            let _ = self.service.control.delete(connection.stream());
        }
        let fatal = {
            let mut backend = self.backend();
            // A message may have been fatal; what ended the process first is what is reported.
            let before = backend.take_fatal();
            backend.disconnect();
            before.or_else(|| backend.take_fatal())
        };
        if let Some(fatal) = fatal {
            return Some(fatal.into());
        }
        let others = matches!(self.service.door, Door::Listening(_)) || self.service.operator.is_some();
        match self.service.exit_on_disconnect {
            _ if !others => Some(End::FrontendGone),
            Some(patience) if was_frontend => {
                self.leave_at = Some(Instant::now() + patience);
                None
            }
            Some(_) | None => None,
        }
    }

    fn backend(&self) -> MutexGuard<'_, crate::backend::Backend> {
        self.service.backend.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The next one in the queue. Somebody who left again before being accepted is nobody.
fn accept(listener: &UnixListener) -> Result<Option<UnixStream>, Errno> {
    match listener.accept() {
        Ok((stream, _)) => Ok(Some(stream)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ECONNABORTED | Errno::EINTR) => Ok(None),
            Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM) => {
                debug!("cannot accept a frontend: {error}");
                std::thread::sleep(EXHAUSTED);
                Ok(None)
            }
            errno => Err(errno.unwrap_or(Errno::EIO)),
        },
    }
}
