//! The control thread with its clients, one turn at a time, for the fuzz targets (`tests/fuzz`), and compiled only for them.
//! Workers, warmer and saver are threads as in a helper.

use super::{End, Next, Server};
use crate::args::Config;
use crate::clients::ControlDoor;
use crate::door::{Admission, Door};
use crate::fuzzing::{DiskSpec, scratches};
use crate::resources::{Resources, SavingKit, Ways};
use crate::save::Output;
use crate::service::Service;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, getsockname, listen, socket,
};
use policy::Report;
use policy::logging::chain;
use protocol::control::{AtLimit, LimitsChange, Rate};
use std::ops::ControlFlow;
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take that ends by itself.
const PATIENCE: Duration = Duration::from_secs(20);

/// A helper for whoever gives orders.
pub struct Operators {
    server: Server,
    address: UnixAddr,
}

impl std::fmt::Debug for Operators {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Operators").finish_non_exhaustive()
    }
}

impl Operators {
    /// A helper that nobody has spoken to. Its threads never end.
    ///
    /// # Panics
    /// It cannot be set up.
    #[must_use]
    pub fn new(spec: &DiskSpec<'_>) -> Self {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let listener = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).expect("there are descriptors");
        bind(listener.as_raw_fd(), &UnixAddr::new_unnamed()).expect("the kernel finds a name");
        listen(&listener, Backlog::new(8).expect("eight are few")).expect("it is bound");
        let address = getsockname(listener.as_raw_fd()).expect("it is bound");
        let (disk, events) = spec.disk();
        let mut scratches = scratches(2, spec.encrypted);
        let saving = scratches.pop().map(|scratch| SavingKit {
            scratch,
            output: Output::reserve().expect("there is /dev/null"),
            key: None,
        });
        let me = nix::unistd::getuid().as_raw();
        let resources = Resources {
            disk,
            overlay: None,
            scratches,
            saving,
            door: Door::Closed,
            admission: Admission::new(me, me),
            ways: Ways {
                operator: None,
                control_door: Some(ControlDoor::new(listener)),
            },
            events,
            notify: None,
        };
        let config = Config::from_words(&["blk-helper", "--blk-file", "fd:3", "--num-queues", "1"]);
        let service = Service::start(resources, &config, 1).expect("it can be set up");
        service.prove().expect("the threads are there");
        Self {
            server: Server::new(service, Report::default()).expect("it can be waited for"),
            address,
        }
    }

    /// A client connects.
    ///
    /// # Panics
    /// It cannot.
    #[must_use]
    pub fn connect(&self) -> OwnedFd {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let client = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).expect("there are descriptors");
        connect(client.as_raw_fd(), &self.address).expect("there is room for it to wait");
        client
    }

    /// A turn of the control thread.
    ///
    /// # Errors
    /// The helper would end: why.
    ///
    /// # Panics
    /// A bug was found.
    pub fn turn(&mut self) -> Result<(), String> {
        let now = Instant::now();
        let worked = self.server.work().expect("its descriptors are open");
        self.server
            .wait(Next::Within(Duration::ZERO), now)
            .expect("its descriptors are open");
        match worked {
            ControlFlow::Continue(_) => Ok(()),
            ControlFlow::Break(end) => {
                self.server.stopping = false;
                assert!(matches!(end, End::Stopped | End::Fatal(_)), "{}", chain(&end));
                Err(chain(&end).to_string())
            }
        }
    }

    /// All have left: the helper comes to rest, and can be reset.
    ///
    /// # Panics
    /// It does not or cannot.
    pub fn settle(&mut self) {
        let begun = Instant::now();
        loop {
            // Enough for what the last ones said before they left.
            for _ in 0..8 {
                let _ = self.turn();
            }
            // One that left in the middle of a message has five seconds for the rest of it.
            let _ = self.server.part_if_gone();
            if self.server.connection.is_none() && !self.server.service.is_saving() {
                break;
            }
            assert!(begun.elapsed() < PATIENCE, "it does not come to rest");
            thread::yield_now();
        }
        let change = LimitsChange {
            overlay_bytes: Some(u64::MAX),
            iops: Some(Rate::UNLIMITED),
            bandwidth: Some(Rate::UNLIMITED),
            keep_free_bytes: Some(0),
            at_limit: Some(AtLimit::Error),
        };
        self.server.service.change_limits(&change).expect("there is an overlay");
        self.server.service.reset().expect("nobody uses the disk");
    }
}
