//! A virtual machine without a machine: a vhost-user-blk frontend and its driver, both from the `virtio-driver` crate.
//!
//! The rings, the requests and the vhost-user messages are that crate's, written by people who do not know Mayfly; this
//! file only gives it guest memory and keeps many requests in flight over many queues. It knows nothing about what a
//! disk should contain.
//!
//! This is the one file of the crate with `unsafe`: the driver takes buffers as pointers. It puts their numbers
//! into descriptors and never follows them, so guest memory stays a memfd that nobody maps here.

#![expect(
    unsafe_code,
    reason = "virtio-driver takes guest buffers as raw pointers, which it never follows"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::ptr::without_provenance_mut;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use virtio_driver::{
    EventFd, QueueNotifier, VhostUser, VirtioBlkConfig, VirtioBlkFeatureFlags, VirtioBlkQueue, VirtioBlkTransport,
    VirtioFeatureFlags, iovec,
};

use crate::memory::GuestMemory;

pub use crate::request::{Buffer, Done, Request, SCRATCH_LEN, Setup};

/// How long a request may take. No request is that slow; only a lost one is.
const STALL: Duration = Duration::from_secs(30);

/// Where in guest memory the one buffer of the simple calls is.
const SCRATCH: u64 = 0;

/// What the driver keeps with a request.
#[derive(Debug)]
struct Ticket {
    token: u64,
    descriptors: usize,
}

/// One virtqueue and its two eventfds.
struct Queue {
    driver: VirtioBlkQueue<'static, Ticket>,
    kick: Box<dyn QueueNotifier>,
    call: Arc<EventFd>,
    free: usize,
    /// Requests were made available that the device was not told about.
    unannounced: bool,
}

/// A connected frontend with running queues.
pub struct Client {
    // Before the transport, whose memory the queues live in.
    queues: Vec<Queue>,
    transport: Box<VirtioBlkTransport>,
    memory: GuestMemory,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("queues", &self.queues.len())
            .field("memory", &self.memory)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Connects, negotiates, and starts the queues.
    ///
    /// # Errors
    ///
    /// What the crate reports: mostly that the helper closed the connection.
    pub fn try_connect(socket: &Path, setup: Setup) -> io::Result<Self> {
        let path = socket.to_str().ok_or(io::ErrorKind::InvalidInput)?;
        let mut transport: Box<VirtioBlkTransport> = Box::new(VhostUser::new(path, wanted_features(setup.event_idx))?);
        let memory = GuestMemory::sealed(SCRATCH_LEN + setup.memory);
        let len = usize::try_from(memory.len()).expect("guest memory is far below 2^64");
        transport.map_mem_region(address(memory.guest_address(0)), len, memory.as_raw_fd(), 0)?;
        let drivers = VirtioBlkQueue::setup_queues(transport.as_mut(), setup.queues, setup.queue_size)?;
        let queues = drivers
            .into_iter()
            .enumerate()
            .map(|(index, mut driver)| {
                driver.set_used_notif_enabled(true);
                Queue {
                    driver,
                    kick: transport.get_submission_notifier(index),
                    call: transport.get_completion_fd(index),
                    free: usize::from(setup.queue_size),
                    unannounced: false,
                }
            })
            .collect();
        Ok(Self {
            queues,
            transport,
            memory,
        })
    }

