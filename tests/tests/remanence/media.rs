//! The medium: file systems in files, mounted, burnt on, unmounted, and searched as raw bytes.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tests::helper::Helper;
use tests::mounted::{Kind, Mounted, for_this_thread_only};
use tests::place::Place;
use tests::require;

use crate::{COPIES, Mark, marked, padded};

const MEBIBYTES: u64 = 320;

/// How often `mark` is in the file, which may be large, sparse and binary.
pub(crate) fn copies_in(file: &Path, mark: &Mark) -> usize {
    let found = Command::new("grep")
        .args([
            "--null-data",
            "--text",
            "--only-matching",
            "--fixed-strings",
            "--regexp",
        ])
        .arg(std::str::from_utf8(mark).expect("a mark is text"))
        .arg(file)
        .env("LC_ALL", "C")
        .output()
        .expect("every system has grep");
    // 1 is for none; anything else was no search.
    assert!(matches!(found.status.code(), Some(0 | 1)), "{found:?}");
    found.stdout.len() / (mark.len() + 1)
}

/// A place whose overlay directory has a medium of its own.
struct Medium {
    place: Place,
    mounted: Option<Mounted>,
}

impl Medium {
    fn new(kind: Kind) -> Self {
        for_this_thread_only();
        let place = Place::with_noise(COPIES * 8192, 1);
        kind.make(&place.dir().join("image"), MEBIBYTES);
        Self { place, mounted: None }
    }

    /// Has `burn` use the mounted directory, and counts the `mark`s on the medium afterwards.
    fn after(&mut self, mark: &Mark, burn: impl FnOnce(&Place, &Mounted)) -> Option<usize> {
        let image = self.place.dir().join("image");
        let mounted = self.mounted.insert(Mounted::image(&image, &self.place.overlay_dir())?);
        burn(&self.place, mounted);
        self.mounted.take()?.unmount();
        Some(copies_in(&image, mark))
    }
}

/// A helper with these options burns, after all that was written reached the medium.
fn helper_burns(place: &Place, mounted: &Mounted, mark: &Mark, options: &[&str], end: fn(Helper)) {
    let plain = options.contains(&"--no-encrypt");
    let helper = options
        .iter()
        .fold(place.helper(), |helper, option| helper.option(option))
        .start();
    assert_eq!(helper.report()["disk"]["overlay"]["encrypted"].as_bool(), Some(!plain));
    let client = marked(&helper, mark);
    mounted.sync();
    drop(client);
    end(helper);
    mounted.sync();
}

/// QEMU with `-snapshot` burns in the same way; its monitor writes as a guest would, so that none needs to boot.
fn qemu_burns(place: &Place, mounted: &Mounted, mark: &Mark, end: fn(Child)) {
    let pattern = place.dir().join("pattern");
    fs::write(&pattern, padded(mark, 8192).repeat(COPIES)).expect("the place can be written");
    let mut qemu = Command::new("qemu-system-x86_64")
        .args([
            "-M",
            "none",
            "-display",
            "none",
            "-monitor",
            "stdio",
            "-snapshot",
            "-drive",
        ])
        .arg(format!("if=none,id=disk,format=raw,file={}", place.base().display()))
        .env("TMPDIR", place.overlay_dir())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("QEMU is installed (make deps)");
    let mut monitor = qemu.stdin.take().expect("it is a pipe");
    let answers = BufReader::new(qemu.stdout.take().expect("it is a pipe")).lines();
    let order = format!("write -q -s {} 0 {}", pattern.display(), COPIES * 8192);
    writeln!(monitor, r#"qemu-io disk "{order}""#).expect("QEMU listens");
    // Answered when that is done.
    writeln!(monitor, "info version").expect("QEMU listens");
    let told = answers
        .map_while(Result::ok)
        .any(|line| line.starts_with(char::is_numeric));
    assert!(told, "QEMU did as it was told");
    mounted.sync();
    end(qemu);
    drop(monitor);
    mounted.sync();
}

fn quits(mut qemu: Child) {
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(qemu.id()).expect("a pid")),
        nix::sys::signal::Signal::SIGTERM,
    )
    .expect("it is ours");
    assert!(qemu.wait().expect("it is ours").success());
}

fn killed(mut qemu: Child) {
    qemu.kill().expect("it is ours");
    qemu.wait().expect("it is ours");
}

fn burns_without_a_trace_on(kind: Kind) {
    let mut medium = Medium::new(kind);
    // Each with a mark of its own: what an earlier one left says nothing of a later one.
    let plain = medium.after(b"[written in the clear, for once]", |place, mounted| {
        let mark = b"[written in the clear, for once]";
        helper_burns(place, mounted, mark, &["--no-encrypt"], Helper::kill);
    });
    let Some(plain) = plain else {
        require::skip("needs loop devices and ext4, xfs and btrfs");
        return;
    };
    assert!(plain >= COPIES, "{kind:?}: the test looks in the wrong place: {plain}");

    for (mark, end) in [
        (b"[a guest's, whose helper exited]", Helper::terminate as fn(Helper)),
        (b"[a guest's whose helper is shot]", Helper::kill),
    ] {
        let found = medium.after(mark, |place, mounted| helper_burns(place, mounted, mark, &[], end));
        assert_eq!(found, Some(0), "{kind:?}: copies on the medium");
    }

    for (mark, end) in [
        (b"[a guest's, whose QEMU has quit]", quits as fn(Child)),
        (b"[a guest's, whose QEMU was shot]", killed),
    ] {
        let found = medium.after(mark, |place, mounted| qemu_burns(place, mounted, mark, end));
        assert!(
            found.is_some_and(|found| found >= COPIES),
            "{kind:?}: for comparison: {found:?}"
        );
    }
}

#[test]
fn an_ext4_keeps_nothing_that_a_guest_wrote() {
    require!(root);
    burns_without_a_trace_on(Kind::Ext4);
}

#[test]
fn an_xfs_keeps_nothing_that_a_guest_wrote() {
    require!(root);
    burns_without_a_trace_on(Kind::Xfs);
}

#[test]
fn a_btrfs_keeps_nothing_that_a_guest_wrote() {
    require!(root);
    burns_without_a_trace_on(Kind::Btrfs);
}
