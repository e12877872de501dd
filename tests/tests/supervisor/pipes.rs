//! Standard input and output as pipes: for scripts and service managers.

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tests::place::Place;
use tests::supervised::{END, assert_gone};

use crate::support::{BOOT, DISK, PROMPT, shell, shell_on, turn};

#[test]
fn a_guest_on_pipes_boots_writes_reads_and_powers_itself_off_and_is_committed() {
    let _turn = turn();
    let place = Place::with_noise(DISK, 1);
    let golden = place.dir().join("golden.raw");
    fs::copy(place.base(), &golden).unwrap();
    let mut run = shell_on(&place, &golden)
        .and(["--cpus=2", "--on-exit=commit"])
        .on_pipes();
    let processes = run.processes(2);
    run.wait_for(PROMPT, BOOT);

    run.type_in("echo wr''itten | dd of=/dev/vda conv=fsync 2>/dev/null; echo 3 >/proc/sys/vm/drop_caches\n");
    run.type_in("head -c 7 /dev/vda; ls /sys/block/vda/mq | wc -l | sed s/^/queues-/; cat /sys/block/vda/serial\n");
    run.wait_for("written", BOOT);
    run.wait_for("queues-2", BOOT);
    run.wait_for("mayfly-vda", BOOT);
    run.type_in("poweroff -f\n");

    let ended = run.wait_within(BOOT);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stderr.contains("the guest powered itself off"), "{ended:?}");
    assert!(ended.stderr.contains("weaker confinement"), "{ended:?}");
    assert!(ended.stderr.contains("golden.raw is its new base"), "{ended:?}");
    assert_gone(&processes);
    let mut disk = place.content().to_vec();
    disk[..8].copy_from_slice(b"written\n");
    assert!(fs::read(&golden).unwrap() == disk, "the new base is another disk");
}

#[test]
fn the_end_of_the_input_is_not_the_end_of_the_guest_and_nobody_spins() {
    let _turn = turn();
    let place = Place::with_noise(DISK, 2);
    let mut run = shell(&place).on_pipes();
    run.close_input();
    run.wait_for(PROMPT, BOOT);

    let before = processor_time(run.pid());
    std::thread::sleep(Duration::from_secs(1));

    let spent = processor_time(run.pid()) - before;
    assert!(spent < 10, "{spent} hundredths of a second of one second");
    run.signal(Signal::SIGTERM);
    assert_eq!(run.wait_within(END).code, Some(128 + 15));
}

/// In hundredths of a second, as the kernel counts.
fn processor_time(pid: Pid) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it was not waited for");
    // The fields 14 and 15, counted from behind the name, which may have spaces in it.
    let fields = text.rsplit_once(')').map_or("", |(_, fields)| fields);
    let times = fields.split_ascii_whitespace().skip(11).take(2);
    times.map(|time| time.parse::<u64>().expect("times are numbers")).sum()
}

#[test]
fn a_guest_that_prints_without_end_to_nobody_is_held_back_and_can_be_ended() {
    let _turn = turn();
    let place = Place::with_noise(DISK, 3);
    let mut run = shell(&place).on_pipes();
    run.wait_for(PROMPT, BOOT);

    run.type_in("yes mayfly\n");
    run.wait_for("mayfly\nmayfly\n", BOOT);
    run.look_away();
    std::thread::sleep(Duration::from_secs(1));
    let before = processor_time(run.pid());
    std::thread::sleep(Duration::from_secs(1));
    let spent = processor_time(run.pid()) - before;

    assert!(spent < 20, "{spent} hundredths of a second of one second");
    run.signal(Signal::SIGTERM);
    assert_eq!(run.wait_within(END).code, Some(128 + 15));
}
