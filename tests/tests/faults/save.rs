//! A save whose output, overlay or base fails: it says so and leaves nothing, or it is whole; the guest goes on.

use std::fs;
use std::path::{Path, PathBuf};

use nix::libc::{AT_FDCWD, EINTR, EINVAL, EIO};
use tests::client::{Client, Setup};
use tests::ctl::Ctl;
use tests::faults::{Call, Faults, Rule, When};
use tests::helper::{Helper, beside_this_test};
use tests::place::Place;
use tests::require;

use super::each::{End, Row};
use super::{OURS, SAVING, in_a_save};

const DISK: usize = 2 << 20;

struct Scene<'place> {
    place: &'place Place,
    helper: Helper,
    ctl: Ctl,
}

impl<'place> Scene<'place> {
    fn new(place: &'place Place, faults: &Faults) -> Self {
        let ctl = Ctl::at(place.dir().join("ctl"));
        let helper = place.helper().value("--control-path", ctl.socket());
        Self {
            place,
            helper: helper.faulty(faults).start(),
            ctl,
        }
    }

    fn guest(&self) -> Client {
        let mut guest = Client::connect(self.helper.socket(), Setup::default());
        guest.write(512, &[7; 18 * 512]);
        guest.write(1 << 20, &[8; 300_000 / 512 * 512]);
        guest
    }

    fn out(&self) -> PathBuf {
        self.place.dir().join("saved")
    }

    /// Saves, and what the helper called for it failed with `errno`, if something did.
    fn saves(&self, words: &[&str], disk: &[u8], errno: i32) -> End {
        let out = self.out();
        let ended = self.ctl.run([&["save", out.to_str().expect(OURS)][..], words].concat());
        let end = if ended.code == Some(0) { End::Done } else { End::Failed };
        if end == End::Failed {
            assert_eq!(ended.code, Some(1), "{ended:?}");
        }
        self.is_left(end, words, disk);
        end.because(errno, &ended.stderr)
    }

    /// Makes sure that there is an image of the disk, or nothing where there is to be none, and removes it.
    fn is_left(&self, end: End, words: &[&str], disk: &[u8]) {
        let out = self.out();
        if end == End::Failed {
            let left: Vec<_> = names(self.place.dir()).filter(|name| name.contains("saved")).collect();
            assert!(left.is_empty(), "{left:?}");
            return;
        }
        let raw = out.with_extension("converted");
        if words.is_empty() {
            fs::rename(&out, &raw).expect(OURS);
        } else {
            let convert = ["convert", "-f", "qcow2", "-O", "raw"];
            let done = std::process::Command::new("qemu-img")
                .args(convert)
                .args([&out, &raw])
                .status();
            assert!(done.expect(OURS).success());
            fs::remove_file(out).expect(OURS);
        }
        assert!(fs::read(&raw).expect(OURS) == disk, "{words:?}: another disk was saved");
        fs::remove_file(raw).expect(OURS);
    }
}

fn names(dir: &Path) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(dir).expect(OURS);
    entries.map(|entry| entry.expect(OURS).file_name().to_string_lossy().into_owned())
}

const FORMATS: [&[&str]; 2] = [&[], &["--format=qcow2", "--delta", "--backing=base.raw"]];

#[test]
fn one_that_fails_says_so_and_leaves_nothing() {
    require!(first_time);
    let place = Place::with_noise(DISK, 1);
    let faults = Faults::new(place.dir());
    let scene = Scene::new(&place, &faults);
    let mut guest = scene.guest();
    let disk = guest.read_all();
    for words in FORMATS {
        for row in in_a_save(&scene.helper, words.is_empty()) {
            row.try_each(&faults, &mut |errno| scene.saves(words, &disk, errno));
        }
        // Others look at the base as well, as often as they like: so it is each time.
        faults.set(&[Rule::fail(&[Call::Fstat], EIO).on(&scene.helper.descriptors("base"))]);
        assert_eq!(scene.saves(words, &disk, EIO), End::Failed);
        faults.clear();
        guest.write(4096, &[7; 512]);
        assert!(guest.read_all() == disk, "the guest's disk changed");
    }
    scene.helper.terminate();
}

