//! The guests themselves, on disks that QEMU serves: what fails here is not Mayfly's fault.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use tests::guest::{Assets, Disk, Guest, GuestError, Spec, System};
use tests::require;

/// Starting a guest takes 4 s (busybox) to 10 s (Debian) on an idle machine of two cores; the rest is a loaded one.
const BOOT: Duration = Duration::from_secs(240);

const COMMAND: Duration = Duration::from_secs(60);

#[test]
fn a_busybox_guest_runs_commands_and_says_how_they_ended() {
    require!(first_time);
    let mut guest = Guest::boot(Spec::new(System::Busybox).unwrap(), BOOT).unwrap();

    let good = guest.sh("printf 'one\\ntwo'; echo three >&2", COMMAND).unwrap();
    let bad = guest.sh("echo 'it''s \"quoted\" $((1 + 1))'; exit 3", COMMAND).unwrap();
    let lines = guest.sh("echo first\necho second", COMMAND).unwrap();

    assert_eq!((good.status, good.text.as_str()), (0, "one\ntwothree\n"));
    assert_eq!((bad.status, bad.text.as_str()), (3, "its \"quoted\" $((1 + 1))\n"));
    assert_eq!((lines.status, lines.text.as_str()), (0, "first\nsecond\n"));
    guest.poweroff(COMMAND).unwrap();
}

#[test]
fn a_command_that_hangs_or_is_too_long_is_an_error_and_the_guest_goes_on() {
    require!(first_time);
    let mut guest = Guest::boot(Spec::new(System::Busybox).unwrap(), BOOT).unwrap();

    let hung = guest.sh("sleep 3; echo late", Duration::from_secs(1)).unwrap_err();
    let long = guest.sh(&"x".repeat(5000), COMMAND).unwrap_err();
    let next = guest.sh("seq 1 2000 | wc -l", COMMAND).unwrap();

    assert!(matches!(hung, GuestError::TimedOut { .. }), "{hung}");
    assert!(matches!(long, GuestError::TooLong { length: 5000 }), "{long}");
    assert!(next.text.ends_with("2000\n"), "{next:?}");
    guest.kill().unwrap();
}

#[test]
fn a_guest_that_loses_its_power_has_ended() {
    require!(first_time);
    let (watcher, shown) = channel();
    let spec = Spec::new(System::Busybox).unwrap().watched_by(watcher);
    let mut guest = Guest::boot(spec, BOOT).unwrap();

    guest.kill().unwrap();

    assert!(!Path::new(&format!("/proc/{}", guest.pid())).exists());
    guest.sh("true", COMMAND).unwrap_err();
    assert!(shown.iter().collect::<String>().contains("a shell on ttyS0"));
}

#[test]
fn a_debian_guest_boots_works_reboots_and_leaves_a_clean_file_system() {
    require!(first_time);
    let copy = Copy::of(&Assets::find().unwrap().debian);
    let spec = Spec::new(System::Debian).unwrap().disk(Disk::QemuRaw(copy.0.clone()));
    let mut guest = Guest::boot(spec, BOOT).unwrap();

    let wrote = guest
        .sh(
            "dd if=/dev/urandom of=/srv/x bs=1M count=16 && sha256sum /srv/x | tee /srv/sum",
            COMMAND,
        )
        .unwrap();
    let failed = guest.sh("systemctl --failed --no-legend", COMMAND).unwrap();
    guest.reboot(BOOT).unwrap();
    let read = guest.sh("sha256sum -c /srv/sum", COMMAND).unwrap();
    guest.poweroff(BOOT).unwrap();
    let fsck = Command::new("/sbin/e2fsck").arg("-fn").arg(&copy.0).output().unwrap();

    assert_eq!(wrote.status, 0, "{wrote:?}");
    assert_eq!(failed.text, "", "{failed:?}");
    assert_eq!(read.text, "/srv/x: OK\n");
    assert!(fsck.status.success(), "{fsck:?}\n{}", guest.transcript());
}

#[test]
fn a_vhost_user_disk_of_another_backend_works_with_four_queues() {
    require!(first_time);
    let backend = OtherBackend::start();
    let spec = Spec::new(System::Busybox)
        .unwrap()
        .cpus(4)
        .vhost_user_disk(&backend.socket(), 4);
    let mut guest = Guest::boot(spec, BOOT).unwrap();

    let queues = guest.sh("ls /sys/block/vda/mq | wc -l", COMMAND).unwrap();
    let wrote = guest
        .sh("seq 1 100000 | dd of=/dev/vda bs=64k && sync", COMMAND)
        .unwrap();
    let read = guest
        .sh(
            "echo 3 >/proc/sys/vm/drop_caches; head -n 100000 /dev/vda | tail -n 1",
            COMMAND,
        )
        .unwrap();
    guest.poweroff(COMMAND).unwrap();

    assert_eq!(queues.text, "4\n");
    assert_eq!(wrote.status, 0, "{wrote:?}");
    assert_eq!(read.text, "100000\n");
}

/// QEMU's own vhost-user-blk backend, on an empty disk.
struct OtherBackend {
    process: Child,
    dir: PathBuf,
}

impl OtherBackend {
    fn start() -> Self {
        let dir = std::env::temp_dir().join(format!("mayfly-other-backend-{}", std::process::id()));
        fs::create_dir(&dir).expect("the temporary directory can be written");
        let disk = dir.join("disk.raw");
        fs::File::create(&disk)
            .and_then(|file| file.set_len(64 << 20))
            .expect("a fresh directory can be written");
        let (disk, socket) = (disk.display(), dir.join("socket"));
        let process = Command::new("qemu-storage-daemon")
            .arg("--blockdev")
            .arg(format!("file,node-name=disk,filename={disk}"))
            .arg("--export")
            .arg(format!(
                "vhost-user-blk,id=disk,node-name=disk,writable=on,num-queues=4,addr.type=unix,addr.path={}",
                socket.display()
            ))
            .spawn()
            .expect("qemu-storage-daemon comes with qemu-system-x86");
        let end = Instant::now() + COMMAND;
        while !socket.exists() && Instant::now() < end {
            thread::sleep(Duration::from_millis(10));
        }
        Self { process, dir }
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("socket")
    }
}

impl Drop for OtherBackend {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A copy of a disk that may be written.
struct Copy(PathBuf);

impl Copy {
    fn of(image: &Path) -> Self {
        let copy = std::env::temp_dir().join(format!("mayfly-guest-assets-{}.raw", std::process::id()));
        let copied = Command::new("cp")
            .args(["--sparse=always", "--reflink=auto"])
            .arg(image)
            .arg(&copy)
            .status();
        assert!(copied.expect("cp is part of every Debian").success());
        Self(copy)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
