//! Every descriptor table that is small enough to try them all.

use super::*;
use crate::guest_memory::{MemoryTable, RegionSpec};
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::fs::File;
use std::os::unix::fs::FileExt;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::GuestAddress;

const MEMORY: u64 = 0x3000;
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// A descriptor: address, length, flags, next.
type Raw = (u64, u32, u16, u16);

/// A guest whose whole memory is one page of descriptors and a ring.
struct Tables {
    file: File,
    memory: Memory,
    size: u16,
}

impl Tables {
    fn new(size: u16) -> Self {
        let file = File::from(memfd_create(c"test", MFdFlags::MFD_CLOEXEC).unwrap());
        file.set_len(MEMORY).unwrap();
        let mut table = MemoryTable::default();
        let spec = RegionSpec {
            guest_address: 0,
            bytes: MEMORY,
            frontend_address: 0,
            file_offset: 0,
        };
        table.add(spec, &file, false).unwrap();
        Self {
            file,
            memory: table.memory().unwrap(),
            size,
        }
    }

    /// Writes the table, and makes `head` available.
    fn put(&self, table: &[Raw], head: u16) {
        let mut bytes = Vec::new();
        for (address, length, flags, next) in table {
            bytes.extend(address.to_le_bytes());
            bytes.extend(length.to_le_bytes());
            bytes.extend(flags.to_le_bytes());
            bytes.extend(next.to_le_bytes());
        }
        self.file.write_all_at(&bytes, 0).unwrap();
        let ring = [0, 1, head].map(u16::to_le_bytes).concat();
        self.file.write_all_at(&ring, AVAILABLE).unwrap();
    }

    fn queue(&self) -> Queue {
        let mut queue = Queue::new(self.size).unwrap();
        queue.try_set_avail_ring_address(GuestAddress(AVAILABLE)).unwrap();
        queue.try_set_used_ring_address(GuestAddress(USED)).unwrap();
        queue.set_ready(true);
        queue
    }
}

/// What the chain is by the book, seen by who reads the table as a whole: the buffers, or nothing if it is unsound. As many
/// descriptors are followed as a chain may have.
fn by_the_book(table: &[Raw], size: u16, head: u16) -> Option<(usize, usize)> {
    let (mut readable, mut writable, mut index, mut left, mut end) = (0, 0, head, size, size);
    let mut inside = false;
    loop {
        if index >= end || left == 0 {
            return None;
        }
        let (address, length, flags, next) = table[usize::from(index)];
        if flags & INDIRECT != 0 {
            // All tables here are the one table: from its beginning, as far as it is said to go.
            if inside || length == 0 {
                return None;
            }
            (inside, index, end) = (true, 0, u16::try_from(length / 16).unwrap());
            left = end;
            continue;
        }
        left -= 1;
        let bytes = usize::try_from(length).unwrap();
        if address + u64::from(length) > MEMORY && length > 0 || flags & WRITE == 0 && writable > 0 {
            return None;
        }
        if flags & WRITE == 0 {
            readable += bytes;
        } else {
            writable += bytes;
        }
        if flags & NEXT == 0 {
            return (writable > 0).then(|| (readable, writable - 1));
        }
        index = next;
    }
}

/// Every list of `count` things out of `choices`.
fn lists<T: Copy>(choices: &[T], count: u32) -> impl Iterator<Item = Vec<T>> {
    let base = choices.len();
    (0..base.pow(count)).map(move |mut number| {
        let digit = |_| {
            let choice = choices[number % base];
            number /= base;
            choice
        };
        (0..count).map(digit).collect()
    })
}

fn try_all(choices: &[Raw], size: u16, heads: u16) {
    let tables = Tables::new(size);
    let (mut sound, mut unsound) = (0, 0);
    for table in lists(choices, size.into()) {
        for head in 0..heads {
            tables.put(&table, head);
            let mut queue = tables.queue();
            let chain = queue.iter(&tables.memory).unwrap().next().unwrap();
            let mut walk = Walk::new();

            let loaded = walk.load(chain, &tables.memory);

            // The ring's own and, by way of one of them, the indirect table's.
            let slices = walk.readable.len() + walk.writable.len();
            assert!(slices <= usize::from(size) * 2, "{table:?} {head}");
            match by_the_book(&table, size, head) {
                Some(lengths) => {
                    let found = loaded.map(|()| (walk.readable().len(), walk.writable().len()));
                    assert_eq!(found, Ok(lengths), "{table:?} {head}");
                    assert!(walk.status().is_some());
                    sound += 1;
                }
                None => {
                    assert!(loaded.is_err(), "{table:?} {head}");
                    unsound += 1;
                }
            }
        }
    }
    assert!(sound > 100 && unsound > 100, "{sound} sound, {unsound} unsound");
}

/// Exhaustive: every table of two entries, of every flag, every next entry up to one too many, buffers in memory, across its end
/// and outside, of no byte, of 16 (one entry of an indirect table) and of 32.
#[test]
fn every_table_of_two_entries_is_walked_by_the_book() {
    let mut choices = Vec::new();
    for flags in 0..8 {
        for next in 0..=2 {
            for length in [0, 16, 32] {
                // Where an indirect table is, it is the table itself.
                let places: &[u64] = if flags & INDIRECT == 0 {
                    &[0, MEMORY - 16, MEMORY]
                } else {
                    &[0]
                };
                choices.extend(places.iter().map(|place| (*place, length, flags, next)));
            }
        }
    }
    try_all(&choices, 2, 2);
}

/// Exhaustive: every table of four entries of one buffer each, of every flag but INDIRECT and every next entry in it. All loops
/// are among them. It is enough to begin with the first entry: to begin with another is to name them in another order.
#[test]
fn every_table_of_four_entries_is_walked_to_its_end_or_found_to_have_none() {
    let flags = [0, NEXT, WRITE, NEXT | WRITE];
    let choices: Vec<Raw> = flags
        .into_iter()
        .flat_map(|flags| (0..4).map(move |next| (0, 16, flags, next)))
        .collect();
    try_all(&choices, 4, 1);
}
