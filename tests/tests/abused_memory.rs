//! Memory tables that are too short, too many, overlapping, unaligned, not memory, or gone later.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::sys::eventfd::EventFd;
use protocol::launch::ExitCode;
use tests::abuse::{assert_serves, survives};
use tests::helper::{END, Helper};
use tests::memory::{GUEST_BASE, GuestMemory};
use tests::place::Place;
use tests::raw::{
    DATA, Desc, FRONTEND_BASE, IN, MEMORY, OK, RawDisk, SMALL, addresses, linked, negotiate, patient, region,
    request_header, tell_memory,
};
use tests::wire::{Wire, code, words};

const STATUS: u64 = SMALL + 0x100;

fn negotiated(helper: &Helper) -> Wire {
    let wire = patient(helper.socket());
    negotiate(&wire);
    wire
}

/// SET_MEM_TABLE with these regions (guest address, size, frontend address, offset), one descriptor each.
fn set_table(wire: &Wire, regions: &[[u64; 4]], fds: &[BorrowedFd<'_>]) -> Option<u64> {
    let count = u32::try_from(regions.len()).expect("tables are small");
    let mut body = words(&[count, 0]);
    for [guest, size, frontend, offset] in regions {
        body.extend(region(*guest, *size, *frontend, *offset));
    }
    wire.tell(code::SET_MEM_TABLE, &body, fds).ok()
}

/// One region over the given file is refused, and its sender harms nobody.
fn refused(what: &str, regions: &[[u64; 4]], file: impl AsFd) {
    survives(|helper| {
        let wire = negotiated(helper);
        let fds = vec![file.as_fd(); regions.len()];
        assert_ne!(set_table(&wire, regions, &fds), Some(0), "{what}");
        wire
    });
}

#[test]
fn a_region_larger_than_its_file_is_refused() {
    let memory = GuestMemory::sealed(1 << 20);

    refused("a page more", &[[0, (1 << 20) + 4096, FRONTEND_BASE, 0]], &memory);
    refused("behind the end", &[[0, 4096, FRONTEND_BASE, 1 << 20]], &memory);
    refused("over the end", &[[0, 8192, FRONTEND_BASE, (1 << 20) - 4096]], &memory);
    refused("far too large", &[[0, 1 << 40, FRONTEND_BASE, 0]], &memory);
}

#[test]
fn regions_that_make_no_sense_are_refused() {
    let memory = GuestMemory::sealed(1 << 20);
    let fine = [GUEST_BASE, 1 << 16, FRONTEND_BASE, 0];
    let far = FRONTEND_BASE + (1 << 30);

    refused("no bytes", &[[0, 0, FRONTEND_BASE, 0]], &memory);
    refused(
        "the guest's sum wraps",
        &[[u64::MAX - 4095, 8192, FRONTEND_BASE, 0]],
        &memory,
    );
    refused("the frontend's sum wraps", &[[0, 8192, u64::MAX - 4095, 0]], &memory);
    refused(
        "the offset wraps",
        &[[0, 8192, FRONTEND_BASE, u64::MAX - 4095]],
        &memory,
    );
    refused("an offset that is no page", &[[0, 8192, FRONTEND_BASE, 1]], &memory);
    refused("twice the same", &[fine, fine], &memory);
    refused(
        "overlapping in the guest",
        &[fine, [GUEST_BASE + 4096, 4096, far, 0]],
        &memory,
    );
    refused(
        "one around the other",
        &[[GUEST_BASE + 4096, 4096, far, 0], fine],
        &memory,
    );
}

#[test]
fn what_is_not_shared_memory_is_refused() {
    let place = Place::with_noise(4096, 1);
    let path = place.dir().join("file");
    File::create(&path).unwrap().write_all(&[0; 8192]).unwrap();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let zero = File::options().read(true).write(true).open("/dev/zero").unwrap();
    let (pipe, _other) = nix::unistd::pipe2(OFlag::O_CLOEXEC).unwrap();
    let eventfd = EventFd::new().unwrap();
    let memory = GuestMemory::sealed(8192);
    let read_only = File::open(format!("/proc/self/fd/{}", memory.as_raw_fd())).unwrap();

    let one = [[0, 4096, FRONTEND_BASE, 0]];
    refused("/dev/zero", &one, &zero);
    refused("a pipe", &one, &pipe);
    refused("an eventfd", &one, &eventfd);
    refused("a read-only memfd", &one, &read_only);
    if nix::sys::statfs::fstatfs(&file).unwrap().filesystem_type() != nix::sys::statfs::TMPFS_MAGIC {
        refused("a file on a disk", &one, &file);
    }
}

#[test]
fn tables_whose_count_is_not_what_came_are_refused() {
    let memory = GuestMemory::sealed(1 << 20);
    let one = region(GUEST_BASE, 4096, FRONTEND_BASE, 0);

    for (count, regions, fds) in [
        (0, 0, 0),
        (0, 1, 1),
        (2, 1, 1),
        (1, 1, 0),
        (1, 1, 2),
        (1, 2, 2),
        (255, 1, 1),
        (u32::MAX, 1, 1),
    ] {
        survives(|helper| {
            let wire = negotiated(helper);
            let body = [words(&[count, 0]), one.repeat(regions)].concat();
            let told = wire.tell(code::SET_MEM_TABLE, &body, &vec![memory.as_fd(); fds]).ok();
            assert_ne!(
                told,
                Some(0),
                "{count} regions announced, {regions} sent, {fds} descriptors"
            );
            wire
        });
    }
}

#[test]
fn more_slots_than_offered_are_refused_one_by_one() {
    survives(|helper| {
        let wire = negotiated(helper);
        let slots = wire.ask(code::GET_MAX_MEM_SLOTS, &[]).expect("it is answered").number();
        let memory = GuestMemory::sealed(4096);
        let add = |index: u64| {
            let body = [
                words(&[0, 0]),
                region(GUEST_BASE + (index << 20), 4096, FRONTEND_BASE + (index << 20), 0),
            ]
            .concat();
            wire.tell(code::ADD_MEM_REG, &body, &[memory.as_fd()]).ok()
        };
        for index in 0..slots {
            assert_eq!(add(index), Some(0), "region {index} of {slots}");
        }
        assert_ne!(add(slots), Some(0), "one more than {slots}");
        wire
    });
}

#[test]
fn terabytes_of_sparse_memory_are_bounded() {
    survives(|helper| {
        let wire = negotiated(helper);
        let memory = GuestMemory::sealed(1 << 40);
        for index in 0..64_u64 {
            let body = [words(&[0, 0]), region(index << 41, 1 << 40, index << 41, 0)].concat();
            if wire.tell(code::ADD_MEM_REG, &body, &[memory.as_fd()]).ok() != Some(0) {
                break;
            }
        }
        (wire, memory)
    });
}

#[test]
fn removing_what_is_not_there_is_refused_and_what_is_there_is_not() {
    survives(|helper| {
        let disk = RawDisk::start(helper.socket(), 1, 64);
        let remove = |guest, size| {
            let body = [words(&[0, 0]), region(guest, size, FRONTEND_BASE, 0)].concat();
            disk.wire.tell(code::REM_MEM_REG, &body, &[]).ok()
        };
        assert_eq!(remove(GUEST_BASE, MEMORY), Some(0));
        assert_ne!(remove(GUEST_BASE, MEMORY), Some(0));
        disk
    });
}

#[test]
fn memory_that_is_removed_under_a_running_ring_hurts_only_the_guest() {
    survives(|helper| {
        let mut disk = RawDisk::start(helper.socket(), 2, 64);
        disk.assert_serves();
        let body = [words(&[0, 0]), region(GUEST_BASE, MEMORY, FRONTEND_BASE, 0)].concat();
        let _ = disk.wire.tell(code::REM_MEM_REG, &body, &[]);
        let RawDisk { memory, rings, .. } = &mut disk;
        for ring in rings {
            ring.publish(memory, &[0, 0, 0]);
            ring.kick();
        }
        std::thread::sleep(Duration::from_millis(50));
        disk
    });
}

#[test]
fn rings_outside_the_memory_are_refused_or_broken() {
    let far = 1 << 40;
    for (table, used, avail) in [
        (far, 0x1000, 0x2000),
        (0, far, 0x2000),
        (0, 0x1000, far),
        (MEMORY - 16, 0x1000, 0x2000),
        (0, MEMORY - 4, 0x2000),
        (0, 0x1000, MEMORY - 2),
        (1, 0x1000, 0x2000),
        (0, 0x1001, 0x2000),
        (0, 0x1000, 0x2001),
        (0, 0, 0),
    ] {
        survives(|helper| {
            let mut disk = RawDisk::start(helper.socket(), 2, 64);
            let _ = disk
                .wire
                .tell(code::SET_VRING_ADDR, &addresses(1, table, used, avail), &[]);
            let RawDisk { memory, rings, .. } = &mut disk;
            rings[1].publish(memory, &[0]);
            rings[1].kick();
            std::thread::sleep(Duration::from_millis(20));
            disk
        });
    }
}

#[test]
fn a_new_table_under_a_hundred_running_requests_harms_nobody() {
    survives(|helper| {
        let mut disk = RawDisk::start(helper.socket(), 2, 64);
        for _ in 0..20 {
            busy(&mut disk);
            let fresh = GuestMemory::sealed(MEMORY);
            tell_memory(&disk.wire, &fresh);
        }
        disk
    });
}

/// Fills both rings with reads of most of a mebibyte each, and kicks.
fn busy(disk: &mut RawDisk) {
    let RawDisk { memory, rings, .. } = disk;
    memory.write(SMALL, &request_header(IN, 0));
    let table = linked(&[
        Desc::readable(SMALL, 16),
        Desc::writable(DATA, 1 << 19),
        Desc::writable(STATUS, 1),
    ]);
    for ring in rings {
        ring.put(memory, 0, &table);
        ring.publish(memory, &[0; 64]);
        ring.kick();
    }
}

#[test]
fn a_disconnect_with_requests_in_flight_harms_nobody() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();

    for _ in 0..50 {
        let mut disk = RawDisk::start(helper.socket(), 2, 64);
        busy(&mut disk);
    }

    assert_serves(helper, &place);
}

