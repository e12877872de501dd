//! A commit: the guest's disk becomes the base, whole or not at all, whatever dies or runs out meanwhile.
//!
//! The place's own base never changes (every place checks that); what is committed to is a copy of it.

mod ends;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use tests::client::{Client, Setup};
use tests::ctl::Ctl;
use tests::helper::Helper;
use tests::place::Place;

const DISK: usize = 2 << 20;

const OURS: &str = "the place is ours to use";

/// A base that may be committed to, and a helper on it that takes orders.
struct Scene<'place> {
    place: &'place Place,
    base: PathBuf,
    helper: Helper,
    ctl: Ctl,
}

impl<'place> Scene<'place> {
    fn new(place: &'place Place) -> Self {
        Self::at(place, place.dir())
    }

    /// The base in a directory of its own.
    fn at(place: &'place Place, dir: &Path) -> Self {
        let base = dir.join("golden.raw");
        fs::copy(place.base(), &base).expect(OURS);
        fs::set_permissions(&base, fs::Permissions::from_mode(0o640)).expect(OURS);
        let ctl = Ctl::at(place.dir().join("ctl"));
        let helper = helper_on(place, &base, &ctl);
        Self {
            place,
            base,
            helper,
            ctl,
        }
    }

    /// The same with a new helper, on what the base is now.
    fn restarted(self) -> Self {
        self.helper.terminate();
        Self {
            helper: helper_on(self.place, &self.base, &self.ctl),
            ..self
        }
    }

    fn guest(&self) -> Client {
        Client::connect(self.helper.socket(), Setup::default())
    }

    fn words(&self) -> [String; 2] {
        ["commit".into(), format!("--base={}", self.base.display())]
    }

    fn content(&self) -> Vec<u8> {
        fs::read(&self.base).expect(OURS)
    }

    /// What an unfinished commit has beside the base.
    fn leftovers(&self) -> usize {
        let dir = self.base.parent().expect(OURS);
        let names = fs::read_dir(dir)
            .expect(OURS)
            .map(|entry| entry.expect(OURS).file_name());
        names
            .filter(|name| name.to_string_lossy().contains("mayfly-new"))
            .count()
    }
}

fn helper_on(place: &Place, base: &Path, ctl: &Ctl) -> Helper {
    place.helper().base(base).value("--control-path", ctl.socket()).start()
}

#[test]
fn the_disk_is_the_new_base_and_who_runs_on_the_old_one_notices_nothing() {
    let (place, elsewhere) = (Place::with_noise(DISK, 1), Place::with_noise(512, 1));
    let scene = Scene::new(&place);
    let other = elsewhere.helper().base(&scene.base).start();
    let mut neighbour = Client::connect(other.socket(), Setup::default());
    let mut guest = scene.guest();
    guest.write(4096, &[7; 8192]);
    let disk = guest.read_all();

    let line = scene.ctl.json(["commit", "--base", scene.base.to_str().unwrap()]);

    assert_eq!(line["committed"], scene.base.canonicalize().unwrap().to_str().unwrap());
    assert!(scene.content() == disk, "the new base is another disk");
    assert_eq!(fs::metadata(&scene.base).unwrap().mode() & 0o777, 0o640);
    assert_eq!(scene.leftovers(), 0);
    assert!(neighbour.read_all() == place.content(), "the neighbour sees a change");
    guest.write(0, &[9; 512]);
    assert_eq!(guest.read(0, 512), [9; 512]);
    let refused = scene.ctl.refused(scene.words());
    assert!(refused.contains("replaced since"), "{refused}");
    assert!(scene.content() == disk, "the base changed");
}

#[test]
fn a_link_to_the_base_stays_one_and_a_second_name_is_refused() {
    let place = Place::with_noise(DISK, 2);
    let scene = Scene::new(&place);
    let (link, second) = (place.dir().join("link"), place.dir().join("second"));
    symlink("golden.raw", &link).unwrap();
    fs::hard_link(&scene.base, &second).unwrap();
    let refused = scene.ctl.refused(scene.words());
    assert!(refused.contains("hard links"), "{refused}");
    fs::remove_file(second).unwrap();

    let told = scene.ctl.done(["commit", "--base", link.to_str().unwrap()]);

    assert!(told.contains("goes on with the old base"), "{told}");
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(scene.content() == place.content());
}

#[test]
fn a_base_of_somebody_else_is_refused_before_anything_is_written() {
    let place = Place::with_noise(DISK, 3);
    let scene = Scene::new(&place);

    let refused = scene.ctl.refused(["commit", "--base", place.base().to_str().unwrap()]);

    assert!(refused.contains("is not the file"), "{refused}");
    let refused = scene.ctl.refused(["commit", "--base", "/dev/null"]);
    assert!(refused.contains("no regular file"), "{refused}");
}

#[test]
fn a_guest_that_makes_its_disk_look_like_an_image_is_told_of() {
    let place = Place::with_noise(DISK, 4);
    let scene = Scene::new(&place);
    let mut head = [0; 512];
    head[..4].copy_from_slice(b"QFI\xfb");
    scene.guest().write(0, &head);

    let ended = scene.ctl.run(scene.words());

    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stderr.contains("a qcow2 image"), "{ended:?}");
}
