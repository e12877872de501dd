//! One queue of a disk, drained on the caller's thread.

use super::{DiskSpec, scratches};
use crate::bell::{Bell, Nudge};
use crate::disk::Disk;
use crate::guest_memory::{MemoryTable, RegionSpec, SharedMemory};
use crate::overlay::{Scratch, Work};
use crate::request::Request;
use crate::ring::Ring;
use crate::stats::{Statistics, Tally};
use crate::transfer::{Buffers, GuestSlice, Patience};
use crate::warmer::Warmer;
use nix::sys::eventfd::{EfdFlags, EventFd};
use protocol::blk::Status;
use protocol::units::{Sector, SectorCount};
use std::cell::RefCell;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Where the parts of the queue are in guest memory.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Entries.
    pub size: u16,
    /// The descriptor table.
    pub descriptors: u64,
    /// The available ring.
    pub available: u64,
    /// The used ring.
    pub used: u64,
    /// Whether the driver negotiated event indices.
    pub event_idx: bool,
}

/// A disk, and a guest with a driver for it that is yet to be written.
pub struct Guest {
    disk: Disk,
    ring: Ring,
    scratch: Option<Scratch>,
    encrypted: bool,
    tally: Tally,
}

thread_local! {
    /// Making a key reads /proc, which takes a thousand times as long as a request.
    static ENCRYPTING: RefCell<Vec<Scratch>> = const { RefCell::new(Vec::new()) };
}

impl Drop for Guest {
    fn drop(&mut self) {
        let scratch = self.scratch.take().filter(|_| self.encrypted);
        ENCRYPTING.with_borrow_mut(|kept| kept.extend(scratch));
    }
}

impl Guest {
    /// A disk for a guest whose memory is the file `memory`: stretches of it, each an address, a length, and an offset in the file.
    ///
    /// # Panics
    /// The layout is one that the device does not accept.
    #[must_use]
    pub fn new(spec: &DiskSpec<'_>, memory: &File, stretches: &[[u64; 3]], layout: Layout) -> Self {
        let (disk, _) = spec.disk();
        let mut table = MemoryTable::default();
        for &[guest_address, bytes, file_offset] in stretches {
            let region = RegionSpec {
                guest_address,
                bytes,
                frontend_address: guest_address,
                file_offset,
            };
            table.add(region, memory, false).expect("a region of a memfd");
        }
        let shared = SharedMemory::new(table.memory().expect("the stretches are apart"));
        let bell = Arc::new(Bell::new().expect("there are descriptors"));
        let warmer = Arc::new(Warmer::new(Arc::clone(&bell)));
        let ring = Ring::new(0, 256, shared, Nudge::new(bell), warmer).expect("a size of a ring");
        let eventfd = || EventFd::from_flags(EfdFlags::EFD_NONBLOCK).expect("there are descriptors");
        {
            let mut quiesced = ring.quiesce().expect("nobody has it");
            assert!(quiesced.set_size(layout.size.into()));
            assert!(quiesced.set_addresses(layout.descriptors, layout.available, layout.used));
            quiesced.set_event_idx(layout.event_idx);
            quiesced.set_enabled(true);
            quiesced
                .set_kick(File::from(OwnedFd::from(eventfd())))
                .expect("it can be waited for");
            quiesced.set_call(Some(File::from(OwnedFd::from(eventfd()))));
            quiesced.update(&disk).expect("its memory is new");
        }
        let scratch = if spec.encrypted {
            let kept = ENCRYPTING.with_borrow_mut(Vec::pop);
            kept.or_else(|| scratches(1, true).pop())
        } else {
            scratches(1, false).pop()
        };
        Self {
            disk,
            ring,
            scratch,
            encrypted: spec.encrypted,
            tally: Statistics::new(1).tallies().next().expect("there is one"),
        }
    }

    /// One turn of the queue's worker. Says whether it would look again at once.
    ///
    /// # Panics
    /// A bug was found.
    pub fn turn(&mut self, must_kick: bool) -> bool {
        let scratch = self.scratch.as_mut().expect("it is given back at the end");
        let found = self.ring.turn(&self.disk, scratch, &mut self.tally, must_kick);
        assert!(found.later.is_none(), "there are no limits");
        found.look_again
    }

    /// Everything on the disk, read without the queue.
    ///
    /// # Panics
    /// It cannot be read.
    #[must_use]
    pub fn disk(&mut self) -> Vec<u8> {
        let capacity = self.disk.capacity();
        let mut content = vec![0xee; usize::try_from(capacity.bytes()).expect("it is small")];
        let slices = [GuestSlice::from(&mut content[..])];
        let request = Request::Read {
            sector: Sector(0),
            count: SectorCount(capacity.sectors().0),
            into: Buffers::new(&slices),
        };
        let stop = AtomicBool::new(false);
        let scratch = self.scratch.as_mut().expect("it is given back at the end");
        scratch.cold.begin(Patience::Endless);
        let done = self.disk.execute(&request, &mut Work { stop: &stop, scratch });
        assert_eq!(done.expect("there is all the patience it needs").status, Status::Ok);
        content
    }
}

impl std::fmt::Debug for Guest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guest").finish_non_exhaustive()
    }
}
