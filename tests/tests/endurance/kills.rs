//! Helpers, VMMs, and both at once, killed at random moments while the guest writes.

use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::bare;
use tests::orphans;
use tests::payload::disk::Disk;
use tests::payload::{Mode, Payload};
use tests::require;
use tests::rng::Rng;
use tests::supervised::{DISK_LOST, END, RUN_FAILED, Running, children_of};

use crate::measure::{Ground, Row};
use crate::{tell, times, turn};

const DISK: usize = 16 << 20;
const SECTORS: u32 = 32 << 10;
const DISKS: usize = 2;
/// Guests write from their first moment on; a kill comes within so many microseconds of it.
const SPREAD: u64 = 30_000;
const SOON: Duration = Duration::from_secs(20);

/// Who is killed. The machine has two disks, of which the guest writes to the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    HelperOfTheBusyDisk,
    HelperOfTheIdleDisk,
    Vmm,
    /// The helper of the busy disk, and then the VMM, if that is still there.
    HelperAndVmm,
}

const VICTIMS: [Victim; 4] = [
    Victim::HelperOfTheBusyDisk,
    Victim::HelperOfTheIdleDisk,
    Victim::Vmm,
    Victim::HelperAndVmm,
];

impl Victim {
    fn processes(self, run: &Running) -> Vec<Pid> {
        let children = children_of(run.pid());
        let named = |wanted| {
            let found = children.iter().filter(move |(name, _)| name == wanted);
            found.map(|(_, pid)| *pid).collect::<Vec<_>>()
        };
        // In the order of their start, which is that of the disks.
        let (mut helpers, vmm) = (named("blk-helper"), named("mayfly-vmm"));
        helpers.sort_unstable();
        let ([busy, idle], [vmm]) = (&helpers[..], &vmm[..]) else {
            panic!("not two helpers and a VMM: {children:?}");
        };
        match self {
            Self::HelperOfTheBusyDisk => vec![*busy],
            Self::HelperOfTheIdleDisk => vec![*idle],
            Self::Vmm => vec![*vmm],
            Self::HelperAndVmm => vec![*busy, *vmm],
        }
    }

    /// How the supervisor says that it lost them.
    const fn codes(self) -> &'static [i32] {
        match self {
            Self::HelperOfTheBusyDisk | Self::HelperOfTheIdleDisk => &[DISK_LOST],
            Self::Vmm => &[RUN_FAILED],
            // Whose end it sees first.
            Self::HelperAndVmm => &[DISK_LOST, RUN_FAILED],
        }
    }
}

#[test]
fn killed_under_load_everything_is_given_back() {
    require!(root);
    require!(kvm);
    let _turn = turn();
    let ground = Ground::new(DISK, "64m");
    let disk = Disk::new(0);
    let program = disk.start(Payload::new(Mode::Protected)).print("here").seed(7);
    let program = disk.write_forever(program, SECTORS, 1);
    let machine = bare::run(&ground.place, "kvm", DISKS, &program);
    let mut row = Row::begin(&ground);
    let (count, mut written) = (times(12, 1000), 0);
    let mut killed = [0; VICTIMS.len()];
    for round in 0..count {
        let mut rng = Rng::new(round);
        let mut run = machine.on_pipes();
        run.wait_for("here", SOON);
        thread::sleep(Duration::from_micros(rng.below(SPREAD)));
        written += u64::from(row.look());
        let index = rng.index(VICTIMS.len());
        let victim = VICTIMS[index];

        let processes = victim.processes(&run);
        let done: Vec<_> = processes.iter().map(|pid| kill(*pid, Signal::SIGKILL)).collect();
        assert_eq!(done[0], Ok(()), "round {round}: {victim:?}");

        let ended = run.wait_within(END);
        let is_told = ended.code.is_some_and(|code| victim.codes().contains(&code));
        assert!(is_told, "round {round}: {victim:?}: {ended:?}");
        assert!(!ended.stderr.contains("a bug"), "round {round}: {ended:?}");
        drop(run);
        // Nobody outlives the supervisor.
        assert_eq!(orphans::all_ended_within(END), [], "round {round}: {victim:?}");
        row.is_back(&format!("round {round}"));
        killed[index] += 1;
    }
    row.end(&format!("{count} kills under load"));
    let of_whom: Vec<_> = VICTIMS
        .iter()
        .zip(killed)
        .map(|(victim, count)| format!("{victim:?} {count}"))
        .collect();
    tell(&format!(
        "  killed: {}; {written} after the guest had written",
        of_whom.join(", ")
    ));
    assert!(written * 2 > count, "hardly ever under load");
}
