//! A disk copied while it changes: the copy is what the model was at one moment, and nothing is left of it afterwards.

use super::super::frozen::{Frozen, FrozenRun};
use super::*;
use std::sync::atomic::AtomicU64;
use std::thread;

/// A copy that is made piece by piece.
struct Copy {
    pieces: Vec<ByteRange>,
    bytes: Vec<u8>,
    expected: Vec<u8>,
}

impl Copy {
    fn begin(bench: &Bench) -> Self {
        assert!(bench.overlay.freeze());
        assert!(!bench.overlay.freeze(), "two copies at a time");
        let mut pieces: Vec<ByteRange> = bench.overlay.frozen_pieces().collect();
        pieces.reverse();
        Self {
            pieces,
            bytes: Vec::new(),
            expected: bench.model.clone(),
        }
    }

    /// Copies the next piece, if there is one.
    fn go_on(&mut self, bench: &mut Bench) {
        let Some(piece) = self.pieces.pop() else { return };
        self.bytes.extend(copy_piece(&bench.overlay, piece, &mut bench.scratch));
        bench.overlay.thaw(piece);
    }

    /// Copies the rest and compares all of it.
    fn end(mut self, bench: &mut Bench) {
        while !self.pieces.is_empty() {
            self.go_on(bench);
        }
        bench.overlay.thawed();
        assert!(self.bytes == self.expected, "the copy is not the disk as it was");
    }

    /// Copies nothing more.
    fn give_up(self, bench: &Bench) {
        for piece in self.pieces.into_iter().rev() {
            bench.overlay.thaw(piece);
        }
        bench.overlay.thawed();
    }
}

pub(super) fn copy_piece(overlay: &Overlay, piece: ByteRange, scratch: &mut Scratch) -> Vec<u8> {
    let mut runs: Vec<FrozenRun> = Vec::new();
    overlay.frozen_runs(piece, &mut runs);
    let mut bytes = Vec::new();
    for run in &runs {
        if run.holds == Frozen::Zero {
            bytes.resize(bytes.len() + usize::try_from(run.part.len()).unwrap(), 0);
        } else {
            bytes.extend_from_slice(overlay.read_frozen(run, scratch).unwrap());
        }
    }
    bytes
}

