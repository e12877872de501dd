//! Who used the processors meanwhile: a backend, this program, and everybody else.
//!
//! A process's time is the sum over its threads as the scheduler has it, in nanoseconds (`/proc/PID/task/*/schedstat`): the
//! ticks of `/proc/PID/stat` are too coarse. What neither used is foreign: other programs, and the kernel's own threads.

use std::fs;
use std::time::Instant;

/// Nanoseconds in a tick of `/proc/stat`, which Linux fixes at 100 a second for user space.
const TICK_NS: u64 = 10_000_000;

/// A moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    when: Instant,
    backend: u64,
    own: u64,
    all: u64,
}

/// What happened between two moments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// Seconds.
    pub(crate) elapsed: f64,
    /// The backend's processor time in seconds.
    pub(crate) backend: f64,
    /// Everybody else's, as a share of all processors.
    pub(crate) foreign: f64,
}

impl Moment {
    /// Now.
    pub(crate) fn now(backend: &[u32]) -> Self {
        Self {
            backend: backend.iter().map(|pid| of_process(&pid.to_string())).sum(),
            own: of_process("self"),
            all: of_machine(),
            when: Instant::now(),
        }
    }

    /// What happened since.
    pub(crate) fn until(self, later: Self) -> Usage {
        let elapsed = (later.when - self.when).as_secs_f64();
        let seconds = |from: u64, to: u64| to.saturating_sub(from) as f64 / 1e9;
        let backend = seconds(self.backend, later.backend);
        let ours = backend + seconds(self.own, later.own);
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as f64;
        Usage {
            elapsed,
            backend,
            foreign: ((seconds(self.all, later.all) - ours) / (elapsed * cpus)).clamp(0.0, 1.0),
        }
    }
}

fn of_process(pid: &str) -> u64 {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return 0;
    };
    tasks
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("schedstat")).ok())
        .filter_map(|text| text.split_whitespace().next()?.parse::<u64>().ok())
        .sum()
}

/// What all processors did, but for being idle or waiting.
fn of_machine() -> u64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let numbers = text.lines().next().unwrap_or_default().split_whitespace().skip(1);
    // user nice system idle iowait irq softirq steal
    let busy = numbers
        .take(8)
        .enumerate()
        .filter(|(place, _)| *place != 3 && *place != 4);
    busy.filter_map(|(_, ticks)| ticks.parse::<u64>().ok()).sum::<u64>() * TICK_NS
}
