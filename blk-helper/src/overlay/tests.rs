//! The overlay against the dumbest possible model: an array of bytes.

use super::*;
use crate::base::BaseSource;
use crate::cipher::Cipher;
use crate::transfer::GuestSlice;
use proptest::prelude::*;
use protocol::units::{Capacity, Sector, SectorCount};
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

mod concurrency;
mod encryption;
mod frozen;
#[cfg(feature = "shuttle")]
mod interleavings;
mod reset;

const SECTOR: usize = 512;

/// A disk over a temporary base, with the model beside it.
struct Bench {
    overlay: Overlay,
    model: Vec<u8>,
    base: tempfile::NamedTempFile,
    pristine: Vec<u8>,
    scratch: Scratch,
    stop: AtomicBool,
}

impl Bench {
    /// An encrypted overlay.
    fn new(base_bytes: usize, limits: Limits) -> Self {
        Self::with_or_without_cipher(base_bytes, limits, true)
    }

    fn with_or_without_cipher(base_bytes: usize, limits: Limits, encrypted: bool) -> Self {
        let pristine: Vec<u8> = (0..base_bytes)
            .map(|i| u8::try_from(i / 7 % 255).unwrap() + 1)
            .collect();
        let base = tempfile::NamedTempFile::new().unwrap();
        fs::write(base.path(), &pristine).unwrap();
        let open = Base::open(BaseSource::Path(base.path().to_owned()), true).unwrap();
        let mut model = pristine.clone();
        model.resize(usize::try_from(open.capacity().bytes()).unwrap(), 0);
        let dir = OverlayDir {
            path: "/var/tmp".into(),
            named: true,
        };
        Self {
            overlay: Overlay::new(
                open,
                [OverlayFile::create(&dir).unwrap(), OverlayFile::create(&dir).unwrap()],
                limits,
            )
            .unwrap(),
            model,
            base,
            pristine,
            scratch: Scratch::new(encrypted.then(cipher)),
            stop: AtomicBool::new(false),
        }
    }

    fn range(&self, sector: usize, count: usize) -> ByteRange {
        let disk = Capacity::of_image(self.model.len() as u64).unwrap();
        disk.range(Sector(sector as u64), SectorCount(count as u64)).unwrap()
    }

    fn read(&mut self, sector: usize, count: usize) -> Vec<u8> {
        let mut memory = vec![0xee; count * SECTOR];
        let slices = [GuestSlice::from(&mut memory[..])];
        let mut work = Work {
            stop: &self.stop,
            scratch: &mut self.scratch,
        };
        let disk = Capacity::of_image(self.model.len() as u64).unwrap();
        let range = disk.range(Sector(sector as u64), SectorCount(count as u64)).unwrap();
        self.overlay.read(range, Buffers::new(&slices), &mut work).unwrap();
        memory
    }

    fn write(&mut self, sector: usize, data: &mut [u8]) -> Result<(), OverlayError> {
        let range = self.range(sector, data.len() / SECTOR);
        let copy = data.to_vec();
        let slices = [GuestSlice::from(data)];
        let mut work = Work {
            stop: &self.stop,
            scratch: &mut self.scratch,
        };
        self.overlay.write(range, Buffers::new(&slices), &mut work)?;
        let start = sector * SECTOR;
        self.model[start..start + copy.len()].copy_from_slice(&copy);
        Ok(())
    }

    fn write_zeroes(&mut self, sector: usize, count: usize) -> Result<(), OverlayError> {
        let range = self.range(sector, count);
        let mut work = Work {
            stop: &self.stop,
            scratch: &mut self.scratch,
        };
        self.overlay.write_zeroes(range, &mut work)?;
        self.model[sector * SECTOR..(sector + count) * SECTOR].fill(0);
        Ok(())
    }

    fn apply(&mut self, operations: Vec<(Operation, usize, usize)>) {
        let sectors = self.model.len() / SECTOR;
        for (operation, sector, count) in operations {
            let sector = sector.min(sectors - 1);
            let count = count.min(sectors - sector);
            match operation {
                Operation::Write(byte) => self.write(sector, &mut vec![byte; count * SECTOR]).unwrap(),
                Operation::Zero => self.write_zeroes(sector, count).unwrap(),
                Operation::Discard => self.discard(sector, count).unwrap(),
            }
        }
    }

    fn discard(&mut self, sector: usize, count: usize) -> Result<(), OverlayError> {
        let range = self.range(sector, count);
        let work = Work {
            stop: &self.stop,
            scratch: &mut self.scratch,
        };
        self.overlay.discard(range, &work)?;
        let (start, end) = (sector * SECTOR, (sector + count) * SECTOR);
        for cluster in (0..self.model.len()).step_by(CLUSTER) {
            let cluster_end = (cluster + CLUSTER).min(self.model.len());
            if start <= cluster && cluster_end <= end {
                self.model[cluster..cluster_end].fill(0);
            }
        }
        Ok(())
    }

