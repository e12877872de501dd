//! Threads that change one disk at once.

use super::*;

/// Sectors of one cluster are written by several threads at once, again and again from Clean and Zero: what a fill
/// copies must never undo what another thread wrote.
#[test]
fn concurrent_writes_to_different_sectors_of_a_cluster_all_survive() {
    let bench = Bench::new(64 * CLUSTER, UNLIMITED);
    let disk = Capacity::of_image(64 * CLUSTER_BYTES).unwrap();
    let overlay = &bench.overlay;
    let stop = AtomicBool::new(false);
    let mut scratches = scratches(5);
    let (own, others) = scratches.split_first_mut().unwrap();
    for round in 1..=20u8 {
        std::thread::scope(|scope| {
            for (thread, scratch) in (0..4u64).zip(&mut *others) {
                let stop = &stop;
                scope.spawn(move || {
                    let mut data = [round * 10 + u8::try_from(thread).unwrap(); SECTOR];
                    let slices = [GuestSlice::from(&mut data[..])];
                    for cluster in 0..64 {
                        let mut work = Work { stop, scratch };
                        let range = disk.range(Sector(cluster * 8 + thread), SectorCount(1)).unwrap();
                        overlay.write(range, Buffers::new(&slices), &mut work).unwrap();
                    }
                });
            }
        });
        let mut memory = vec![0; 64 * CLUSTER];
        let slices = [GuestSlice::from(&mut memory[..])];
        let mut work = Work {
            stop: &stop,
            scratch: own,
        };
        let all = disk.range(Sector(0), disk.sectors()).unwrap();
        overlay.read(all, Buffers::new(&slices), &mut work).unwrap();
        for (index, sector) in memory.chunks(SECTOR).enumerate() {
            let thread = u8::try_from(index % 8).unwrap();
            if thread < 4 {
                assert!(sector.iter().all(|byte| *byte == round * 10 + thread), "sector {index}");
            }
        }
        overlay.discard(all, &work).unwrap();
    }
}
