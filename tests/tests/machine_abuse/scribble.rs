//! Guests that scribble over every register of every device, over ports, over rings in memory: for `MAYFLY_SCRIBBLE` seconds, each
//! with a seed of its own, from `MAYFLY_SEED` on.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tests::bare;
use tests::mounted::{Mounted, free_bytes};
use tests::payload::disk::Disk;
use tests::payload::scribble::Scribbler;
use tests::payload::{Mode, Payload};
use tests::place::Place;
use tests::require;
use tests::supervised::{Running, assert_gone};

use crate::tell;

/// Two disks, and entropy.
const DISKS: usize = 2;
/// See above.
const DEVICES: u64 = 3;

/// Processors, and so the queues of a disk.
const CPUS: u32 = 2;

/// Accesses of a processor, which it does over and over: some seconds' worth.
const ACCESSES: usize = 50_000;

/// How long a guest scribbles before another with another seed takes over.
const SLICE: Duration = Duration::from_secs(3);

/// How long nothing may be printed by a guest that prints a dot about every thousand accesses.
const SILENCE: Duration = Duration::from_secs(20);

/// How long everything may take to end once it was told to, on a loaded machine.
const END: Duration = Duration::from_secs(10);

/// What the memory of a process may grow by while it serves whatever comes: its allocator's habits, not a leak.
const GROWTH_KIB: u64 = 2048;

/// More than the program itself writes before it begins to scribble.
const MARGIN: u64 = 64 << 10;

/// How long in all: `MAYFLY_SCRIBBLE`, or long enough for some guests.
fn scribbles() -> Duration {
    let seconds = std::env::var("MAYFLY_SCRIBBLE").map_or(10, |text| text.parse().expect("MAYFLY_SCRIBBLE is seconds"));
    Duration::from_secs(seconds)
}

/// What a process takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Taken {
    /// Memory of its own; guest memory is shared.
    kibibytes: u64,
    descriptors: usize,
    threads: u64,
}

impl Taken {
    /// None when it has ended.
    fn by(pid: Pid) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_ascii_whitespace().next()?.parse().ok()
        };
        Some(Self {
            kibibytes: field("RssAnon:")?,
            descriptors: fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count(),
            threads: field("Threads:")?,
        })
    }
}

/// Every process of a run, with what it took when the guest began to scribble.
struct Watch(Vec<(String, Pid, Taken)>);

impl Watch {
    fn begin(run: &Running) -> Self {
        let processes = run.processes(DISKS + 1).into_iter();
        let all = processes.chain([("mayfly".to_owned(), run.pid())]);
        Self(
            all.filter_map(|(name, pid)| Some((name, pid, Taken::by(pid)?)))
                .collect(),
        )
    }

    /// That none takes more than it should.
    fn look(&self, seed: u64) {
        for (name, pid, before) in &self.0 {
            let Some(now) = Taken::by(*pid) else { continue };
            // A supervisor that starts another VMM has pipes to both for a moment.
            let bounded = now.kibibytes <= before.kibibytes + GROWTH_KIB
                && now.descriptors <= before.descriptors + 2
                && now.threads <= before.threads;
            assert!(bounded, "seed {seed}: {name} took {before:?} and takes {now:?}");
        }
    }

    fn processes(&self) -> Vec<(String, Pid)> {
        self.0.iter().map(|(name, pid, _)| (name.clone(), *pid)).collect()
    }
}

/// A program that uses every queue of its disks as one should, so that they have a history, and then does not, on both
/// processors.
fn program(seed: u64) -> Payload {
    let disks = u32::try_from(DISKS).expect("few");
    let queues = (0..disks).flat_map(|index| (0..CPUS).map(move |queue| Disk::new(index).by_queue(queue)));
    let scribble = |half| Scribbler::new(seed * 2 + half, DEVICES).list(ACCESSES);
    queues
        .fold(Payload::new(Mode::Long), |program, disk| {
            disk.write(disk.start(program), 8, 1)
        })
        .print("here")
        .meanwhile(|second| second.carry_out(&scribble(1)))
        .carry_out(&scribble(0))
}

