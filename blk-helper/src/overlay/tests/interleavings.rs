//! Every order in which threads can pass the overlay's locks, where these are few; thousands of them, where they are many.
//!
//! Threads do one thing each to the same clusters. Afterwards each region of the disk must be what the same things, done one after
//! the other in some order, make of an array of bytes; no slot may have two owners, and none may be lost.

use super::frozen::copy_piece;
use super::*;
use shuttle::thread;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

/// Clusters of the disk: the last is in another region than the others.
const CLUSTERS: u64 = 257;
const SECTORS: u64 = 8;
const REGION: usize = 1 << 20;

/// What one thread does.
#[derive(Clone, Copy, Debug)]
enum Act {
    Write { sector: u64, count: u64, byte: u8 },
    WriteZeroes { sector: u64, count: u64 },
    Discard { sector: u64, count: u64 },
}

impl Act {
    fn range(self) -> (u64, u64) {
        match self {
            Self::Write { sector, count, .. }
            | Self::WriteZeroes { sector, count }
            | Self::Discard { sector, count } => (sector, count),
        }
    }

    fn perform(self, overlay: &Overlay, scratch: &mut Scratch) {
        let stop = AtomicBool::new(false);
        let (sector, count) = self.range();
        let disk = overlay.base().capacity();
        let range = disk.range(Sector(sector), SectorCount(count)).unwrap();
        let mut work = Work { stop: &stop, scratch };
        match self {
            Self::Write { byte, .. } => {
                let mut data = vec![byte; usize::try_from(range.len()).unwrap()];
                let slices = [GuestSlice::from(&mut data[..])];
                overlay.write(range, Buffers::new(&slices), &mut work).unwrap();
            }
            Self::WriteZeroes { .. } => overlay.write_zeroes(range, &mut work).unwrap(),
            Self::Discard { .. } => overlay.discard(range, &work).unwrap(),
        }
    }

    /// The same to an array of bytes. Discards forget whole clusters only, and the threads' do cover whole ones.
    fn apply(self, disk: &mut [u8]) {
        let (sector, count) = self.range();
        let byte = match self {
            Self::Write { byte, .. } => byte,
            Self::WriteZeroes { .. } | Self::Discard { .. } => 0,
        };
        let at = |sector: u64| usize::try_from(sector).unwrap() * SECTOR;
        disk[at(sector)..at(sector + count)].fill(byte);
    }
}

fn read(overlay: &Overlay, sector: u64, count: u64, scratch: &mut Scratch) -> Vec<u8> {
    let stop = AtomicBool::new(false);
    let range = overlay
        .base()
        .capacity()
        .range(Sector(sector), SectorCount(count))
        .unwrap();
    let mut memory = vec![0xee; usize::try_from(range.len()).unwrap()];
    let slices = [GuestSlice::from(&mut memory[..])];
    let mut work = Work { stop: &stop, scratch };
    overlay.read(range, Buffers::new(&slices), &mut work).unwrap();
    memory
}

/// Every order of `acts`.
fn orders(acts: &[Act]) -> Vec<Vec<Act>> {
    if acts.is_empty() {
        return vec![Vec::new()];
    }
    (0..acts.len())
        .flat_map(|first| {
            let mut others = acts.to_vec();
            let act = others.remove(first);
            orders(&others).into_iter().map(move |mut order| {
                order.insert(0, act);
                order
            })
        })
        .collect()
}

fn assert_slots_are_owned_once(overlay: &Overlay) {
    let slots: Vec<_> = (0..CLUSTERS)
        .filter_map(|cluster| match overlay.map.state(Cluster(cluster)) {
            State::Dirty(slot) => Some(slot.0),
            State::Clean | State::Zero | State::Held(_) => None,
        })
        .collect();
    let different: BTreeSet<_> = slots.iter().collect();
    assert_eq!(different.len(), slots.len(), "a slot has two owners");
    assert_eq!(
        overlay.slots().in_use(),
        u64::try_from(slots.len()).unwrap(),
        "a slot is lost"
    );
}

/// Each sector of `view`, which begins at `start`, is as it was or as one of `acts` makes it.
fn saw_only_what_was(view: &[u8], old: &[u8], start: usize, acts: &[Act]) {
    for (at, sector) in (start..).step_by(SECTOR).zip(view.chunks(SECTOR)) {
        let made = acts.iter().any(|act| {
            let mut disk = old.to_vec();
            act.apply(&mut disk);
            *sector == disk[at..at + SECTOR]
        });
        assert!(
            made || *sector == old[at..at + SECTOR],
            "a reader saw a sector that never was"
        );
    }
}

/// What every disk here has below it, and its bytes. There are thousands of disks, so they are made of what exists already.
static BASE: LazyLock<(tempfile::NamedTempFile, Vec<u8>)> = LazyLock::new(|| {
    let bytes: Vec<u8> = (0..CLUSTERS * CLUSTER_BYTES)
        .map(|at| u8::try_from(at / 7 % 90).unwrap() + 1)
        .collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), &bytes).unwrap();
    (file, bytes)
});

thread_local! {
    /// Scratches that nobody uses right now, all with one key. The threads that are scheduled here are all on one of the system's.
    static IDLE: RefCell<Vec<Scratch>> = RefCell::new(scratches(8));
}

fn fresh_disk() -> Overlay {
    let base = Base::open(BaseSource::Path(BASE.0.path().to_owned()), true).unwrap();
    let in_memory = OverlayDir {
        path: "/dev/shm".into(),
        named: true,
    };
    let files = [(); 2].map(|()| OverlayFile::create(&in_memory).unwrap());
    Overlay::new(base, files, UNLIMITED).unwrap()
}

