//! One guest, from its start over a reboot to its power-off: what its disk does, and what its processes are like meanwhile.

use tests::files::OpenFile;
use tests::guest::{Guest, GuestError, System};
use tests::place::Place;

use crate::machine::{ACT, BOOT, Family, busybox, guest_digest, host_digest, ok};
use crate::processes::Process;
use crate::say;

/// As much as a guest's processor digests in two seconds.
const DISK: usize = 24 << 20;

/// Most memory of its own that a process may use besides its program, in KiB: the helper, which has the most threads, needs one
/// MiB, and two more where the kernel makes one of their stacks a huge page.
const DATA_KIB: u64 = 4 << 10;

/// Most memory of its own that an optimised process may use, in KiB.
const VMM_KIB: u64 = 5 << 10;
const HELPER_KIB: u64 = 4 << 10;
const SUPERVISOR_KIB: u64 = 4 << 10;

pub(crate) fn is_used_and_survives_a_reboot() -> Result<String, GuestError> {
    let place = Place::with_noise(DISK, 1);
    let base = host_digest(&place.base());
    let mut guest = Guest::of(busybox(&place, &["--memory", "256M"])?, System::Busybox, None)?;
    guest.wait_for_shell(BOOT)?;

    assert_eq!(ok(&mut guest, "nproc")?, "1");
    assert_eq!(guest_digest(&mut guest, "/dev/vda")?, base);
    ok(&mut guest, "head -c 32 /dev/hwrng | wc -c | grep -x 32")?;
    let written = writes(&mut guest)?;
    assert_ne!(written, base);

    let first = Family::of(&guest);
    is_confined(&first);
    let memory = is_small(&first);
    guest.reboot(BOOT)?;
    let second = Family::of(&guest);
    assert_ne!(second.vmm.pid, first.vmm.pid, "the guest's reboot got no new VMM");
    assert_eq!(second.helper, first.helper, "the guest's reboot changed the helper");
    assert_eq!(guest_digest(&mut guest, "/dev/vda")?, written);
    is_confined(&second);

    guest.poweroff(ACT)?;
    assert_eq!(host_digest(&place.base()), base);
    Ok(memory)
}

/// Writes here and there; returns the digest of the whole disk, which has what was written.
fn writes(guest: &mut Guest) -> Result<String, GuestError> {
    ok(
        guest,
        "dd if=/dev/urandom of=/tmp/random bs=64k count=64 && dd if=/tmp/random of=/dev/vda bs=64k seek=32 conv=fsync",
    )?;
    let written = guest_digest(guest, "/tmp/random")?;
    let read = "sync; echo 3 >/proc/sys/vm/drop_caches; dd if=/dev/vda bs=64k skip=32 count=64 2>/dev/null | sha256sum";
    assert_eq!(ok(guest, read)?, written);
    guest_digest(guest, "/dev/vda")
}

/// The VMM, which the guest may take over, holds no disk, no file, no terminal and no control channel.
fn is_confined(family: &Family) {
    for process in [&family.supervisor, &family.vmm, &family.helper] {
        say(&format!("{} {}:", process.name, process.pid));
        for file in process.files() {
            say(&format!(
                "  {:>3}  {:10}  {}",
                file.number,
                file.access.text(),
                file.target
            ));
        }
    }
    family.vmm.assert_confined();
    family.helper.assert_confined();

    let placed = |process: &Process| {
        let files = process.files().into_iter().filter(OpenFile::is_in_a_file_system);
        files.map(|file| file.target).collect::<Vec<_>>()
    };
    let outside = |target: &String| !matches!(target.as_str(), "/dev/kvm" | "/dev/net/tun");
    let files: Vec<_> = placed(&family.vmm).into_iter().filter(outside).collect();
    assert_eq!(files, [""; 0], "files of the VMM");
    let of_disks = |target: &&String| target.contains("base.raw") || target.contains("(deleted)");
    let held = placed(&family.supervisor);
    let held: Vec<_> = held.iter().filter(of_disks).collect();
    assert_eq!(held, [""; 0], "files of disks in the supervisor");
    let held = placed(&family.helper);
    // The base, the overlay, and the overlay of the next reset.
    assert_eq!(held.iter().filter(of_disks).count(), 3, "the helper holds {held:?}");

    // The control channel keeps messages apart, the disk's does not.
    let kinds = |process: &Process| process.sockets().into_iter().map(kind_of_socket).collect::<Vec<_>>();
    assert_eq!(kinds(&family.vmm), ["stream"], "sockets of the VMM");
    assert!(
        kinds(&family.supervisor).contains(&"messages"),
        "sockets of the supervisor"
    );
    assert!(kinds(&family.helper).contains(&"messages"), "sockets of the helper");
}

/// As `/proc/net/unix` has it.
fn kind_of_socket(inode: u64) -> &'static str {
    let table = std::fs::read_to_string("/proc/net/unix").expect("/proc is mounted");
    let inode = inode.to_string();
    let columns = table
        .lines()
        .map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let kind = columns
        .filter(|columns| columns.get(6) == Some(&inode.as_str()))
        .find_map(|columns| columns.get(4).map(|kind| (*kind).to_owned()));
    match kind.as_deref() {
        Some("0001") => "stream",
        Some("0005") => "messages",
        Some(_) | None => "something else",
    }
}

fn is_small(family: &Family) -> String {
    let limits = [
        (&family.vmm, VMM_KIB),
        (&family.helper, HELPER_KIB),
        (&family.supervisor, SUPERVISOR_KIB),
    ];
    let mut shown = Vec::new();
    for (process, limit) in limits {
        let memory = process.own_memory();
        let whole = memory.program_kib + memory.other_kib;
        let text = format!(
            "{} {whole} KiB ({} without its program)",
            process.name, memory.other_kib
        );
        assert!(
            memory.other_kib <= DATA_KIB,
            "not at most {DATA_KIB} without its program: {text}"
        );
        // A program that was not optimised is several times as large.
        assert!(whole <= limit || cfg!(debug_assertions), "not at most {limit}: {text}");
        shown.push(text);
    }
    shown.join(", ")
}
