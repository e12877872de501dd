//! A commit with errors at each of its steps, in the helper that fills the new base and in the program that gives it its name: the
//! base is the old one or the new one, whole, as it was said.

use std::fs;
use std::os::unix::fs::chown;
use std::path::PathBuf;

use nix::libc::EINTR;
use nix::unistd::Uid;
use tests::client::{Client, Setup};
use tests::faults::{Call, Faults, Rule, When};
use tests::helper::{Helper, beside_this_test};
use tests::place::Place;
use tests::require;

use super::each::{Deed, End, Row};
use super::{OURS, SAVING, in_a_save};

const DISK: usize = 1 << 20;
/// Whose the base is, where it can be somebody else's.
const OTHER: u32 = 1;

/// What becomes of a commit when the base or the new file cannot be looked at: it is refused where what the new file has of
/// the old one is compared, for --new-owner helps.
const LOOKS: [End; 10] = {
    use End::{Failed, Refused};
    [
        Failed, Failed, Failed, Refused, Refused, Failed, Refused, Refused, Failed, Failed,
    ]
};

/// All that `mayfly ctl` calls for files in a commit, and what becomes of the commit when that fails; the helper saves.
fn in_ctl() -> Vec<Row> {
    let mut rows = vec![
        // The old base, the new one.
        Row::these(Call::Flock, &[End::Failed; 2]),
        // The old one's mode, none for others until it is whole, and again the old one's.
        Row::these(Call::Fchmod, &[End::Refused, End::Failed, End::Refused]),
        // What the new base begins with.
        Row::these(Call::Pread, &[End::Refused]),
        // Its name for a moment, and its name.
        Row::these(Call::Link, &[End::Failed]),
        Row::these(Call::Rename, &[End::Failed]),
        // The file, and then the directory.
        Row::these(Call::Fsync, &[End::Failed, End::Unsure]),
        // What the old base is, whether the path leads to it (before and after), and what the new file has of it and how long
        // it is. Not needed: whether the directory is sticky, whether there is a /proc for files without names, and what is
        // looked at to print.
        Row::mattering(Call::Fstat, &LOOKS),
    ];
    if Uid::effective().is_root() {
        // The old one's owner.
        rows.push(Row::these(Call::Fchown, &[End::Refused]));
    }
    rows
}

struct Scene<'place> {
    place: &'place Place,
    base: PathBuf,
    in_helper: Faults,
    in_ctl: Faults,
}

impl<'place> Scene<'place> {
    fn new(place: &'place Place) -> Self {
        let base = place.dir().join("golden.raw");
        fs::copy(place.base(), &base).expect(OURS);
        if Uid::effective().is_root() {
            chown(&base, Some(OTHER), None).expect(OURS);
        }
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

    /// A commit of this disk, of whose calls one failed with `errno`, if one did; the base is what it says then.
    fn commit(&self, disk: &[u8], errno: i32) -> End {
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
            Some(1) => End::Failed,
            Some(22) => End::Refused,
            _ => panic!("{output:?}"),
        };
        let expected = if end.is_bad() { &old } else { disk };
        assert!(
            fs::read(&self.base).expect(OURS) == expected,
            "neither old nor new: {output:?}"
        );
        end.because(errno, &said)
    }

    fn commits(&self, helper: (Helper, Vec<u8>)) -> Commits<'_, 'place> {
        Commits {
            scene: self,
            helper: Some(helper),
            round: 0,
        }
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

/// One commit after the other; after one that failed, the next one finds the way free.
struct Commits<'s, 'place> {
    scene: &'s Scene<'place>,
    helper: Option<(Helper, Vec<u8>)>,
    round: u64,
}

impl Deed for Commits<'_, '_> {
    fn prepare(&mut self) {
        if self.helper.is_none() {
            self.round += 1;
            self.helper = Some(self.scene.helper(self.round));
        }
    }

    fn act(&mut self, errno: i32) -> End {
        let (helper, disk) = self.helper.take().expect("it is prepared");
        let end = self.scene.commit(&disk, errno);
        if end.is_bad() {
            self.helper = Some((helper, disk));
        } else {
            // It goes on with the old base.
            helper.terminate();
        }
        assert_eq!(self.scene.leftovers(), 0);
        end
    }
}

#[test]
fn an_error_while_the_new_base_is_filled_leaves_the_old_one() {
    require!(first_time);
    let place = Place::with_noise(DISK, 1);
    let scene = Scene::new(&place);

    let helper = scene.helper(0);
    let rows = in_a_save(&helper.0, true);
    let mut commits = scene.commits(helper);
    for row in rows {
        row.try_each(&scene.in_helper, &mut commits);
    }
}

#[test]
fn an_error_while_it_gets_its_name_leaves_old_or_new_as_is_said() {
    require!(first_time);
    let place = Place::with_noise(DISK, 2);
    let scene = Scene::new(&place);

    let mut commits = scene.commits(scene.helper(0));
    for row in in_ctl() {
        row.try_each(&scene.in_ctl, &mut commits);
    }
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

    assert_eq!(scene.commit(&disk, EINTR), End::Done);

    assert_eq!(scene.in_ctl.spoilt(), [1, 1]);
    assert!(scene.in_helper.spoilt().iter().all(|count| *count > 2));
    scene.in_helper.clear();
    helper.terminate();
}
