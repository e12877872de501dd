//! What a row takes of the host, and whether it gave it back.
//!
//! All figures are sums over the descendants of this process, except for descriptors, where it counts itself, and for space, which
//! is that of a file system of the row's own.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use tests::helper::Helper;
use tests::mounted::{Mounted, free_bytes};
use tests::place::Place;
use tests::supervised::children_of;

use crate::tell;

/// How long it may take until the kernel has everything back.
const END: Duration = Duration::from_secs(10);

/// What a process that does the same again and again may grow by: the allocator's and the kernel's own business.
const GROWTH_KIB: u64 = 1024;

/// How long what happens at once may take.
const SOON: Duration = Duration::from_secs(20);

/// A place whose overlays lie in a file system of their own.
pub(crate) struct Ground {
    _tmpfs: Mounted,
    pub(crate) place: Place,
}

impl Ground {
    pub(crate) fn new(disk: usize, space: &str) -> Self {
        let place = Place::with_noise(disk, 1);
        Self {
            _tmpfs: Mounted::tmpfs(&place.overlay_dir(), space),
            place,
        }
    }

    fn sample(&self) -> Sample {
        let own = Pid::this();
        let mut family = Vec::new();
        let mut open = vec![own];
        while let Some(parent) = open.pop() {
            let children = children_of(parent).into_iter().map(|(_, pid)| pid);
            open.extend(children.clone());
            family.extend(children);
        }
        Sample {
            processes: count(family.len()),
            descriptors: family.iter().map(|pid| descriptors(*pid)).sum::<u64>() + descriptors(own),
            memory_kib: family.iter().map(|pid| memory_kib(*pid, "Pss:")).sum(),
            own_kib: family.iter().map(|pid| memory_kib(*pid, "Pss_Anon:")).sum(),
            free_kib: free_bytes(&self.place.overlay_dir()) >> 10,
        }
    }

    /// The same while something runs, of which nothing is hidden.
    fn seen(&self) -> Sample {
        let sample = self.sample();
        assert!(
            sample.own_kib > 0 && sample.descriptors > 0,
            "it cannot be seen: {sample:?}"
        );
        sample
    }
}

/// What is in use at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sample {
    processes: u64,
    descriptors: u64,
    memory_kib: u64,
    /// What of it is no file's: the pages of a program come and go as the kernel likes.
    own_kib: u64,
    free_kib: u64,
}

fn count(length: usize) -> u64 {
    u64::try_from(length).expect("small")
}

fn descriptors(pid: Pid) -> u64 {
    count(fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count))
}

fn memory_kib(pid: Pid, kind: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let pss = text.lines().find_map(|line| line.strip_prefix(kind));
    pss.and_then(|value| value.trim().strip_suffix(" kB")?.parse().ok())
        .unwrap_or(0)
}

/// The figures of a row.
pub(crate) struct Row<'g> {
    ground: &'g Ground,
    begun: Instant,
    start: Sample,
    peak: Sample,
    /// Of a process that stays: at its first breath, and at its last.
    settled: Option<Sample>,
    last: Option<Sample>,
}

impl<'g> Row<'g> {
    /// Nothing runs yet.
    pub(crate) fn begin(ground: &'g Ground) -> Self {
        let start = ground.sample();
        Self {
            ground,
            begun: Instant::now(),
            start,
            peak: start,
            settled: None,
            last: None,
        }
    }

    /// Something is at work.
    pub(crate) fn look(&mut self) -> bool {
        let now = self.ground.sample();
        let has_written = now.free_kib < self.start.free_kib;
        self.peak = Sample {
            processes: self.peak.processes.max(now.processes),
            descriptors: self.peak.descriptors.max(now.descriptors),
            memory_kib: self.peak.memory_kib.max(now.memory_kib),
            own_kib: self.peak.own_kib.max(now.own_kib),
            free_kib: self.peak.free_kib.min(now.free_kib),
        };
        has_written
    }

    /// What stays has done everything once.
    pub(crate) fn settled(&mut self) {
        self.look();
        self.settled = Some(self.ground.seen());
    }

    /// What stays has done everything for the last time.
    pub(crate) fn finished(&mut self) {
        self.look();
        self.last = Some(self.ground.seen());
    }

    /// Waits until everything is as it was.
    pub(crate) fn is_back(&self, what: &str) {
        let begun = Instant::now();
        loop {
            let now = self.ground.sample();
            if now == self.start {
                return;
            }
            assert!(
                begun.elapsed() < END,
                "{what}: {now:?} is left, {:?} was before",
                self.start
            );
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Nothing runs any more: prints the figures, and compares.
    pub(crate) fn end(self, what: &str) {
        self.is_back(what);
        self.ground.place.assert_nothing_left();
        let end = self.ground.sample();
        let seconds = self.begun.elapsed().as_secs();
        tell(&format!("\n{what}: {seconds} s"));
        let line = |name: &str, figure: fn(&Sample) -> u64| {
            let shown = |sample: Option<&Sample>| sample.map_or("-".to_owned(), |sample| figure(sample).to_string());
            let samples = [
                Some(&self.start),
                self.settled.as_ref(),
                Some(&self.peak),
                self.last.as_ref(),
                Some(&end),
            ];
            let [start, settled, peak, last, end] = samples.map(shown);
            tell(&format!(
                "  {name:<12}{start:>10}{settled:>10}{peak:>10}{last:>10}{end:>10}"
            ));
        };
        tell("                   start   settled      peak      last       end");
        line("processes", |sample| sample.processes);
        line("descriptors", |sample| sample.descriptors);
        line("memory, KiB", |sample| sample.memory_kib);
        line("of no file", |sample| sample.own_kib);
        line("free, KiB", |sample| sample.free_kib);
        if let (Some(settled), Some(last)) = (self.settled, self.last) {
            assert_eq!(
                (last.processes, last.descriptors),
                (settled.processes, settled.descriptors),
                "{what}"
            );
            assert!(last.own_kib <= settled.own_kib + GROWTH_KIB, "{what}: it grows");
        }
    }
}

/// How many descriptors a helper has.
pub(crate) fn held(helper: &Helper) -> usize {
    fs::read_dir(helper.proc("fd")).expect("root may look").count()
}

/// Waits until a frontend that left has left nothing.
pub(crate) fn await_leaving(helper: &Helper, idle: usize) {
    let begun = Instant::now();
    while held(helper) != idle {
        assert!(begun.elapsed() < SOON, "{} descriptors, not {idle}", held(helper));
        thread::sleep(Duration::from_millis(1));
    }
}
