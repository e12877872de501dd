//! SIGKILL, at moments spread over twice the time that a machine takes until its program runs: before a process is ready, while
//! the next one starts, while the guest writes to its disks.

use std::fs;
use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use protocol::launch::ExitCode;
use tests::bare;
use tests::helper::Ended;
use tests::mounted::{Mounted, free_bytes};
use tests::orphans;
use tests::payload::disk::Disk;
use tests::payload::{Mode, Payload};
use tests::place::Place;
use tests::require;
use tests::rng::Rng;
use tests::supervised::{CANNOT_START, DISK_LOST, END, RUN_FAILED, Running, Supervised};

use crate::{SOON, turn};

/// The base image of every disk: much more than the programs write until they are killed.
const DISK: usize = 16 << 20;
/// See above.
const SECTORS: u32 = 32 << 10;

/// The disks of a machine, each with its helper.
const DISKS: usize = 2;

/// How often a start without a kill is tried between others.
const EVERY: u64 = 20;

/// How many times each kind of process is killed: `MAYFLY_KILLS`, or as often as is promised.
fn kills() -> u64 {
    std::env::var("MAYFLY_KILLS").map_or(100, |text| text.parse().expect("MAYFLY_KILLS is a number"))
}

/// Whom to kill. The supervisor starts helpers first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Supervisor,
    Helper,
    Vmm,
}

impl Victim {
    /// Waits until it is there, if only as the fork of its parent.
    fn find(self, run: &Running, rng: &mut Rng) -> Pid {
        let index = match self {
            Self::Supervisor => return run.pid(),
            Self::Helper => rng.index(DISKS),
            Self::Vmm => DISKS,
        };
        let begun = Instant::now();
        loop {
            if let Some(pid) = children(run.pid()).get(index) {
                return *pid;
            }
            assert!(begun.elapsed() < SOON, "{self:?} is not started");
            thread::sleep(Duration::from_micros(200));
        }
    }

    /// Whether the supervisor ended as it should: killed, or with the code for what it lost. As long as the guest has not
    /// written, it may still have been starting.
    fn is_expected(self, ended: &Ended, written: bool) -> bool {
        let lost = match self {
            Self::Supervisor => return ended.signal == Some(Signal::SIGKILL as i32),
            Self::Helper => DISK_LOST,
            Self::Vmm => RUN_FAILED,
        };
        ended.code == Some(lost) || !written && ended.code == Some(CANNOT_START)
    }

    /// Whether a process may end so that nobody waits for but us: only those of a supervisor that was killed do.
    fn is_left_behind(self, status: WaitStatus) -> bool {
        let told = [
            // A helper whose frontend, or whose parent, left.
            ExitCode::Burnt.number(),
            ExitCode::ParentGone.number(),
            // A VMM without its disks, at the start and later; its parent's death has the number that it has for helpers.
            u8::try_from(CANNOT_START).expect("small"),
            u8::try_from(DISK_LOST).expect("small"),
        ];
        let is_told = matches!(status, WaitStatus::Exited(_, code) if told.map(i32::from).contains(&code));
        self == Self::Supervisor && (is_told || matches!(status, WaitStatus::Signaled(_, Signal::SIGKILL, _)))
    }
}

/// The children of `parent`, in the order of their start.
fn children(parent: Pid) -> Vec<Pid> {
    let text = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    let numbers = text.split_ascii_whitespace();
    numbers
        .map(|number| Pid::from_raw(number.parse().expect("the kernel lists numbers")))
        .collect()
}

/// Where a file system of its own makes every block that comes and goes the run's.
struct Ground {
    _tmpfs: Mounted,
    place: Place,
    free: u64,
}

impl Ground {
    fn new() -> Self {
        let place = Place::with_noise(DISK, 1);
        let tmpfs = Mounted::tmpfs(&place.overlay_dir(), "64m");
        let free = free_bytes(&place.overlay_dir());
        Self {
            _tmpfs: tmpfs,
            place,
            free,
        }
    }

