//! The disk burns however its helper ends: the space comes back, no name is left, and the next start works.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use protocol::launch::ExitCode;
use tests::abuse::assert_serves;
use tests::client::{Client, Setup};
use tests::faults::{Call, Faults, Rule};
use tests::helper::Helper;
use tests::mounted::{Mounted, free_bytes};
use tests::place::Place;
use tests::raw::{DATA, Desc, OUT, RawDisk, SMALL, linked, request_header};
use tests::require;
use tests::rng::Rng;

const DISK: u64 = 48 << 20;

/// How long an end may take that nobody promised to be quick.
const PATIENCE: Duration = Duration::from_secs(20);

/// How many times to kill: `MAYFLY_KILLS`, or enough for a quick look.
fn kills() -> u32 {
    std::env::var("MAYFLY_KILLS").map_or(20, |text| text.parse().expect("MAYFLY_KILLS is a number"))
}

/// Says stop when it goes, also where a panic is why: whoever waits for the load to end must not wait for ever.
struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Writes to random places, many at once, until told to stop, whether or not anybody answers.
fn load(disk: &mut RawDisk, seed: u64, stop: &AtomicBool) {
    let mut rng = Rng::new(seed);
    let len = 1 << 17;
    let RawDisk { memory, rings, .. } = disk;
    memory.write(DATA, &rng.bytes(1 << 17));
    let table: Vec<Desc> = linked(&[
        Desc::readable(SMALL, 16),
        Desc::readable(DATA, len),
        Desc::writable(SMALL + 0x100, 1),
    ]);
    for ring in rings.iter() {
        ring.put(memory, 0, &table);
    }
    let mut waiting = [0; 4];
    while !stop.load(Ordering::Relaxed) {
        for (ring, waiting) in rings.iter_mut().zip(&mut waiting) {
            *waiting -= ring.take_used(memory).len();
            if *waiting < 32 {
                let sector = rng.below((DISK - u64::from(len)) / 512);
                memory.write(SMALL, &request_header(OUT, sector));
                ring.publish(memory, &[0]);
                ring.kick();
                *waiting += 1;
            }
        }
    }
}

/// Lets `end` have the helper after some time of load, and waits until the file system is as it was.
fn burns(place: &Place, overlay_dir: &Path, seed: u64, tolerance: u64, end: impl FnOnce(Helper)) {
    let before = free_bytes(overlay_dir);
    let helper = place.helper().overlay_dir(overlay_dir).start();
    let mut disk = RawDisk::start(helper.socket(), 4, 64);
    let stop = AtomicBool::new(false);
    let mut lowest = before;

    std::thread::scope(|scope| {
        let _stops = Stops(&stop);
        scope.spawn(|| load(&mut disk, seed, &stop));
        let begun = Instant::now();
        while free_bytes(overlay_dir) + tolerance >= before && begun.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(Rng::new(seed).below(120)));
        lowest = free_bytes(overlay_dir);
        end(helper);
    });

    assert!(lowest + tolerance < before, "there was no load (seed {seed})");
    let begun = Instant::now();
    while free_bytes(overlay_dir) + tolerance < before {
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "{} of {before} bytes came back",
            free_bytes(overlay_dir)
        );
        std::thread::sleep(Duration::from_millis(2));
    }
    let left = fs::read_dir(overlay_dir)
        .expect("the directory outlives its helpers")
        .count();
    assert_eq!(left, 0, "files in the overlay directory");
}

fn disk_place() -> Place {
    Place::with_noise(usize::try_from(DISK).unwrap_or(0), 1)
}

#[test]
fn sigkill_under_load_gives_a_tmpfs_all_its_space_back() {
    require!(root);
    let place = disk_place();
    let _tmpfs = Mounted::tmpfs(&place.overlay_dir(), "256m");

    for round in 0..kills() {
        burns(&place, &place.overlay_dir(), u64::from(round), 0, Helper::kill);
    }

    let helper = place.helper().start();
    assert_serves(helper, &place);
}

#[test]
fn sigkill_under_load_gives_an_ext4_all_its_space_back() {
    require!(root);
    let place = disk_place();
    let Some(_ext4) = Mounted::ext4(&place.dir().join("ext4"), 256, &place.overlay_dir()) else {
        require::skip("needs loop devices and mkfs.ext4");
        return;
    };

    let lost_and_found = place.overlay_dir().join("lost+found");
    fs::remove_dir(lost_and_found).unwrap();
    for round in 0..kills() {
        burns(&place, &place.overlay_dir(), u64::from(round), 0, Helper::kill);
    }

    let helper = place.helper().start();
    assert_serves(helper, &place);
}

/// Others use this file system too, so that a little may be missing.
#[test]
fn sigkill_under_load_gives_shared_memory_its_space_back() {
    let place = disk_place();
    let dir = Path::new("/dev/shm").join(place.dir().file_name().unwrap());
    fs::create_dir(&dir).unwrap();

    for round in 0..kills() {
        burns(&place, &dir, u64::from(round), 1 << 20, Helper::kill);
    }

    fs::remove_dir(&dir).expect("nothing is left in it");
}