#[test]
fn memory_that_is_truncated_under_a_running_ring_ends_the_helper_with_its_own_code() {
    for (what, left) in [("everything", 0), ("all but the rings", SMALL)] {
        let place = Place::with_noise(1 << 20, 1);
        let helper = place.helper().start();
        let mut disk = RawDisk::start_with(patient(helper.socket()), GuestMemory::unsealed(MEMORY), 1, 64);
        disk.assert_serves();

        disk.memory.truncate(left);
        if left > 0 {
            busy_one(&mut disk);
        }
        disk.rings[0].kick();

        let ended = helper.wait_within(END);
        ended.assert_code(ExitCode::GuestMemoryGone);
        assert!(!ended.stderr.is_empty(), "{what}: the end has a message");
    }
}

/// One request whose header, data and status are behind what is left of the memory; the ring itself is not.
fn busy_one(disk: &mut RawDisk) {
    let RawDisk { memory, rings, .. } = disk;
    rings[0].put(
        memory,
        0,
        &linked(&[
            Desc::readable(SMALL, 16),
            Desc::writable(DATA, 512),
            Desc::writable(STATUS, 1),
        ]),
    );
    rings[0].publish(memory, &[0]);
}

#[test]
fn memory_with_holes_is_only_empty() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();
    let mut disk = RawDisk::start(helper.socket(), 1, 64);

    disk.memory.punch(DATA, 8 << 20);
    let (status, _, data) = disk.request(IN, 0, &[], 512);

    assert_eq!((status, data), (OK, place.content()[..512].to_vec()));
    helper.terminate();
}