/// What `mayfly ctl` does when the helper has done its part; the helper is left alone.
struct Naming<'s, 'place> {
    scene: &'s Scene<'place>,
    faults: Faults,
    disk: Vec<u8>,
}

impl<'s, 'place> Naming<'s, 'place> {
    fn new(scene: &'s Scene<'place>) -> Self {
        let dir = scene.place.dir().join("in-ctl");
        fs::create_dir(&dir).expect(OURS);
        Self {
            scene,
            faults: Faults::new(&dir),
            disk: scene.guest().read_all(),
        }
    }

    fn saves(&self, errno: i32) -> End {
        let mut command = self.faults.command(beside_this_test("mayfly"));
        let words = command.arg("ctl").arg(self.scene.ctl.socket()).arg("save");
        let output = words.arg(self.scene.out()).output().expect(OURS);
        let end = match (output.status.code(), self.scene.out().exists()) {
            (Some(0), true) => End::Done,
            (Some(1), true) => End::Unsure,
            (Some(1), false) => End::Failed,
            _ => panic!("{output:?}"),
        };
        self.scene.is_left(end, &[], &self.disk);
        end.because(errno, &String::from_utf8_lossy(&output.stderr))
    }
}

#[test]
fn one_that_gets_no_name_leaves_nothing() {
    require!(first_time);
    let place = Place::with_noise(DISK, 3);
    let in_helper = Faults::new(place.dir());
    let scene = Scene::new(&place, &in_helper);
    let naming = Naming::new(&scene);
    let rows = [
        Row::these(Call::Flock, &[End::Failed]),
        Row::these(Call::Link, &[End::Failed]),
        // The file, and then the directory.
        Row::these(Call::Fsync, &[End::Failed, End::Unsure]),
        // Whether the name is free, and how long the file is, twice.
        Row::mattering(Call::Fstat, &[End::Failed; 3]),
    ];
    for row in rows {
        row.try_each(&naming.faults, &mut |errno| naming.saves(errno));
    }
    drop(naming);
    scene.helper.terminate();
}

/// As on NFS: no file is without a name, and no name is given so that it replaces none. (A file without a name is only kept where
/// /proc shows it.)
#[test]
fn where_a_name_comes_in_two_steps_it_comes_and_a_second_one_is_no_failure() {
    let place = Place::with_noise(DISK, 4);
    let in_helper = Faults::new(place.dir());
    let scene = Scene::new(&place, &in_helper);
    let naming = Naming::new(&scene);
    let second = place.dir().join(".saved.mayfly-new");
    let two_steps = [
        Rule::fail(&[Call::Fstat], EIO).on(&[AT_FDCWD]),
        Rule::fail(&[Call::Rename], EINVAL),
    ];

    naming.faults.set(&two_steps);
    assert_eq!(naming.saves(EINVAL), End::Done);
    assert_eq!(naming.faults.spoilt(), [1, 1]);
    assert!(!second.exists());

    naming
        .faults
        .set(&[&two_steps[..], &[Rule::fail(&[Call::Link], EIO)]].concat());
    assert_eq!(naming.saves(EIO), End::Failed);
    assert!(!second.exists());

    naming
        .faults
        .set(&[&two_steps[..], &[Rule::fail(&[Call::Unlink], EIO)]].concat());
    assert_eq!(naming.saves(EIO), End::Done);
    assert!(second.exists(), "it could not be removed");
    drop(naming);
    scene.helper.terminate();
}

#[test]
fn halves_and_interruptions_are_gone_on_after() {
    let place = Place::with_noise(DISK, 2);
    let faults = Faults::new(place.dir());
    let scene = Scene::new(&place, &faults);
    let disk = scene.guest().read_all();
    for words in FORMATS {
        faults.set(&[
            Rule::short(&[Call::Preadv2, Call::Pwrite]).when(When::Permille(500)),
            Rule::fail(&SAVING, EINTR).when(When::Permille(400)),
        ]);
        assert_eq!(scene.saves(words, &disk, EINTR), End::Done, "{words:?}");
        assert!(faults.spoilt().iter().all(|count| *count > 2), "{:?}", faults.spoilt());
    }
    faults.clear();
    scene.helper.terminate();
}
