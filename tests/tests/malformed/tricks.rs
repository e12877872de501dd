//! Guests that use the rings against themselves, or change what the helper is reading.

use std::sync::atomic::{AtomicBool, Ordering};

use tests::raw::{DATA, Desc, FLUSH, IN, RawDisk, linked, request_header};
use tests::rng::Rng;

use super::{HEADER, disk_place, header, start, status};

#[test]
fn one_head_made_available_twice_is_answered_twice() {
    let place = disk_place();
    let (helper, mut disk) = start(&place);
    disk.memory.write(HEADER, &request_header(FLUSH, 0));
    let RawDisk { memory, rings, .. } = &mut disk;

    rings[0].put(memory, 0, &linked(&[header(), status()]));
    rings[0].publish(memory, &[0, 0, 0]);
    rings[0].kick();
    let used = rings[0].wait_used(memory, 3);

    assert_eq!(
        used.iter().map(|used| (used.head, used.len)).collect::<Vec<_>>(),
        [(0, 1); 3]
    );
    disk.assert_serves();
    helper.terminate();
}

/// A read whose target is the ring that it came from.
#[test]
fn data_over_the_rings_hurts_only_the_guest() {
    let place = disk_place();
    let (mut helper, mut disk) = start(&place);
    let RawDisk { memory, rings, .. } = &mut disk;
    memory.write(HEADER, &request_header(IN, 0));

    let table = linked(&[
        header(),
        Desc::writable(rings[0].table(), 4096),
        Desc::writable(rings[0].avail_ring(), 4096),
        Desc::writable(rings[0].used_ring(), 4096),
        status(),
    ]);
    rings[0].put(memory, 0, &table);
    rings[0].publish(memory, &[0]);
    rings[0].kick();
    std::thread::sleep(std::time::Duration::from_millis(200));

    drop(disk);
    helper.assert_alive();
    RawDisk::start(helper.socket(), 2, 64).assert_serves();
    helper.terminate();
}

/// Descriptors change while the helper reads them: whatever it makes of them, it must have read them once.
#[test]
fn descriptors_that_change_while_they_are_read_hurt_only_the_guest() {
    let place = disk_place();
    let (mut helper, mut disk) = start(&place);
    let stop = AtomicBool::new(false);
    let RawDisk { memory, rings, .. } = &mut disk;
    memory.write(HEADER, &request_header(IN, 0));
    let table = linked(&[header(), Desc::writable(DATA, 512), status()]);
    rings[0].put(memory, 0, &table);
    let memory = &*memory;

    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut rng = Rng::new(3);
            while !stop.load(Ordering::Relaxed) {
                let which = rng.below(3);
                memory.write(16 * which, &rng.bytes(16));
                memory.write(16 * which, &table[usize::try_from(which).unwrap()].bytes());
                memory.write(
                    HEADER,
                    &request_header(u32::try_from(rng.below(16)).unwrap(), rng.below(4096)),
                );
            }
        });
        for _ in 0..20_000 {
            rings[0].publish(memory, &[0]);
            rings[0].kick();
            rings[0].wait_used(memory, 1);
        }
        stop.store(true, Ordering::Relaxed);
    });

    rings[0].put(memory, 0, &table);
    helper.assert_alive();
    disk.assert_serves();
    helper.terminate();
}

/// Table, available ring and used ring are noise that changes all the time; there may be no ring left, but a helper.
#[test]
fn rings_that_change_while_they_are_read_hurt_only_the_guest() {
    let place = disk_place();
    let (mut helper, mut disk) = start(&place);

    for seed in 0..20 {
        let RawDisk { memory, rings, .. } = &mut disk;
        let mut rng = Rng::new(seed);
        memory.write(HEADER, &request_header(IN, 0));
        for _ in 0..5_000 {
            let ring = &rings[rng.index(2)];
            let at = [ring.table(), ring.avail_ring(), ring.used_ring()][rng.index(3)];
            let len = rng.index(64);
            memory.write(at + 2 * rng.below(256), &rng.bytes(len));
            ring.kick();
        }
        helper.assert_alive();
        drop(disk);
        disk = RawDisk::start(helper.socket(), 2, 64);
        disk.assert_serves();
    }

    helper.terminate();
}