    /// As [`Self::try_connect`], waiting while the helper is still busy with the end of the connection before.
    ///
    /// # Panics
    ///
    /// If it does not succeed for five seconds.
    #[must_use]
    pub fn connect(socket: &Path, setup: Setup) -> Self {
        let begun = Instant::now();
        loop {
            match Self::try_connect(socket, setup) {
                Ok(client) => return client,
                Err(error) => {
                    assert!(
                        begun.elapsed() < Duration::from_secs(5),
                        "the helper takes no connection: {error}"
                    );
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        }
    }

    /// Guest memory; the caller's own part begins at [`SCRATCH_LEN`].
    #[must_use]
    pub const fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// The configuration space.
    ///
    /// # Panics
    ///
    /// If the helper does not answer.
    #[must_use]
    pub fn config(&self) -> VirtioBlkConfig {
        self.transport.get_config().expect("GET_CONFIG is answered")
    }

    /// The negotiated features.
    #[must_use]
    pub fn features(&self) -> u64 {
        self.transport.get_features()
    }

    /// The capacity in bytes.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        u64::from(self.config().capacity) * 512
    }

    /// How many queues are running.
    #[must_use]
    pub const fn queue_count(&self) -> usize {
        self.queues.len()
    }

    /// Whether `request` fits into the queue now.
    #[must_use]
    pub fn has_room(&self, queue: usize, request: &Request) -> bool {
        self.queues[queue].free >= request.descriptors()
    }

    /// Makes a request available. The device may only notice at the next [`Self::kick`].
    ///
    /// # Panics
    ///
    /// If the queue has no room, or the request is not one (an offset that is no multiple of 512).
    pub fn submit(&mut self, queue: usize, request: &Request, token: u64) {
        let descriptors = request.descriptors();
        let memory = &self.memory;
        let queue = &mut self.queues[queue];
        let ticket = Ticket { token, descriptors };
        let submitted = match request {
            Request::Read { offset, buffers } => {
                let segments = segments(memory, buffers);
                // SAFETY: the slice that pointer and length come from lives until the call returns. The buffers it
                // names are no memory of this process: `segments` made their pointers from guest addresses, without
                // provenance, and virtio-driver 0.6 only copies the numbers into descriptors
                // (`Virtqueue::add_request` and its identity translator for vhost-user).
                unsafe { queue.driver.readv(*offset, segments.as_ptr(), segments.len(), ticket) }
            }
            Request::Write { offset, buffers } => {
                let segments = segments(memory, buffers);
                // SAFETY: as for the read above.
                unsafe { queue.driver.writev(*offset, segments.as_ptr(), segments.len(), ticket) }
            }
            Request::Discard { offset, len } => queue.driver.discard(*offset, *len, ticket),
            Request::WriteZeroes { offset, len, unmap } => queue.driver.write_zeroes(*offset, *len, *unmap, ticket),
            Request::Flush => queue.driver.flush(ticket),
        };
        submitted.expect("the caller asked whether there was room");
        queue.free -= descriptors;
        queue.unannounced = true;
    }

    /// Tells the device about requests since the last kick, where there are any and it wants to be told.
    ///
    /// # Panics
    ///
    /// If the eventfd cannot be written.
    pub fn kick(&mut self, queue: usize) {
        let queue = &mut self.queues[queue];
        if std::mem::take(&mut queue.unannounced) && queue.driver.avail_notif_needed() {
            queue.kick.notify().expect("a kick eventfd has room");
        }
    }

    /// Takes what the queue has answered since the last time.
    pub fn completions(&mut self, queue: usize) -> Vec<Done> {
        let queue = &mut self.queues[queue];
        let mut all = Vec::new();
        for completion in queue.driver.completions() {
            queue.free += completion.context.descriptors;
            all.push(Done {
                token: completion.context.token,
                result: completion.ret,
            });
        }
        all
    }

    /// Sleeps until a queue calls, or `limit` has passed; false in the latter case.
    ///
    /// # Panics
    ///
    /// If the kernel refuses to poll.
    pub fn wait(&mut self, limit: Duration) -> bool {
        if self
            .queues
            .iter_mut()
            .any(|queue| queue.driver.completions().has_next())
        {
            return true;
        }
        let limit = PollTimeout::try_from(limit).expect("limits are seconds");
        let mut fds: Vec<_> = self
            .queues
            .iter()
            .map(|queue| PollFd::new(queue.call.as_fd(), PollFlags::POLLIN))
            .collect();
        let ready = poll(&mut fds, limit).expect("eventfds of ours can be polled");
        let called: Vec<_> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        for (queue, _) in self.queues.iter().zip(called).filter(|(_, called)| *called) {
            queue.call.read().expect("a readable eventfd can be read");
        }
        ready > 0
    }

    /// One request on queue 0, alone, and its result (0 or a negative `errno`).
    ///
    /// # Panics
    ///
    /// If it takes longer than any request may.
    pub fn run(&mut self, request: &Request) -> i32 {
        self.submit(0, request, u64::MAX);
        self.kick(0);
        let begun = Instant::now();
        loop {
            if let Some(done) = self.completions(0).pop() {
                return done.result;
            }
            self.wait(Duration::from_secs(1));
            assert!(begun.elapsed() < STALL, "no answer to {request:?}");
        }
    }

    /// Reads `len` bytes at `offset`, at most [`SCRATCH_LEN`].
    ///
    /// # Panics
    ///
    /// If the device answers with an error.
    pub fn read(&mut self, offset: u64, len: usize) -> Vec<u8> {
        let request = Request::Read {
            offset,
            buffers: vec![Buffer { at: SCRATCH, len }],
        };
        assert_eq!(self.run(&request), 0, "{request:?}");
        self.memory.read(SCRATCH, len)
    }

    /// Writes at most [`SCRATCH_LEN`] bytes at `offset`; 0 or a negative `errno`.
    pub fn try_write(&mut self, offset: u64, bytes: &[u8]) -> i32 {
        self.memory.write(SCRATCH, bytes);
        self.run(&Request::Write {
            offset,
            buffers: vec![Buffer {
                at: SCRATCH,
                len: bytes.len(),
            }],
        })
    }

    /// Writes at most [`SCRATCH_LEN`] bytes at `offset`.
    ///
    /// # Panics
    ///
    /// If the device answers with an error.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        assert_eq!(
            self.try_write(offset, bytes),
            0,
            "write of {} bytes at {offset}",
            bytes.len()
        );
    }

    /// The whole disk.
    ///
    /// # Panics
    ///
    /// If the device answers with an error.
    pub fn read_all(&mut self) -> Vec<u8> {
        let capacity = self.capacity();
        let mut all = Vec::new();
        let mut offset = 0;
        while offset < capacity {
            let len = (capacity - offset).min(1 << 20);
            all.extend(self.read(offset, usize::try_from(len).expect("at most a mebibyte")));
            offset += len;
        }
        all
    }
}

/// All that the device offers and the crate can do.
fn wanted_features(event_idx: bool) -> u64 {
    let ring = VirtioFeatureFlags::VERSION_1.bits()
        | if event_idx {
            VirtioFeatureFlags::RING_EVENT_IDX.bits()
        } else {
            0
        };
    ring | VirtioBlkFeatureFlags::all().bits()
}

/// Guest addresses in the shape in which the crate wants them.
fn segments(memory: &GuestMemory, buffers: &[Buffer]) -> Vec<iovec> {
    buffers
        .iter()
        .map(|buffer| iovec {
            iov_base: without_provenance_mut(address(memory.guest_address(buffer.at))),
            iov_len: buffer.len,
        })
        .collect()
}

fn address(guest: u64) -> usize {
    usize::try_from(guest).expect("usize has 64 bits on every supported target")
}
