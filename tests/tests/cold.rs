//! A base that is not in the page cache: what storage has still to deliver holds up nobody else, is answered right, and is never
//! left over.

use std::fs::{self, File};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use tests::client::{Buffer, Client, Request, SCRATCH_LEN, Setup};
use tests::drive::{Notice, Plan, drive};
use tests::helper::Helper;
use tests::model::Model;
use tests::place::Place;
use tests::raw::{DATA, Desc, RawDisk, SMALL, linked, request_header};
use tests::require;
use tests::rng::Rng;
use tests::wire::{code, words};

const BASE: usize = 32 << 20;
const CLUSTER: u64 = 4096;
const IN: u32 = 0;

/// A place whose base can be dropped from the page cache.
fn place(seed: u64) -> Option<Place> {
    let place = Place::with_noise(BASE, seed);
    let info = statfs(&place.base()).expect("the base was just made");
    if info.filesystem_type() == TMPFS_MAGIC {
        require::skip("needs a temporary directory on disk (TMPDIR): a tmpfs is always in memory");
        return None;
    }
    Some(place)
}

/// Drops the base from the page cache, as far as nobody reads it right now.
fn evict(place: &Place) {
    let base = File::open(place.base()).expect("the base is there");
    base.sync_all().expect("what was just written can be stored");
    posix_fadvise(&base, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).expect("any file may be dropped");
}

/// How often the thread that waits for storage was woken or waited.
fn waits(helper: &Helper) -> u64 {
    let tasks = fs::read_dir(helper.proc("task")).expect("everybody may list threads");
    let statuses = tasks.map(|task| {
        let task = task.expect("everybody may list threads").path();
        fs::read_to_string(task.join("status")).expect("everybody may read this")
    });
    let of = |status: &str, name: &str| -> Option<String> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim().to_owned())
    };
    let warmer = statuses
        .into_iter()
        .find(|status| of(status, "Name:").is_some_and(|name| name == "blk-warmer"))
        .expect("one thread waits for storage");
    let count = of(&warmer, "voluntary_ctxt_switches:").expect("the kernel counts them");
    count.parse().expect("a count is a number")
}

#[test]
fn the_disk_agrees_with_the_model_while_its_base_is_dropped_from_memory() {
    let Some(place) = place(1) else { return };
    let helper = place.helper().value("--threads", "2").start();
    for notice in [Notice::Eventfd, Notice::Polling] {
        let before = waits(&helper);
        let plan = Plan {
            seed: 20,
            requests: 3_000,
            in_flight: 96,
            notice,
            most_zeroed: 64 << 10,
        };
        let mut client = Client::connect(helper.socket(), plan.setup(2, true));
        let mut model = Model::new(&client.read_all());
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    evict(&place);
                }
            });
            drive(&mut client, &mut model, plan);
            done.store(true, Ordering::Relaxed);
        });

        assert!(
            client.read_all() == model.read(0, model.len()),
            "the disk as a whole differs"
        );
        assert!(waits(&helper) > before, "nothing was ever waited for");
    }
    helper.terminate();
}

#[test]
fn scattered_cold_reads_are_all_answered_with_the_base() {
    let Some(place) = place(2) else { return };
    let helper = place.helper().start();
    let setup = Setup {
        memory: 256 * CLUSTER,
        queue_size: 1024,
        ..Setup::default()
    };
    let mut client = Client::connect(helper.socket(), setup);
    let mut rng = Rng::new(7);
    for _ in 0..8 {
        evict(&place);
        // More at a time than may wait.
        let offsets: Vec<u64> = (0..256)
            .map(|_| rng.below(u64::try_from(BASE).unwrap() / CLUSTER) * CLUSTER)
            .collect();
        for (number, offset) in (0..).zip(&offsets) {
            let at = SCRATCH_LEN + number * CLUSTER;
            let buffers = vec![Buffer { at, len: 4096 }];
            client.submit(
                0,
                &Request::Read {
                    offset: *offset,
                    buffers,
                },
                number,
            );
        }
        client.kick(0);
        let mut left = offsets.len();
        while left > 0 {
            let done = client.completions(0);
            for one in &done {
                let offset = usize::try_from(offsets[usize::try_from(one.token).unwrap()]).unwrap();
                let found = client.memory().read(SCRATCH_LEN + one.token * CLUSTER, 4096);
                assert_eq!(one.result, 0);
                assert!(found == place.content()[offset..offset + 4096], "cluster at {offset}");
            }
            left -= done.len();
            if done.is_empty() {
                assert!(
                    client.wait(std::time::Duration::from_secs(30)),
                    "{left} reads were never answered"
                );
            }
        }
    }
    helper.terminate();
}

/// Makes cold reads available on ring 0, one after the other in the base, and kicks.
fn submit_cold_reads(disk: &mut RawDisk, count: u16) {
    let header = |number: u16| SMALL + u64::from(number) * 0x20;
    let data = |number: u16| DATA + u64::from(number) * CLUSTER;
    let RawDisk { memory, rings, .. } = disk;
    let mut heads = Vec::new();
    for number in 0..count {
        let sector = u64::from(number) * 1031;
        memory.write(header(number), &request_header(IN, sector));
        let head = number * 3;
        let mut chain = linked(&[
            Desc::readable(header(number), 16),
            Desc::writable(data(number), 4096),
            Desc::writable(header(number) + 0x10, 1),
        ]);
        for desc in &mut chain[..2] {
            desc.next += head;
        }
        rings[0].put(memory, head, &chain);
        heads.push(head);
    }
    rings[0].publish(memory, &heads);
    rings[0].kick();
}

#[test]
fn a_ring_that_stops_owes_no_answer() {
    let Some(place) = place(3) else { return };
    let helper = place.helper().value("--threads", "1").start();
    for round in 0..20 {
        evict(&place);
        let mut disk = RawDisk::start(helper.socket(), 1, 256);
        submit_cold_reads(&mut disk, 64);
        if round % 2 == 0 {
            // Lets the worker come as far as it comes.
            std::thread::yield_now();
        }

        let answer = disk.wire.ask(code::GET_VRING_BASE, &words(&[0, 0])).unwrap();

        let popped = u32::from_le_bytes(answer.body[4..8].try_into().unwrap());
        let RawDisk { memory, rings, .. } = &mut disk;
        assert_eq!(rings[0].take_used(memory).len(), usize::try_from(popped).unwrap());
    }
    helper.terminate();
}

#[test]
fn a_frontend_that_leaves_with_reads_in_flight_leaves_nothing_behind() {
    let Some(place) = place(4) else { return };
    let helper = place.helper().start();
    for _ in 0..20 {
        evict(&place);
        let mut disk = RawDisk::start(helper.socket(), 1, 256);
        submit_cold_reads(&mut disk, 64);
    }

    let mut client = Client::connect(helper.socket(), Setup::default());

    assert!(client.read_all() == place.content());
    helper.terminate();
}
