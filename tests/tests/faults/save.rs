//! A save whose output, overlay or base fails: it says so and leaves nothing, or it is whole; the guest goes on.

use std::fs;
use std::path::Path;

use tests::client::{Client, Setup};
use tests::ctl::Ctl;
use tests::faults::{Call, Faults, Rule, When};
use tests::helper::Helper;
use tests::place::Place;
use tests::require;

use super::{EINTR, EIO, ENOSPC, OURS, SAVING};

const DISK: usize = 2 << 20;
/// More than there are calls in a save.
const ROUNDS: u64 = 200;

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

    /// Saves; whether there is an image of the disk now, of which there is nothing if not.
    fn saves(&self, words: &[&str], out: &Path, disk: &[u8]) -> bool {
        let ended = self.ctl.run([&["save", out.to_str().expect(OURS)][..], words].concat());
        if ended.code != Some(0) {
            assert_eq!(ended.code, Some(1), "{ended:?}");
            assert!(ended.stderr.contains("os error"), "{ended:?}");
            let left: Vec<_> = names(self.place.dir()).filter(|name| name.contains("saved")).collect();
            assert!(left.is_empty(), "{left:?}");
            return false;
        }
        let raw = out.with_extension("converted");
        if words.is_empty() {
            fs::rename(out, &raw).expect(OURS);
        } else {
            let convert = ["convert", "-f", "qcow2", "-O", "raw"];
            let done = std::process::Command::new("qemu-img")
                .args(convert)
                .args([out, &raw])
                .status();
            assert!(done.expect(OURS).success());
            fs::remove_file(out).expect(OURS);
        }
        assert!(fs::read(&raw).expect(OURS) == disk, "{words:?}: another disk was saved");
        fs::remove_file(raw).expect(OURS);
        true
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
    let out = place.dir().join("saved");
    for words in FORMATS {
        let mut failed = 0;
        for (number, errno) in (1..ROUNDS).zip([EIO, ENOSPC].into_iter().cycle()) {
            faults.set(&[Rule::fail(&SAVING, errno).when(When::Nth(number))]);
            let saved = scene.saves(words, &out, &disk);
            if faults.spoilt().is_empty() {
                assert!(saved);
                break;
            }
            failed += u64::from(!saved);
            assert!(number < ROUNDS - 1);
        }
        assert!(failed > 5, "{words:?}: {failed} failed");
        faults.clear();
        guest.write(4096, &[7; 512]);
        assert!(guest.read_all() == disk, "the guest's disk changed");
    }
    scene.helper.terminate();
}

#[test]
fn halves_and_interruptions_are_gone_on_after() {
    let place = Place::with_noise(DISK, 2);
    let faults = Faults::new(place.dir());
    let scene = Scene::new(&place, &faults);
    let disk = scene.guest().read_all();
    let out = place.dir().join("saved");
    for words in FORMATS {
        faults.set(&[
            Rule::short(&[Call::Preadv2, Call::Pwrite]).when(When::Permille(500)),
            Rule::fail(&SAVING, EINTR).when(When::Permille(400)),
        ]);
        assert!(scene.saves(words, &out, &disk), "{words:?} failed");
        assert!(faults.spoilt().iter().all(|count| *count > 2), "{:?}", faults.spoilt());
    }
    faults.clear();
    scene.helper.terminate();
}
