//! Helpers, VMMs, and both at once, killed at random moments while the guest writes.

use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::WaitStatus;
use tests::bare;
use tests::orphans;
use tests::payload::disk::Disk;
use tests::payload::{Mode, Payload};
use tests::require;
use tests::rng::Rng;
use tests::supervised::{END, children_of};

use crate::measure::{Ground, Row};
use crate::{tell, times, turn};

const DISK: usize = 16 << 20;
const SECTORS: u32 = 32 << 10;
const DISKS: usize = 2;
/// Guests write from their first moment on; a kill comes within so many microseconds of it.
const SPREAD: u64 = 30_000;
const SOON: Duration = Duration::from_secs(20);

/// Whom to kill (of two, the second may be gone already by the first's death): indices of the supervisor's children, of which helpers are the first.
const VICTIMS: [(&str, &[usize]); 4] = [
    ("a helper", &[0]),
    ("the other helper", &[1]),
    ("the VMM", &[DISKS]),
    ("helper and VMM", &[0, DISKS]),
];

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
        let children = children_of(run.pid());
        assert_eq!(children.len(), DISKS + 1, "round {round}: {children:?}");
        thread::sleep(Duration::from_micros(rng.below(SPREAD)));
        written += u64::from(row.look());
        let victim = rng.index(VICTIMS.len());

        let done: Vec<_> = VICTIMS[victim]
            .1
            .iter()
            .map(|index| kill(children[*index].1, Signal::SIGKILL))
            .collect();
        assert_eq!(done[0], Ok(()), "round {round}: {}", VICTIMS[victim].0);

        let ended = run.wait_within(END);
        assert!(matches!(ended.code, Some(10 | 12)), "round {round}: {ended:?}");
        assert!(!ended.stderr.contains("a bug"), "round {round}: {ended:?}");
        drop(run);
        for status in orphans::all_ended_within(END) {
            let is_documented = matches!(
                status,
                WaitStatus::Exited(_, 0 | 1 | 8 | 12) | WaitStatus::Signaled(_, Signal::SIGKILL, _)
            );
            assert!(is_documented, "round {round}: {status:?}");
        }
        row.is_back(&format!("round {round}"));
        killed[victim] += 1;
    }
    row.end(&format!("{count} kills under load"));
    let of_whom: Vec<_> = VICTIMS
        .iter()
        .zip(killed)
        .map(|((name, _), count)| format!("{name} {count}"))
        .collect();
    tell(&format!(
        "  killed: {}; {written} after the guest had written",
        of_whom.join(", ")
    ));
    assert!(written * 2 > count, "hardly ever under load");
}