/// Lets a guest scribble for a while, if it lives so long; the exit code, how many dots, and whether it wrote to a disk.
fn scribble(place: &Place, seed: u64, slice: Duration) -> (i32, usize, bool) {
    let before = free_bytes(&place.overlay_dir());
    let mut run = bare::run(place, "kvm", DISKS, &program(seed))
        .and([format!("--cpus={CPUS}")])
        .on_pipes();
    run.wait_for("here", SILENCE);
    let watch = Watch::begin(&run);
    let begun = Instant::now();
    let (mut printed, mut since) = (0, begun);
    let mut lowest = before;
    while begun.elapsed() < slice && run.is_running() {
        thread::sleep(Duration::from_millis(50));
        watch.look(seed);
        lowest = lowest.min(free_bytes(&place.overlay_dir()));
        if run.shown().len() > printed {
            (printed, since) = (run.shown().len(), Instant::now());
        }
        assert!(since.elapsed() < SILENCE, "seed {seed}: the guest hangs");
    }
    if run.is_running() {
        run.signal(Signal::SIGTERM);
    }
    let ended = run.wait_within(END);
    assert_gone(&watch.processes());
    let shown = ended.stdout.matches('.').count();
    // A guest may bring its processor to where KVM gives up; the event loop does not fail.
    assert!(
        ended.code != Some(10) || ended.stderr.contains("KVM cannot run"),
        "seed {seed}: {}",
        ended.stderr
    );
    for bad in ["a bug", "killed by", "panicked"] {
        assert!(!ended.stderr.contains(bad), "seed {seed}: {}", ended.stderr);
    }
    let code = ended
        .code
        .unwrap_or_else(|| panic!("seed {seed}: signal {:?}: {}", ended.signal, ended.stderr));
    (code, shown, lowest + MARGIN < before)
}

#[test]
fn nothing_that_a_guest_writes_anywhere_harms_a_process() {
    require!(root);
    require!(kvm);
    let place = Place::with_noise(16 << 20, 1);
    let _tmpfs = Mounted::tmpfs(&place.overlay_dir(), "128m");
    let until = Instant::now() + scribbles();
    let mut codes = BTreeMap::new();
    let (mut dots, mut wrote) = (0, 0);
    let mut seed = std::env::var("MAYFLY_SEED").map_or(0, |text| text.parse().expect("MAYFLY_SEED is a number"));
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        let (code, shown, written) = scribble(&place, seed, SLICE.min(left));
        assert!([12, 13, 10, 143].contains(&code), "seed {seed}: code {code}");
        *codes.entry(code).or_insert(0) += 1;
        dots += shown;
        wrote += u32::from(written);
        seed += 1;
    }
    tell(&format!(
        "{dots} thousand accesses; ends by code: {codes:?}; {wrote} guests wrote to their disks"
    ));
}

#[test]
fn whatever_port_a_guest_writes_to_the_run_goes_on_or_ends_as_it_should() {
    require!(kvm);
    let place = Place::with_noise(1 << 20, 1);
    let mut codes = BTreeMap::new();
    for seed in 0..10 {
        let list = Scribbler::new(seed, DEVICES).ports(2000);
        let program = Payload::new(Mode::Long).carry_out(&list);
        let mut run = bare::run(&place, "kvm", 1, &program).on_pipes();
        let processes = run.processes(2);
        let begun = Instant::now();
        while begun.elapsed() < SLICE / 4 && run.is_running() {
            thread::sleep(Duration::from_millis(5));
        }
        if run.is_running() {
            run.signal(Signal::SIGTERM);
        }

        let ended = run.wait_within(END);

        assert_gone(&processes);
        // Switched off; rebooted again and again; told to end.
        let expected = [Some(0), Some(14), Some(143)].contains(&ended.code);
        assert!(expected, "seed {seed}: {:?} {}", ended.code, ended.stderr);
        *codes.entry(ended.code).or_insert(0) += 1;
    }
    tell(&format!("guests at every port end by code: {codes:?}"));
}
