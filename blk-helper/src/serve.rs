//! Serving: one frontend at a time, until something ends it.
//!
//! The overlay outlives connections: a guest's reboot may bring a new one, and it finds its disk as it left it. A second
//! frontend that comes while one is served is turned away at once, so that it never hangs.

use crate::connection::{Connection, Ended, Next};
use crate::door::Door;
use crate::logging::chain;
use crate::ring::Fatal;
use crate::service::Service;
use log::{debug, info};
use nix::errno::Errno;
use nix::sys::epoll::{EpollEvent, EpollFlags, EpollTimeout};
use policy::Confined;
use std::io;
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
    /// A queue's state ends the process.
    #[error(transparent)]
    Fatal(#[from] Fatal),
    /// The loop itself failed.
    #[error("cannot wait for frontends")]
    Loop(#[source] Errno),
}

/// Serves until the end. Only what is confined can be served.
pub(crate) fn serve(confined: Confined<Service>) -> End {
    let (service, _) = confined.into_parts();
    match Server::new(service) {
        Ok(mut server) => server.run(),
        Err(errno) => End::Loop(errno),
    }
}

/// The events of the control thread's epoll.
const KNOCK: u64 = 0;
const MESSAGE: u64 = 1;

/// Knocks answered before the frontend gets a turn again.
const KNOCKS_A_TURN: usize = 4;

/// How long to wait where the system has no descriptor, or no memory, for one who knocks.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// The loop's state.
struct Server {
    service: Rc<Service>,
    connection: Option<Connection>,
    /// When to give up waiting for another frontend.
    leave_at: Option<Instant>,
}

impl Server {
    fn new(service: Service) -> Result<Self, Errno> {
        let mut server = Self {
            service: Rc::new(service),
            connection: None,
            leave_at: None,
        };
        if let Door::Listening(listener) = &server.service.door {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, KNOCK);
            server.service.control.add(listener, event)?;
        }
        if let Door::Single(stream) = &server.service.door {
            let stream = stream.try_clone().map_err(|_| Errno::EMFILE)?;
            server.admit(stream)?;
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

    fn wait(&self, next: Next, now: Instant) -> Result<(), Errno> {
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
            Ok(_) | Err(Errno::EINTR) => Ok(()),
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
            if let Some(ended) = self.gone() {
                // It left in the very moment in which the next one came.
                if let Some(end) = self.part(&ended) {
                    return Ok(Some(end));
                }
            }
            if self.connection.is_some() {
                info!("a second frontend was turned away: there is one already");
            } else {
                self.admit(stream)?;
            }
        }
        Ok(None)
    }

    /// Why the frontend we have is gone, if it is.
    fn gone(&self) -> Option<Ended> {
        let connection = self.connection.as_ref()?;
        crate::gate::look(connection.stream()).err().map(Ended::from)
    }

    fn admit(&mut self, stream: UnixStream) -> Result<(), Errno> {
        let backend = Arc::clone(&self.service.backend);
        // Whoever was handed the only connection keeps nobody out by taking its time.
        let others = matches!(self.service.door, Door::Listening(_));
        let connection = match Connection::new(stream, backend, others) {
            Ok(connection) => connection,
            Err(error) => {
                info!("a frontend was turned away: {error}");
                return Ok(());
            }
        };
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
        match (&self.service.door, self.service.exit_on_disconnect) {
            (Door::Single(_), _) => Some(End::FrontendGone),
            (Door::Listening(_), None) => None,
            (Door::Listening(_), Some(_)) if !was_frontend => None,
            (Door::Listening(_), Some(patience)) => {
                self.leave_at = Some(Instant::now() + patience);
                None
            }
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