    fn check(&mut self) {
        let sectors = self.model.len() / SECTOR;
        let found = self.read(0, sectors);
        assert!(found == self.model, "the disk differs from the model");
        assert!(
            fs::read(self.base.path()).unwrap() == self.pristine,
            "the base was written"
        );
    }

    fn in_use(&self) -> u64 {
        self.overlay.slots().in_use()
    }
}

fn cipher() -> Cipher {
    Cipher::with_new_key(1).unwrap().0.remove(0)
}

/// Scratches of one overlay.
fn scratches(count: usize) -> Vec<Scratch> {
    let (ciphers, _) = Cipher::with_new_key(count).unwrap();
    ciphers.into_iter().map(|cipher| Scratch::new(Some(cipher))).collect()
}

const UNLIMITED: Limits = Limits {
    overlay_bytes: u64::MAX,
    map_bytes: u64::MAX,
    keep_free_bytes: 0,
};

#[derive(Clone, Debug)]
enum Operation {
    Write(u8),
    Zero,
    Discard,
}

fn operations() -> impl Strategy<Value = Vec<(Operation, usize, usize)>> {
    let operation = prop_oneof![
        3 => any::<u8>().prop_map(Operation::Write),
        1 => Just(Operation::Zero),
        1 => Just(Operation::Discard),
    ];
    prop::collection::vec((operation, 0usize..4400, 1usize..200), 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn random_operations_agree_with_the_model(
        // More than two regions, so that requests cross them; the end is no multiple of a cluster or a sector.
        tail in 0usize..9000, encrypted: bool, operations in operations()
    ) {
        let mut bench = Bench::with_or_without_cipher((2 << 20) + 100_000 + tail, UNLIMITED, encrypted);
        bench.apply(operations);
        bench.check();
    }
}

#[test]
fn a_partial_write_to_a_clean_cluster_keeps_the_rest_of_the_base() {
    let mut bench = Bench::new(3 * CLUSTER, UNLIMITED);
    bench.write(9, &mut [0xaa; SECTOR]).unwrap();
    bench.check();
    assert_eq!(bench.in_use(), 1);
}

#[test]
fn a_partial_write_to_a_zero_cluster_keeps_zeros_around_it() {
    let mut bench = Bench::new(3 * CLUSTER, UNLIMITED);
    bench.write_zeroes(8, 8).unwrap();
    bench.write(9, &mut [0xaa; SECTOR]).unwrap();
    bench.check();
}

#[test]
fn the_last_cluster_is_whole_where_the_disk_ends() {
    let mut bench = Bench::new(CLUSTER + 3 * SECTOR, UNLIMITED);
    bench.write(8, &mut [0xaa; 3 * SECTOR]).unwrap();
    assert_eq!(bench.in_use(), 1);
    bench.discard(8, 3).unwrap();
    bench.check();
    assert_eq!(bench.in_use(), 0);
}

#[test]
fn a_discarded_slot_is_used_again_and_shows_nothing_of_its_past() {
    let mut bench = Bench::new(8 * CLUSTER, UNLIMITED);
    bench.write(0, &mut [0xaa; CLUSTER]).unwrap();
    bench.discard(0, 8).unwrap();

    bench.write(17, &mut [0xbb; SECTOR]).unwrap();

    bench.check();
    assert_eq!(bench.in_use(), 1);
    assert_eq!(medium(&bench).len(), CLUSTER, "the file grew instead");
}

#[test]
fn discarding_gives_the_space_back() {
    use std::os::unix::fs::MetadataExt;
    let mut bench = Bench::new(4 << 20, UNLIMITED);
    bench.write(0, &mut vec![0xaa; 4 << 20]).unwrap();
    let file = file(&bench);
    file.sync_all().unwrap();
    assert!(file.metadata().unwrap().blocks() * 512 >= 4 << 20);

    bench.discard(0, (4 << 20) / SECTOR).unwrap();

    assert!(file.metadata().unwrap().blocks() * 512 < 64 << 10);
    bench.check();
}

#[test]
fn at_the_limit_writes_fail_and_earlier_data_stays() {
    let limits = Limits {
        overlay_bytes: 4 * CLUSTER_BYTES,
        ..UNLIMITED
    };
    let mut bench = Bench::new(16 * CLUSTER, limits);
    bench.write(0, &mut [0xaa; 4 * CLUSTER]).unwrap();

    for sector in [32, 33] {
        let refused = bench.write(sector, &mut [0xbb; SECTOR]);
        assert!(matches!(refused, Err(OverlayError::LimitReached)));
    }
    bench.write(1, &mut [0xcc; CLUSTER]).unwrap();
    bench.check();

    bench.discard(0, 8).unwrap();
    bench.write(33, &mut [0xbb; SECTOR]).unwrap();
    bench.check();
}

#[test]
fn a_limit_below_what_is_in_use_stops_growth_and_nothing_else() {
    let mut bench = Bench::new(16 * CLUSTER, UNLIMITED);
    bench.write(0, &mut [0xaa; 4 * CLUSTER]).unwrap();
    bench.overlay.set_limit(2 * CLUSTER_BYTES);

    for slots_left in [4, 3, 2] {
        let refused = bench.write(64, &mut [0xbb; SECTOR]);
        assert!(matches!(refused, Err(OverlayError::LimitReached)));
        assert_eq!(bench.in_use(), slots_left);
        let last = 8 * (usize::try_from(slots_left).unwrap() - 1);
        bench.write(last, &mut [0xcc; CLUSTER]).unwrap();
        bench.discard(last, 8).unwrap();
        bench.check();
    }

    bench.write(64, &mut [0xbb; SECTOR]).unwrap();
    bench.overlay.set_limit(u64::MAX);
    assert_eq!(bench.overlay.limit_bytes(), 16 * CLUSTER_BYTES);
    bench.write(0, &mut [0xdd; 16 * CLUSTER]).unwrap();
    bench.check();
}

#[test]
fn at_the_floor_new_places_fail_and_known_ones_go_on() {
    let mut bench = Bench::new(16 * CLUSTER, UNLIMITED);
    bench.write(0, &mut [0xaa; 4 * CLUSTER]).unwrap();
    bench.overlay.floor().change(u64::MAX);

    let refused = bench.write(64, &mut [0xbb; SECTOR]);
    assert!(matches!(refused, Err(OverlayError::FloorReached(_))));
    bench.write(8, &mut [0xcc; CLUSTER]).unwrap();
    bench.check();

    bench.overlay.floor().change(0);
    bench.write(64, &mut [0xbb; SECTOR]).unwrap();
    bench.check();
}

#[test]
fn at_the_map_limit_new_places_fail_and_known_ones_go_on() {
    let limits = Limits {
        map_bytes: 4096,
        ..UNLIMITED
    };
    let mut bench = Bench::new(6 << 20, limits);
    bench.write(0, &mut [0xaa; CLUSTER]).unwrap();

    let beyond = (4 << 20) / SECTOR;
    let refused = bench.write(beyond, &mut [0xbb; CLUSTER]);
    assert!(matches!(refused, Err(OverlayError::MapLimitReached)));
    assert!(matches!(bench.discard(beyond, 8), Err(OverlayError::MapLimitReached)));
    assert_eq!(bench.in_use(), 1);

    bench.write(8, &mut [0xcc; CLUSTER]).unwrap();
    bench.check();
}

#[test]
fn a_failed_fill_leaves_the_cluster_as_it_was_and_its_slot_free() {
    let mut bench = Bench::new(2 * CLUSTER, UNLIMITED);
    // A base that shrank underneath cannot fill a cluster.
    bench.base.as_file().set_len(CLUSTER_BYTES).unwrap();

    let failed = bench.write(9, &mut [0xaa; SECTOR]);

    assert!(matches!(failed, Err(OverlayError::Io { .. })));
    assert_eq!(bench.in_use(), 0);
    // A whole cluster needs nothing of the base.
    bench.write(8, &mut [0xbb; CLUSTER]).unwrap();
    assert!(bench.read(8, 8).iter().all(|byte| *byte == 0xbb));
}

#[test]
fn a_stopped_request_begins_no_slice() {
    let mut bench = Bench::new(4 << 20, UNLIMITED);
    bench.stop.store(true, Ordering::Relaxed);
    let stopped = bench.write(0, &mut vec![0xaa; 4 << 20]);
    assert!(matches!(stopped, Err(OverlayError::Stopped)));
    bench.stop.store(false, Ordering::Relaxed);
    bench.check();
}

fn file(bench: &Bench) -> fs::File {
    bench.overlay.file().as_fd().try_clone_to_owned().unwrap().into()
}

/// The overlay's file as whoever gets the medium later would see it.
fn medium(bench: &Bench) -> Vec<u8> {
    let file = file(bench);
    let mut found = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    file.read_exact_at(&mut found, 0).unwrap();
    found
}
