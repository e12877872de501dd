//! What tests with guests share: turns, time-outs, commands that must succeed or fail, and a disk full of tools.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tests::guest::{Assets, Guest, Spec, System};
use tests::helper::Helper;
use tests::place::Place;

/// Starting a guest takes 5 s (busybox) to 25 s (Debian) on an idle machine of two cores; the rest is a loaded one.
pub(crate) const BOOT: Duration = Duration::from_secs(240);

/// The longest command takes a few seconds; the rest is a loaded machine.
pub(crate) const COMMAND: Duration = Duration::from_secs(120);

/// What every guest is made of.
const IMAGES: &str = "the images are there";

/// The right to have guests, until the test ends. (One test may have two guests.)
pub(crate) fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    // Nothing is guarded but the time: a test that failed left nothing in disorder.
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A guest of this system without a disk, not started yet.
pub(crate) fn machine(system: System) -> Spec {
    Spec::new(system).expect(IMAGES)
}

/// A guest with a busybox shell, which begins with the disk that `helper` serves.
pub(crate) fn busybox(helper: &Helper, queues: u16) -> Spec {
    machine(System::Busybox).vhost_user_disk(helper.socket(), queues)
}

/// The Debian image.
pub(crate) fn debian_image() -> PathBuf {
    Assets::find().expect(IMAGES).debian
}

pub(crate) fn boot(spec: Spec) -> Guest {
    Guest::boot(spec, BOOT).expect("the guest boots")
}

pub(crate) fn reboot(guest: &mut Guest) {
    guest.reboot(BOOT).expect("the guest boots again");
}

pub(crate) fn poweroff(guest: &mut Guest) {
    guest.poweroff(BOOT).expect("the guest switches itself off");
}

/// Runs a command that must succeed; returns what it said, without the last newline.
pub(crate) fn ok(guest: &mut Guest, command: &str) -> String {
    let output = guest.sh(command, COMMAND).expect("the guest answers");
    assert_eq!(output.status, 0, "{command}: {output:?}\n{:?}", guest.transcript());
    output.text.trim_end().to_owned()
}

/// Runs a command that must fail; returns what it complained about.
pub(crate) fn fails(guest: &mut Guest, command: &str) -> String {
    let output = guest.sh(command, COMMAND).expect("the guest answers");
    assert_ne!(output.status, 0, "{command}: {output:?}\n{:?}", guest.transcript());
    output.text
}

/// The MD5 sum of a file in the guest, read from the disk and not from memory.
pub(crate) fn guest_digest(guest: &mut Guest, path: &str) -> String {
    ok(
        guest,
        &format!("sync; echo 3 >/proc/sys/vm/drop_caches; md5sum <{path}"),
    )
}

/// The MD5 sum of a file of ours, in the same form.
pub(crate) fn host_digest(path: &Path) -> String {
    digest("md5sum", path)
}

/// Of coreutils' good digests the one that takes least time for gigabytes.
const FASTEST: &str = "b2sum";

fn digest(program: &str, path: &Path) -> String {
    let output = Command::new(program)
        .stdin(fs::File::open(path).expect("the base can be read"))
        .output()
        .expect("coreutils are part of every Debian");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

/// A base that is too large for a [`Place`] to look after, and must be in the end what it was in the beginning.
#[derive(Debug)]
pub(crate) struct Untouched {
    path: PathBuf,
    digest: String,
    modified: (i64, i64),
}

impl Untouched {
    pub(crate) fn new(path: PathBuf) -> Self {
        let (digest, modified) = (digest(FASTEST, &path), modified(&path));
        Self { path, digest, modified }
    }

    pub(crate) fn assert(&self) {
        assert_eq!(
            modified(&self.path),
            self.modified,
            "somebody wrote to {}",
            self.path.display()
        );
        assert_eq!(
            digest(FASTEST, &self.path),
            self.digest,
            "{} was changed",
            self.path.display()
        );
    }
}

fn modified(path: &Path) -> (i64, i64) {
    let metadata = fs::metadata(path).expect("the base exists");
    (metadata.mtime(), metadata.mtime_nsec())
}

/// The Debian image as a second, read-only disk: its file-system tools are those that people use, and busybox has
/// none that make or check ext4.
#[derive(Debug)]
pub(crate) struct Tools {
    helper: Helper,
    // After the helper, which works in it.
    _place: Place,
}

impl Tools {
    pub(crate) fn start() -> Self {
        let place = Place::with_base(b"");
        let helper = place.helper().base(debian_image()).read_only().start();
        Self { helper, _place: place }
    }

    /// The guest finds them on `/dev/vdb`, if it has one other disk.
    pub(crate) fn add_to(&self, spec: Spec) -> Spec {
        spec.vhost_user_disk(self.helper.socket(), 1)
    }
}

/// Mounts the tools on `/mnt`: once after each boot.
pub(crate) fn mount_tools(guest: &mut Guest) {
    ok(
        guest,
        "mount -t ext4 -o ro /dev/vdb /mnt && mount -o bind /dev /mnt/dev && mount -t proc proc /mnt/proc",
    );
}

/// A command line that runs one of the tools.
pub(crate) fn tool(command: &str) -> String {
    // By its path: busybox takes a bare name for one of its own.
    format!("chroot /mnt /sbin/{command}")
}
