//! One virtqueue written byte by byte, and the eventfds that go with it.
//!
//! Guest memory has this plan (offsets):
//!
//! ```text
//!   0 ..16 MiB   a mebibyte per ring: descriptors at 0, avail at 512 KiB, used at 640 KiB
//!  16 ..17 MiB   headers, status bytes and indirect tables, wherever a test wants them
//!  17 ..32 MiB   data
//! ```
//!
//! It knows rings, not what goes through them, and not the frontend.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::memory::GuestMemory;
use crate::spec::Desc;

/// How much memory the guest has.
pub const MEMORY: u64 = 32 << 20;
/// Where a test may put small things.
pub const SMALL: u64 = 16 << 20;
/// Where a test may put data.
pub const DATA: u64 = 17 << 20;

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(10);

/// What came back for a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// Which head.
    pub head: u32,
    /// How many bytes the device says it wrote.
    pub len: u32,
}

/// One ring and its three eventfds.
#[derive(Debug)]
pub struct RawRing {
    index: u32,
    size: u16,
    avail: u16,
    used: u16,
    /// Driver to device.
    pub kick: EventFd,
    /// Device to driver.
    pub call: EventFd,
    /// The device gave the ring up.
    pub err: EventFd,
}

impl RawRing {
    /// A ring of `size` that nobody was told about yet.
    ///
    /// # Panics
    ///
    /// If the kernel has no eventfds to give.
    #[must_use]
    pub fn new(index: u32, size: u16) -> Self {
        let eventfd = || {
            EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
                .expect("the kernel has eventfds to give")
        };
        Self {
            index,
            size,
            avail: 0,
            used: 0,
            kick: eventfd(),
            call: eventfd(),
            err: eventfd(),
        }
    }

    /// Which it is.
    #[must_use]
    pub const fn index(&self) -> u32 {
        self.index
    }

    /// How many descriptors it has.
    #[must_use]
    pub const fn size(&self) -> u16 {
        self.size
    }

    /// Where its descriptor table is.
    #[must_use]
    pub fn table(&self) -> u64 {
        u64::from(self.index) << 20
    }

    /// Where its available ring is.
    #[must_use]
    pub fn avail_ring(&self) -> u64 {
        self.table() + (512 << 10)
    }

    /// Where its used ring is.
    #[must_use]
    pub fn used_ring(&self) -> u64 {
        self.table() + (640 << 10)
    }

    /// Puts descriptors into the table, from entry `first` on.
    pub fn put(&self, memory: &GuestMemory, first: u16, descs: &[Desc]) {
        let bytes: Vec<u8> = descs.iter().flat_map(|desc| desc.bytes()).collect();
        memory.write(self.table() + 16 * u64::from(first), &bytes);
    }

    /// Makes heads available, all at once.
    pub fn publish(&mut self, memory: &GuestMemory, heads: &[u16]) {
        for head in heads {
            let entry = self.avail_ring() + 4 + 2 * u64::from(self.avail % self.size);
            memory.write(entry, &head.to_le_bytes());
            self.avail = self.avail.wrapping_add(1);
        }
        self.publish_index(memory, self.avail);
    }

    /// Claims any number of available heads.
    pub fn publish_index(&mut self, memory: &GuestMemory, index: u16) {
        self.avail = index;
        memory.store_index(self.avail_ring() + 2, index);
    }

    /// Kicks.
    ///
    /// # Panics
    ///
    /// If the eventfd is full, which takes 2^64 kicks.
    pub fn kick(&self) {
        self.kick.write(1).expect("a kick eventfd has room");
    }

    /// Takes what is new in the used ring.
    pub fn take_used(&mut self, memory: &GuestMemory) -> Vec<Used> {
        let mut all = Vec::new();
        while memory.load_index(self.used_ring() + 2) != self.used {
            let entry = self.used_ring() + 4 + 8 * u64::from(self.used % self.size);
            all.push(Used {
                head: memory.read_u32(entry),
                len: memory.read_u32(entry + 4),
            });
            self.used = self.used.wrapping_add(1);
        }
        all
    }

    /// Waits for `count` used heads.
    ///
    /// # Panics
    ///
    /// If they do not come.
    pub fn wait_used(&mut self, memory: &GuestMemory, count: usize) -> Vec<Used> {
        let begun = Instant::now();
        let mut all = self.take_used(memory);
        while all.len() < count {
            assert!(
                begun.elapsed() < ANSWER,
                "ring {}: {} of {count} heads came back",
                self.index,
                all.len()
            );
            std::thread::sleep(Duration::from_micros(200));
            all.extend(self.take_used(memory));
        }
        all
    }
}

/// Whether an eventfd is signalled within `limit`.
///
/// # Panics
///
/// If the kernel refuses to poll.
#[must_use]
pub fn signalled(eventfd: &EventFd, limit: Duration) -> bool {
    let limit = PollTimeout::try_from(limit).expect("limits are seconds");
    let mut fds = [PollFd::new(eventfd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, limit).expect("eventfds of ours can be polled") > 0
}
