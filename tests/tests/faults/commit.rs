//! A commit with errors at each of its steps, in the helper that fills the new base and in the program that gives it its name: the
//! base is the old one or the new one, whole, as it was said.

use std::fs;
use std::path::PathBuf;

use tests::client::{Client, Setup};
use tests::faults::{Call, Faults, Rule, When};
use tests::helper::{Helper, beside_this_test};
use tests::place::Place;
use tests::require;

use super::{EINTR, EIO, ENOSPC, OURS, SAVING};

const DISK: usize = 1 << 20;
/// More than there are calls in a commit.
const ROUNDS: u64 = 200;

/// What `mayfly ctl` does to files in a commit; the helper saves. (The attributes that a file system lacks are no error.)
const IN_CTL: [Call; 5] = [Call::Fsync, Call::Rename, Call::Fchmod, Call::Fchown, Call::Flock];

struct Scene<'place> {
    place: &'place Place,
    base: PathBuf,
    in_helper: Faults,
    in_ctl: Faults,
}

/// How a commit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Done,
    /// It says that the base is the new one all the same.
    Unsure,
    Failed,
}

impl<'place> Scene<'place> {
    fn new(place: &'place Place) -> Self {
        let base = place.dir().join("golden.raw");
        fs::copy(place.base(), &base).expect(OURS);
        let faults = |name: &str| {
            let dir = place.dir().join(name);
            fs::create_dir(&dir).expect(OURS);
            Faults::new(&dir)
        };
        Self {
            place,
            base,
            in_helper: faults("in-helper"),
            in_ctl: faults("in-ctl"),
        }
    }

    /// A helper on the base, and its disk, which the guest has changed.
    fn helper(&self, round: u64) -> (Helper, Vec<u8>) {
        self.in_helper.clear();
        let helper = self.place.helper().base(&self.base);
        let helper = helper
            .value("--control-path", self.socket())
            .faulty(&self.in_helper)
            .start();
        let mut guest = Client::connect(helper.socket(), Setup::default());
        guest.write(4096, &vec![round.to_le_bytes()[0]; 100 * 512]);
        guest.write(500_000 / 512 * 512, &[1; 512]);
        let disk = guest.read_all();
        (helper, disk)
    }

    fn socket(&self) -> PathBuf {
        self.place.dir().join("ctl")
    }

    /// A commit of this disk; the base is what it says then.
    fn commit(&self, disk: &[u8]) -> End {
        let old = fs::read(&self.base).expect(OURS);
        let mut command = self.in_ctl.command(beside_this_test("mayfly"));
        command.arg("ctl").arg(self.socket()).arg("commit");
        let output = command
            .arg(format!("--base={}", self.base.display()))
            .output()
            .expect(OURS);
        let said = String::from_utf8_lossy(&output.stderr);
        let end = match output.status.code() {
            Some(0) => End::Done,
            Some(1) if said.contains("the base is the new one") => End::Unsure,
            Some(1 | 22) if said.contains("os error") => End::Failed,
            _ => panic!("{output:?}"),
        };
        let expected = if end == End::Failed { &old } else { disk };
        assert!(
            fs::read(&self.base).expect(OURS) == expected,
            "neither old nor new: {output:?}"
        );
        end
    }

    /// Each call fails once; every commit after a failed one finds the way free.
    fn each_error(&self, faults: &Faults, calls: &[Call]) -> Vec<End> {
        let (mut helper, mut disk) = self.helper(0);
        let mut ends = Vec::new();
        for (number, errno) in (1..ROUNDS).zip([EIO, ENOSPC].into_iter().cycle()) {
            faults.set(&[Rule::fail(calls, errno).when(When::Nth(number))]);
            let end = self.commit(&disk);
            let spoilt = faults.spoilt();
            faults.clear();
            ends.push(end);
            if spoilt.is_empty() {
                assert_eq!(end, End::Done);
                break;
            }
            if end != End::Failed {
                helper.terminate();
                (helper, disk) = self.helper(number);
            }
        }
        assert_eq!(ends.last(), Some(&End::Done));
        assert_eq!(self.leftovers(), 0);
        helper.terminate();
        ends
    }

    fn leftovers(&self) -> usize {
        let names = fs::read_dir(self.place.dir())
            .expect(OURS)
            .map(|entry| entry.expect(OURS).file_name());
        names
            .filter(|name| name.to_string_lossy().contains("mayfly-new"))
            .count()
    }
}

fn count(ends: &[End], end: End) -> usize {
    ends.iter().filter(|found| **found == end).count()
}

#[test]
fn an_error_while_the_new_base_is_filled_leaves_the_old_one() {
    require!(first_time);
    let place = Place::with_noise(DISK, 1);
    let scene = Scene::new(&place);

    let ends = scene.each_error(&scene.in_helper, &SAVING);

    assert!(count(&ends, End::Failed) > 5, "{ends:?}");
    assert_eq!(count(&ends, End::Unsure), 0, "{ends:?}");
}

#[test]
fn an_error_while_it_gets_its_name_leaves_old_or_new_as_is_said() {
    require!(first_time);
    let place = Place::with_noise(DISK, 2);
    let scene = Scene::new(&place);

    let ends = scene.each_error(&scene.in_ctl, &IN_CTL);

    assert!(count(&ends, End::Failed) >= 3, "{ends:?}");
    // The last fsync, of the directory.
    assert_eq!(count(&ends, End::Unsure), 1, "{ends:?}");
}

#[test]
fn halves_and_interruptions_are_gone_on_after() {
    let place = Place::with_noise(DISK, 3);
    let scene = Scene::new(&place);
    let (helper, disk) = scene.helper(1);
    scene.in_helper.set(&[
        Rule::short(&[Call::Preadv2, Call::Pwrite]).when(When::Permille(500)),
        Rule::fail(&SAVING, EINTR).when(When::Permille(400)),
    ]);

    // That of the file and, behind its second attempt, that of the directory.
    let interrupted = |number| Rule::fail(&[Call::Fsync], EINTR).when(When::Nth(number));
    scene.in_ctl.set(&[interrupted(1), interrupted(2)]);

    assert_eq!(scene.commit(&disk), End::Done);

    assert_eq!(scene.in_ctl.spoilt(), [1, 1]);
    assert!(scene.in_helper.spoilt().iter().all(|count| *count > 2));
    scene.in_helper.clear();
    helper.terminate();
}
