//! Serving: one frontend at a time, until something ends it.
//!
//! The overlay outlives connections: a guest's reboot may bring a new one, and it finds its disk as it left it. A second
//! frontend that comes while one is served is turned away at once, so that it never hangs. With an operator, the operator
//! says when it is over and brings frontends; without one, a connection that was handed over is the only one.

#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod orders;

use crate::base::Stamp;
use crate::clients::{self, ClientId, Clients};
use crate::connection::{Connection, Ended, Next};
use crate::door::{Door, bear};
use crate::gate::{self, GateError};
use crate::ring::Fatal;
use crate::service::Service;
use log::info;
use nix::errno::Errno;
use nix::sys::epoll::{EpollEvent, EpollFlags, EpollTimeout};
use policy::logging::chain;
use policy::{Confined, Report};
use protocol::control::Event;
use std::io;
use std::mem::ManuallyDrop;
use std::ops::ControlFlow;
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
    /// Somebody who may said so.
    #[error("told to end")]
    Stopped,
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
        // Never dropped: the filter lets nobody close what it holds.
        Ok(server) => ManuallyDrop::new(server).run(),
        Err(errno) => End::Loop(errno),
    }
}

/// The events of the control thread's epoll.
const KNOCK: u64 = 0;
const MESSAGE: u64 = 1;
const CONTROL_KNOCK: u64 = 2;
const EVENT: u64 = 3;

/// Knocks answered before the frontend gets a turn again.
const KNOCKS_A_TURN: usize = 4;

/// When to look again whether somebody changed the base: not before the first, not later than the second. A look costs nothing that
/// a guest would notice, waking up for it a little; guesses.
const LOOK_AT_BASE: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(10)];

/// The loop's state.
struct Server {
    service: Rc<Service>,
    /// What confines the process.
    report: Report,
    connection: Option<Connection>,
    /// When to give up waiting for another frontend.
    leave_at: Option<Instant>,
    clients: Clients,
    /// The first frontend is the only one.
    only_one: bool,
    /// Who asked for the last save.
    saves_for: Option<ClientId>,
    /// Somebody asked for the end.
    stopping: bool,
    /// The base as it was seen last, and when that was.
    base: Option<(Stamp, Instant)>,
}

impl Server {
    fn new(mut service: Service, report: Report) -> Result<Self, Errno> {
        let first = service.door.take_single();
        let (operator, door) = (service.ways.operator.take(), service.ways.control_door.take());
        let only_one = first.is_some() && operator.is_none();
        let clients = Clients::new(operator, door, &service.control, CONTROL_KNOCK)?;
        let mut server = Self {
            service: Rc::new(service),
            report,
            connection: None,
            leave_at: None,
            clients,
            only_one,
            saves_for: None,
            stopping: false,
            base: None,
        };
        if let Door::Listening(listener) = &server.service.door {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, KNOCK);
            server.service.control.add(listener, event)?;
        }
        let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, EVENT);
        server.service.control.add(&*server.service.events, event)?;
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
            ControlFlow::Continue(next) => next,
            ControlFlow::Break(end) => return Ok(Some(end)),
        };
        let now = Instant::now();
        if self.connection.is_none() && self.leave_at.is_some_and(|at| at <= now) {
            return Ok(Some(End::FrontendGone));
        }
        self.wait(next, now)?;
        Ok(None)
    }

    /// What can be done now. Says what to wait for, or why this was the end.
    fn work(&mut self) -> Result<ControlFlow<End, Next>, Errno> {
        if let Some(end) = self.answer_knocks()? {
            return Ok(ControlFlow::Break(end));
        }
        if let Some(end) = self.obey()? {
            return Ok(ControlFlow::Break(end));
        }
        let next = match self.connection.as_mut().map(Connection::advance) {
            None => Next::Wait,
            Some(Ok(next)) => next,
            Some(Err(ended)) => {
                if let Some(end) = self.part(&ended) {
                    return Ok(ControlFlow::Break(end));
                }
                Next::Wait
            }
        };
        if self.connection.as_ref().is_some_and(Connection::has_spoken) {
            self.leave_at = None;
        }
        self.look_at_base();
        self.publish();
        Ok(ControlFlow::Continue(next))
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
        let [_, latest] = LOOK_AT_BASE;
        let look = self
            .base
            .map(|(_, seen)| (seen + latest).saturating_duration_since(now));
        let timeout = match next.into_iter().chain(leave).chain(look).min() {
            None => EpollTimeout::NONE,
            // Rounded up, so that a deadline has passed when it is looked at again.
            Some(time) => {
                let millis = time.saturating_add(Duration::from_micros(999)).as_millis();
                EpollTimeout::try_from(millis.min(60_000)).unwrap_or(EpollTimeout::ZERO)
            }
        };
        let mut events = [EpollEvent::empty(); 16];
        match self.service.control.wait(&mut events, timeout) {
            Ok(count) => {
                for event in events.iter().take(count).filter(|event| event.data() >= clients::FIRST) {
                    self.clients.note(event.data(), event.events());
                }
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
        self.service.events.emit(Event::Connected);
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
            self.service.events.emit(Event::Disconnected);
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
        match self.service.exit_on_disconnect {
            _ if self.only_one => Some(End::FrontendGone),
            Some(patience) if was_frontend => {
                self.leave_at = Some(Instant::now() + patience);
                None
            }
            Some(_) | None => None,
        }
    }

    /// Whether the base is not what it was when that was last looked at. Looks now and then.
    fn base_changed(&mut self) -> bool {
        let [earliest, _] = LOOK_AT_BASE;
        let now = Instant::now();
        if self
            .base
            .is_some_and(|(_, seen)| now.saturating_duration_since(seen) < earliest)
        {
            return false;
        }
        let Ok(stamp) = self.service.base_stamp() else {
            return false;
        };
        let before = self.base.replace((stamp, now));
        before.is_some_and(|(before, _)| stamp.tells_of_change(before))
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
            errno => bear(errno.unwrap_or(Errno::EIO)).map(|()| None),
        },
    }
}
