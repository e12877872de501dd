//! The vhost-user side: a backend, and one frontend after the other; the workers' turns are the caller's.

use super::{DiskSpec, scratches};
use crate::backend::Backend;
use crate::bell::{Bell, Nudge, Sleep};
use crate::chain::SEG_MAX;
use crate::connection::Connection;
use crate::disk::{Disk, ZERO_LIMITS};
use crate::guest_memory::{Memory, SharedMemory};
use crate::overlay::Scratch;
use crate::ring::Ring;
use crate::stats::{Statistics, Tally};
use crate::warmer::Warmer;
use policy::logging::chain;
use protocol::config_space::Geometry;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

/// Queues of the device.
const QUEUES: u16 = 2;

/// A device, and perhaps a frontend.
pub struct Frontends {
    disk: Arc<Disk>,
    rings: Vec<Arc<Ring>>,
    bell: Arc<Bell>,
    backend: Arc<Mutex<Backend>>,
    connection: Option<Connection>,
    scratch: Scratch,
    tally: Tally,
}

impl std::fmt::Debug for Frontends {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frontends").finish_non_exhaustive()
    }
}

impl Frontends {
    /// A device that nobody has spoken to.
    ///
    /// # Panics
    /// There are no descriptors.
    #[must_use]
    pub fn new(spec: &DiskSpec<'_>, require_seals: bool) -> Self {
        let (disk, _) = spec.disk();
        let disk = Arc::new(disk);
        let memory = SharedMemory::new(Memory::new());
        let bell = Arc::new(Bell::new().expect("there are descriptors"));
        let warmer = Arc::new(Warmer::new(Arc::clone(&bell)));
        let ring = |index| {
            let nudge = Nudge::new(Arc::clone(&bell));
            Arc::new(Ring::new(index, 256, memory.clone(), nudge, Arc::clone(&warmer)).expect("a size of a ring"))
        };
        let rings: Vec<_> = (0..usize::from(QUEUES)).map(ring).collect();
        let geometry = Geometry {
            capacity: disk.capacity(),
            seg_max: SEG_MAX,
            num_queues: QUEUES,
            zeroing: (!disk.is_read_only()).then_some(ZERO_LIMITS),
        };
        let backend = Backend::new(Arc::clone(&disk), geometry, rings.clone(), memory, require_seals);
        Self {
            disk,
            rings,
            bell,
            backend: Arc::new(Mutex::new(backend)),
            connection: None,
            scratch: scratches(1, false).pop().expect("there is one"),
            tally: Statistics::new(1).tallies().next().expect("there is one"),
        }
    }

    /// A frontend connects, unless there is one.
    ///
    /// # Panics
    /// There are no descriptors.
    pub fn connect(&mut self, stream: UnixStream) {
        if self.connection.is_none() {
            let connection = Connection::new(stream, Arc::clone(&self.backend), false);
            self.connection = Some(connection.expect("there are descriptors"));
        }
    }

    /// Handles what the frontend said. Says whether it is still there.
    ///
    /// # Errors
    /// The helper would end: why.
    ///
    /// # Panics
    /// A bug was found.
    pub fn advance(&mut self) -> Result<bool, String> {
        let Some(connection) = &mut self.connection else {
            return Ok(false);
        };
        if connection.advance().is_ok() {
            return Ok(true);
        }
        self.hang_up().map(|()| false)
    }

    /// The frontend is gone, whatever it said last.
    ///
    /// # Errors
    /// The helper would end: why.
    ///
    /// # Panics
    /// A bug was found.
    pub fn hang_up(&mut self) -> Result<(), String> {
        self.connection = None;
        let mut backend = self.backend.lock().expect("nobody panicked");
        let before = backend.take_fatal();
        backend.disconnect();
        match before.or_else(|| backend.take_fatal()) {
            None => Ok(()),
            Some(fatal) => Err(chain(&fatal).to_string()),
        }
    }

    /// A turn of the worker: whoever is kicked, or is to be looked at, is served.
    ///
    /// # Panics
    /// A bug was found.
    pub fn turn(&mut self) {
        let mut kicked = [false; QUEUES as usize];
        let note = |index: usize| {
            if let Some(kicked) = kicked.get_mut(index) {
                *kicked = true;
            }
        };
        self.bell.wait(Sleep::None, note).expect("it can be waited for");
        for (ring, kicked) in self.rings.iter().zip(kicked) {
            if ring.take_nudge() | kicked {
                let found = ring.turn(&self.disk, &mut self.scratch, &mut self.tally, true);
                assert!(found.later.is_none(), "there are no limits");
                if found.look_again {
                    ring.nudge();
                }
            }
        }
    }
}
