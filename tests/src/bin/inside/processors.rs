//! A large guest: with four processors, of which each uses the disk, and with memory on both sides of the hole that a PC
//! has below 4 GiB.

use tests::guest::{Guest, GuestError, System};
use tests::place::Place;

use crate::machine::{ACT, BOOT, busybox, guest_digest, host_digest, ok};

const DISK: usize = 8 << 20;

pub(crate) fn four_of_them_work() -> Result<String, GuestError> {
    let place = Place::with_noise(DISK, 2);
    let large = ["--cpus", "4", "--memory", "3328M"];
    let mut guest = Guest::of(busybox(&place, &large)?, System::Busybox, None)?;
    guest.wait_for_shell(BOOT)?;

    assert_eq!(ok(&mut guest, "nproc")?, "4");
    for cpu in 0..4 {
        let command = format!(
            "taskset -c {cpu} dd if=/dev/vda of=/dev/null bs=4k count=64 skip={}",
            cpu * 64
        );
        ok(&mut guest, &command)?;
    }
    assert_eq!(guest_digest(&mut guest, "/dev/vda")?, host_digest(&place.base()));
    let interrupts = ok(&mut guest, "cat /proc/interrupts")?;
    let timers = interrupts.lines().find(|line| line.trim_start().starts_with("LOC:"));
    let counts = timers.unwrap_or_default().split_ascii_whitespace().skip(1).take(4);
    let ticking = counts
        .filter(|count| count.parse::<u64>().is_ok_and(|count| count > 0))
        .count();
    assert_eq!(ticking, 4, "{interrupts}");

    // More than there is below the hole, and the kernel keeps some for itself.
    let memory = ok(&mut guest, "sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo")?;
    assert!(memory.parse::<u64>().is_ok_and(|kib| kib > 3100 << 10), "{memory} KiB");

    guest.poweroff(ACT)?;
    Ok(format!(
        "four processors tick, and read the disk; {memory} KiB of memory"
    ))
}