#[test]
fn strict_mode_wants_seals() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().option("--require-seals").start();
    let wire = negotiated(&helper);
    let unsealed = GuestMemory::unsealed(1 << 20);

    let told = set_table(&wire, &[[GUEST_BASE, 1 << 20, FRONTEND_BASE, 0]], &[unsealed.as_fd()]);

    assert_ne!(told, Some(0));
    drop(wire);
    RawDisk::start(helper.socket(), 1, 64).assert_serves();
    helper.terminate();
}

/// A descriptor chain over a boundary between two regions that are neighbours in the guest, and over a gap.
#[test]
fn buffers_may_span_adjacent_regions_but_no_gap() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();
    let mut disk = RawDisk::start(helper.socket(), 1, 64);
    let other = GuestMemory::sealed(1 << 20);
    let add = |guest, frontend| {
        let body = [words(&[0, 0]), region(guest, 1 << 20, frontend, 0)].concat();
        disk.wire.tell(code::ADD_MEM_REG, &body, &[other.as_fd()]).ok()
    };
    assert_eq!(add(GUEST_BASE + MEMORY, FRONTEND_BASE + (1 << 40)), Some(0));
    let mut read = |at, len: u32| {
        disk.memory.write(SMALL, &request_header(IN, 0));
        let used = disk.run(&linked(&[
            Desc::readable(SMALL, 16),
            Desc::writable(at, len),
            Desc::writable(STATUS, 1),
        ]));
        (disk.memory.byte(STATUS), used.len)
    };

    let adjacent = read(MEMORY - 512, 1024);
    let gap = read(MEMORY + (1 << 20) - 512, 1024);

    assert_eq!(adjacent, (OK, 1025));
    assert_eq!(disk.memory.read(MEMORY - 512, 512), place.content()[..512]);
    assert_eq!(other.read(0, 512), place.content()[512..1024]);
    assert_eq!(gap, (1, 1), "an I/O error");
    helper.terminate();
}

#[test]
fn a_table_may_be_sent_again_and_again() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();
    let mut disk = RawDisk::start(helper.socket(), 1, 64);

    for _ in 0..1000 {
        tell_memory(&disk.wire, &disk.memory);
    }

    disk.assert_serves();
    helper.terminate();
}