/// A disk on which `before` was done, then `acts` at the same time, perhaps while a reader looks at `seen`.
fn play(before: &[Act], acts: &[Act], seen: Option<(u64, u64)>) {
    let overlay = fresh_disk();
    let mut model = BASE.1.clone();
    let mut scratches = IDLE.take();
    let mut own = scratches.pop().unwrap();
    for act in before {
        act.perform(&overlay, &mut own);
        act.apply(&mut model);
    }
    let outcomes: Vec<Vec<u8>> = orders(acts)
        .into_iter()
        .map(|order| {
            let mut disk = model.clone();
            order.into_iter().for_each(|act| act.apply(&mut disk));
            disk
        })
        .collect();
    let overlay = Arc::new(overlay);
    let threads: Vec<_> = acts
        .iter()
        .map(|act| {
            let (act, overlay, mut scratch) = (*act, Arc::clone(&overlay), scratches.pop().unwrap());
            thread::spawn(move || {
                act.perform(&overlay, &mut scratch);
                scratch
            })
        })
        .collect();

    if let Some((sector, count)) = seen {
        let view = read(&overlay, sector, count, &mut own);
        saw_only_what_was(&view, &model, usize::try_from(sector).unwrap() * SECTOR, acts);
    }
    scratches.extend(threads.into_iter().map(|thread| thread.join().unwrap()));
    let found = read(&overlay, 0, CLUSTERS * SECTORS, &mut own);
    // A request is executed region by region, so two of them may come in one order here and in the other there.
    for (at, region) in (0..).step_by(REGION).zip(found.chunks(REGION)) {
        let possible = outcomes.iter().any(|disk| disk[at..].starts_with(region));
        assert!(possible, "no order of these makes such a disk: {acts:?}");
    }
    scratches.push(own);
    IDLE.set(scratches);
    assert_slots_are_owned_once(&overlay);
}

/// Each `grain` of `found` is what some of `acts`, in some order, make of `old`.
fn assert_is_a_moment(found: &[u8], old: &[u8], acts: [Act; 2], grain: usize) {
    let [first, second] = acts;
    let moments = [&[][..], &[first], &[second], &[first, second], &[second, first]].map(|acts| {
        let mut disk = old.to_vec();
        acts.iter().for_each(|act| act.apply(&mut disk));
        disk
    });
    for (at, part) in (0..).step_by(grain).zip(found.chunks(grain)) {
        let possible = moments.iter().any(|disk| disk[at..].starts_with(part));
        assert!(possible, "what is at {at} never was: {acts:?}");
    }
}

/// A disk of which a copy is made while `acts` are done.
fn play_beside_a_copy(acts: [Act; 2]) {
    let overlay = Arc::new(fresh_disk());
    let mut model = BASE.1.clone();
    let mut scratches = IDLE.take();
    let mut own = scratches.pop().unwrap();
    WHOLE.perform(&overlay, &mut own);
    WHOLE.apply(&mut model);
    let threads = acts.map(|act| {
        let (overlay, mut scratch) = (Arc::clone(&overlay), scratches.pop().unwrap());
        thread::spawn(move || {
            act.perform(&overlay, &mut scratch);
            scratch
        })
    });

    assert!(overlay.freeze());
    let mut copy = Vec::new();
    for piece in overlay.frozen_pieces() {
        copy.extend(copy_piece(&overlay, piece, &mut own));
        overlay.thaw(piece);
    }
    overlay.thawed();

    scratches.extend(threads.map(|thread| thread.join().unwrap()));
    // What was not completed at that moment may be in it in part, cluster by cluster, as after a loss of power.
    assert_is_a_moment(&copy, &model, acts, CLUSTER);
    let found = read(&overlay, 0, CLUSTERS * SECTORS, &mut own);
    assert_is_a_moment(&found, &model, acts, REGION);
    scratches.push(own);
    IDLE.set(scratches);
    assert_slots_are_owned_once(&overlay);
}

const PART: Act = Act::Write {
    sector: 1,
    count: 1,
    byte: 0xb1,
};
const OTHER_PART: Act = Act::Write {
    sector: 2,
    count: 3,
    byte: 0xb2,
};
const WHOLE: Act = Act::Write {
    sector: 0,
    count: SECTORS,
    byte: 0xa1,
};
const FORGOTTEN: Act = Act::Discard {
    sector: 0,
    count: 2 * SECTORS,
};

/// In every order there is: also with a fill in flight, its slot taken and its cluster not yet marked.
#[test]
fn two_requests_for_one_cluster_leave_it_as_one_after_the_other_would_in_every_order() {
    for (before, acts) in [
        (&[][..], [PART, OTHER_PART]),
        (&[], [PART, WHOLE]),
        (&[], [PART, FORGOTTEN]),
        (&[WHOLE], [PART, FORGOTTEN]),
    ] {
        shuttle::check_dfs(move || play(before, &acts, None), None);
    }
}

#[test]
fn requests_that_overlap_in_clusters_and_regions_leave_what_one_after_the_other_would() {
    let last = (CLUSTERS - 1) * SECTORS;
    let acts = [
        Act::Write {
            sector: 4,
            count: 2 * SECTORS,
            byte: 0xc1,
        },
        FORGOTTEN,
        Act::Write {
            sector: last - 3,
            count: 6,
            byte: 0xc2,
        },
        Act::WriteZeroes {
            sector: last - SECTORS,
            count: 2 * SECTORS,
        },
    ];
    shuttle::check_random(move || play(&[WHOLE], &acts, Some((0, 3 * SECTORS))), 100);
}

#[test]
fn a_copy_is_a_moment_of_the_disk_whatever_happens_beside_it() {
    for acts in [[PART, FORGOTTEN], [WHOLE, FORGOTTEN], [PART, OTHER_PART]] {
        shuttle::check_random(move || play_beside_a_copy(acts), 150);
    }
}