#[test]
fn sigterm_under_load_gives_all_space_back_within_a_second() {
    require!(root);
    let place = disk_place();
    let _tmpfs = Mounted::tmpfs(&place.overlay_dir(), "256m");

    for round in 0..kills() {
        burns(
            &place,
            &place.overlay_dir(),
            u64::from(round),
            0,
            Helper::terminate_at_once,
        );
    }
}

#[test]
fn any_other_fatal_signal_burns_too() {
    require!(root);
    // What a shell without job control starts in the background ignores SIGQUIT, and so would the helper.
    let status = fs::read_to_string("/proc/self/status").expect("every process has it");
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:\t"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask, 16).ok());
    let quit = 1 << (Signal::SIGQUIT as u64 - 1);
    assert!(
        ignored.is_some_and(|mask| mask & quit == 0),
        "SIGQUIT is ignored: run this by env --default-signal"
    );
    let place = disk_place();
    let _tmpfs = Mounted::tmpfs(&place.overlay_dir(), "256m");

    for signal in [Signal::SIGABRT, Signal::SIGSEGV, Signal::SIGQUIT, Signal::SIGUSR1] {
        burns(&place, &place.overlay_dir(), 1, 0, |helper| {
            helper.signal(signal);
            let ended = helper.wait_within(PATIENCE);
            // Not always by that signal: the handler that Rust has for SIGSEGV makes a call that the filter kills.
            assert!(ended.signal.is_some(), "{ended:?}");
        });
    }
}

/// What there is no way to from outside: of a bug that a worker meets, for which the kernel is made to say that it wrote more
/// than it was given.
#[test]
fn a_panic_of_a_worker_ends_the_whole_process_and_burns() {
    let place = Place::with_noise(1 << 20, 2);
    let faults = Faults::new(place.dir());
    let helper = place.helper().faulty(&faults).start();
    let mut disk = RawDisk::start(helper.socket(), 1, 64);
    faults.set(&[Rule::lie(&[Call::Pwrite], 1 << 20).on(&helper.descriptors("overlay"))]);
    let RawDisk { memory, rings, .. } = &mut disk;
    memory.write(SMALL, &request_header(OUT, 0));
    let table = linked(&[
        Desc::readable(SMALL, 16),
        Desc::readable(DATA, 4096),
        Desc::writable(SMALL + 0x100, 1),
    ]);
    rings[0].put(memory, 0, &table);
    rings[0].publish(memory, &[0]);
    rings[0].kick();

    let ended = helper.wait_within(PATIENCE);

    assert!(ended.stderr.contains("a bug: panicked"), "{ended:?}");
    ended.assert_code(ExitCode::Panicked);
    let left = fs::read_dir(place.overlay_dir()).expect("it outlives its helpers");
    assert_eq!(left.count(), 0);
}

#[test]
fn discarded_space_comes_back_while_the_disk_lives() {
    require!(root);
    let place = disk_place();
    let _tmpfs = Mounted::tmpfs(&place.overlay_dir(), "256m");
    let helper = place.helper().start();
    let before = free_bytes(&place.overlay_dir());
    let mut client = Client::connect(helper.socket(), Setup::default());
    let bytes = vec![7; 1 << 20];

    for round in 0..16 {
        client.write(round << 20, &bytes);
    }
    let during = free_bytes(&place.overlay_dir());
    for (round, unmap) in (0..16).zip([true, false].into_iter().cycle()) {
        let request = if round < 8 {
            tests::client::Request::Discard {
                offset: round << 20,
                len: 1 << 20,
            }
        } else {
            tests::client::Request::WriteZeroes {
                offset: round << 20,
                len: 1 << 20,
                unmap,
            }
        };
        assert_eq!(client.run(&request), 0);
    }

    assert_eq!(before - during, 16 << 20, "as large as its use");
    assert_eq!(free_bytes(&place.overlay_dir()), before);
    helper.terminate();
}

#[test]
fn rewriting_takes_no_more_space() {
    require!(root);
    let place = disk_place();
    let _tmpfs = Mounted::tmpfs(&place.overlay_dir(), "256m");
    let helper = place.helper().start();
    let mut client = Client::connect(helper.socket(), Setup::default());
    client.write(0, &vec![7; 1 << 20]);
    let once = free_bytes(&place.overlay_dir());

    for round in 0..20 {
        client.write(0, &vec![round; 1 << 20]);
        assert_eq!(
            client.run(&tests::client::Request::Discard {
                offset: 0,
                len: 1 << 20
            }),
            0
        );
        client.write(0, &vec![round; 1 << 20]);
    }

    assert_eq!(free_bytes(&place.overlay_dir()), once);
    helper.terminate();
}