/// Nothing is left of a copy: each dirty cluster has one slot, and the map's memory is what it was without.
fn assert_forgotten(bench: &Bench) {
    let status = bench.overlay.status(true);
    assert_eq!(status.used_bytes, status.dirty_clusters * CLUSTER_BYTES);
    assert!(status.map_bytes <= 4096 * (1 + u64::try_from(bench.model.len()).unwrap() / (4 << 20)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_copy_is_the_disk_at_the_moment_it_was_frozen(
        tail in 0usize..9000, encrypted: bool,
        before in operations(), between in operations(), during in operations(), after in operations(),
        gives_up: bool
    ) {
        let mut bench = Bench::with_or_without_cipher((2 << 20) + 100_000 + tail, UNLIMITED, encrypted);
        bench.apply(before);
        let mut copy = Copy::begin(&bench);
        bench.apply(between);
        copy.go_on(&mut bench);
        bench.apply(during);
        if gives_up {
            copy.give_up(&bench);
        } else {
            copy.end(&mut bench);
        }
        assert_forgotten(&bench);
        bench.check();
        bench.apply(after);
        bench.check();
        assert_forgotten(&bench);
    }
}

#[test]
fn what_a_copy_needs_counts_against_the_limit_and_comes_back() {
    let limits = Limits {
        overlay_bytes: 4 * CLUSTER_BYTES,
        ..UNLIMITED
    };
    let mut bench = Bench::new(16 * CLUSTER, limits);
    bench.write(0, &mut [0xaa; 3 * CLUSTER]).unwrap();
    let copy = Copy::begin(&bench);

    bench.write(0, &mut [0xbb; SECTOR]).unwrap();
    let refused = bench.write(8, &mut [0xcc; SECTOR]);
    assert!(matches!(refused, Err(OverlayError::LimitReached)));
    // What was written anew is overwritten in place, and what is discarded gives back what the copy does not need.
    bench.write(1, &mut [0xdd; SECTOR]).unwrap();
    bench.discard(0, 8).unwrap();
    bench.write(9, &mut [0xee; SECTOR]).unwrap();
    bench.check();
    assert_eq!(bench.overlay.status(true).used_bytes, 4 * CLUSTER_BYTES);

    copy.end(&mut bench);

    bench.check();
    assert_eq!(bench.overlay.status(true).used_bytes, 2 * CLUSTER_BYTES);
}

#[test]
fn what_the_copy_has_passed_is_overwritten_in_place() {
    let mut bench = Bench::new(4 << 20, UNLIMITED);
    bench.write(0, &mut vec![0xaa; 4 << 20]).unwrap();
    let mut copy = Copy::begin(&bench);
    copy.go_on(&mut bench);

    bench.write(0, &mut vec![0xbb; 1 << 20]).unwrap();
    assert_eq!(bench.overlay.status(true).used_bytes, 4 << 20);
    bench.write((1 << 20) / SECTOR, &mut [0xbb; CLUSTER]).unwrap();
    assert_eq!(bench.overlay.status(true).used_bytes, (4 << 20) + CLUSTER_BYTES);

    copy.end(&mut bench);
    assert_forgotten(&bench);
}

/// A discard that has looked up a run and is overtaken by a freeze before it records anything: what the copy keeps is not given to
/// others.
#[test]
fn a_discard_that_a_freeze_overtakes_leaves_the_copy_its_slots() {
    let mut bench = Bench::new(8 * CLUSTER, UNLIMITED);
    bench.write(0, &mut [0xaa; 8 * CLUSTER]).unwrap();
    let range = bench.overlay.capacity().range(Sector(0), SectorCount(32)).unwrap();
    let looked_up = bench.overlay.runs_to_change(range).next().unwrap();
    let copy = Copy::begin(&bench);

    bench.overlay.forget_run(looked_up).unwrap();
    bench.model[..4 * CLUSTER].fill(0);
    bench.write(0, &mut [0xbb; CLUSTER]).unwrap();

    copy.end(&mut bench);
    bench.check();
    assert_forgotten(&bench);
}

/// How far a thread has come: writes issued, and writes completed.
#[derive(Default)]
struct Progress {
    issued: AtomicU64,
    completed: AtomicU64,
}

/// Threads write all over the disk, each one write after the other. What a copy has of a thread must be what the thread wrote up to
/// some moment, no earlier than when the copy was asked for and no later than when that was answered.
#[test]
fn a_copy_made_while_threads_write_is_one_moment_of_each() {
    const THREADS: u64 = 3;
    const CLUSTERS: u64 = 1024;
    let mut bench = Bench::new(4 << 20, UNLIMITED);
    let mut writers = scratches(usize::try_from(THREADS).unwrap() + 1);
    // All of one key: the bench's own scratch has another.
    bench.scratch = writers.pop().unwrap();
    let (overlay, scratch) = (&bench.overlay, &mut bench.scratch);
    let stop = AtomicBool::new(false);
    let progress: Vec<Progress> = (0..THREADS).map(|_| Progress::default()).collect();
    thread::scope(|scope| {
        for ((thread, scratch), progress) in (0..THREADS).zip(&mut writers).zip(&progress) {
            let stop = &stop;
            scope.spawn(move || write_on(overlay, (thread, THREADS, CLUSTERS), scratch, stop, progress));
        }
        for copies in 1..8 {
            let written = |progress: &Progress| progress.completed.load(Ordering::SeqCst);
            while progress
                .iter()
                .any(|progress| written(progress) < copies * 2 * CLUSTERS / THREADS)
            {
                thread::yield_now();
            }
            let least: Vec<u64> = progress.iter().map(written).collect();
            assert!(overlay.freeze());
            let most: Vec<u64> = progress.iter().map(|p| p.issued.load(Ordering::SeqCst)).collect();
            let mut bytes = Vec::new();
            for piece in overlay.frozen_pieces() {
                bytes.extend(copy_piece(overlay, piece, scratch));
                overlay.thaw(piece);
            }
            overlay.thawed();
            for (thread, (least, most)) in (0..THREADS).zip(least.into_iter().zip(most)) {
                let found = writes_in(&bytes, (thread, THREADS, CLUSTERS));
                assert!((least..=most).contains(&found), "{least} <= {found} <= {most}");
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_forgotten(&bench);
}

/// A thread, of how many, and the clusters of all of them.
type Share = (u64, u64, u64);

/// The clusters of a thread in the order in which it writes them: far from each other, so that neighbours in time are in
/// different regions.
fn order((thread, threads, clusters): Share) -> impl Iterator<Item = u64> {
    (0..clusters / threads).map(move |step| (step * 337 * threads) % (clusters / threads * threads) + thread)
}

fn write_on(overlay: &Overlay, share: Share, scratch: &mut Scratch, stop: &AtomicBool, progress: &Progress) {
    for round in 1u64.. {
        for cluster in order(share) {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let mut data: Vec<u8> = round.to_le_bytes().repeat(CLUSTER / 8);
            let slices = [GuestSlice::from(&mut data[..])];
            let mut work = Work {
                stop: &AtomicBool::new(false),
                scratch,
            };
            let range = overlay.capacity().range(Sector(cluster * 8), SectorCount(8)).unwrap();
            progress.issued.fetch_add(1, Ordering::SeqCst);
            overlay.write(range, Buffers::new(&slices), &mut work).unwrap();
            progress.completed.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// How many writes of a thread a copy has, once it is certain that they are the first so many.
fn writes_in(copy: &[u8], share: Share) -> u64 {
    let rounds: Vec<u64> = order(share)
        .map(|cluster| {
            let at = usize::try_from(cluster).unwrap() * CLUSTER;
            let mut words = copy[at..at + CLUSTER].chunks(8);
            let first = words.next().unwrap();
            assert!(words.all(|word| word == first), "cluster {cluster} is torn");
            u64::from_le_bytes(first.try_into().unwrap())
        })
        .collect();
    let (newest, oldest) = (rounds[0], rounds[rounds.len() - 1]);
    assert!(rounds.is_sorted_by(|earlier, later| earlier >= later), "{rounds:?}");
    assert!(newest - oldest <= 1, "{rounds:?}");
    let newer = rounds.iter().filter(|round| **round == newest).count() as u64;
    (newest - 1) * rounds.len() as u64 + newer
}