    /// Waits until nothing is left of a run, of which the victim was killed, if one was.
    fn assert_as_before(&self, victim: Option<Victim>, round: u64) {
        for status in orphans::all_ended_within(END) {
            let is_fine = victim.is_some_and(|victim| victim.is_left_behind(status));
            assert!(is_fine, "round {round}: {victim:?}: {status:?}");
        }
        self.place.assert_nothing_left();
        let begun = Instant::now();
        while free_bytes(&self.place.overlay_dir()) != self.free {
            assert!(begun.elapsed() < END, "round {round}: space is still taken");
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Kills `victim` again and again; nothing is ever left, and the next machine starts.
fn leaves_nothing(victim: Victim, count: u64, machine: impl Fn(&Ground) -> Supervised) {
    let ground = Ground::new();
    let machine = machine(&ground);
    let mut span = Duration::ZERO;
    let (mut early, mut late) = (0, 0);
    for round in 0..count {
        if round % EVERY == 0 {
            span = works(&ground, &machine, round) * 2;
        }
        let mut rng = Rng::new(round);
        let begun = Instant::now();
        let mut run = machine.on_pipes();
        let process = victim.find(&run, &mut rng);
        let left = span.saturating_sub(begun.elapsed());
        thread::sleep(left.mul_f64(f64::from(u16::try_from(rng.below(1000)).expect("small")) / 1000.0));

        let written = free_bytes(&ground.place.overlay_dir()) != ground.free;
        let killed = kill(process, Signal::SIGKILL);
        let ended = run.wait_within(END);

        assert_eq!(killed, Ok(()), "round {round}: {ended:?}");
        assert!(victim.is_expected(&ended, written), "round {round}: {ended:?}");
        assert!(!ended.stderr.contains("a bug"), "round {round}: {ended:?}");
        ground.assert_as_before(Some(victim), round);
        *if written { &mut late } else { &mut early } += 1;
    }
    works(&ground, &machine, count);
    tell(&format!(
        "{victim:?}: {early} killed before the guest wrote, {late} after"
    ));
}

/// Starts a machine and ends it as one should; how long it took until its program ran.
fn works(ground: &Ground, machine: &Supervised, round: u64) -> Duration {
    let begun = Instant::now();
    let mut run = machine.on_pipes();
    run.wait_for("here", SOON);
    let took = begun.elapsed();
    run.signal(Signal::SIGTERM);
    let ended = run.wait_within(END);
    assert_eq!(ended.code, Some(128 + 15), "round {round}: {ended:?}");
    ground.assert_as_before(None, round);
    took
}

/// Past the harness's capture: what a random test did is worth knowing of one that succeeds.
fn tell(line: &str) {
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// A machine that writes to its first disk without end.
fn writing(ground: &Ground) -> Supervised {
    let disk = Disk::new(0);
    let program = disk.start(Payload::new(Mode::Protected)).print("here").seed(7);
    let program = disk.write_forever(program, SECTORS, 1);
    bare::run(&ground.place, "kvm", DISKS, &program)
}

#[test]
fn a_hundred_killed_supervisors_leave_nothing() {
    require!(root);
    require!(kvm);
    let _turn = turn();
    leaves_nothing(Victim::Supervisor, kills(), writing);
}

#[test]
fn a_hundred_killed_helpers_leave_nothing() {
    require!(root);
    require!(kvm);
    let _turn = turn();
    leaves_nothing(Victim::Helper, kills(), writing);
}

#[test]
fn a_hundred_killed_vmms_leave_nothing() {
    require!(root);
    require!(kvm);
    let _turn = turn();
    leaves_nothing(Victim::Vmm, kills(), writing);
}

/// Fewer: an emulator takes longer to start, and its guest here does not know where the disks are.
#[test]
fn killed_processes_leave_nothing_where_qemu_emulates() {
    require!(root);
    let _turn = turn();
    let halted = |ground: &Ground| {
        let program = Payload::new(Mode::Protected).print("here").halt();
        bare::run(&ground.place, "qemu", DISKS, &program)
    };
    for victim in [Victim::Supervisor, Victim::Helper, Victim::Vmm] {
        leaves_nothing(victim, kills().div_ceil(20), halted);
    }
}
