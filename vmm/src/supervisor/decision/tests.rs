//! What is refused at the start, and that nothing is left of having looked.

use super::*;
use crate::supervisor::host::Engine;
use crate::supervisor::plan::Job;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

/// A directory with images.
struct Scene {
    dir: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.raw", "b.raw"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A run with disks from these images.
    fn plan(&self, images: &[&str]) -> Plan {
        let job = Job {
            name: "nobody".into(),
            program: "/bin/false".into(),
            args: Vec::new(),
            table: Vec::new(),
            user: None,
        };
        let disks = images.iter().zip('a'..).map(|(image, letter)| PlannedDisk {
            name: format!("vd{letter} ({image})"),
            device: format!("vd{letter}"),
            is_overlaid: true,
            is_imported: false,
            control: None,
            backend: Backend::Helper {
                image: self.path(image),
                job: job.clone(),
            },
        });
        Plan {
            engine: Engine::Kvm,
            disks: disks.collect(),
            machine: job.clone(),
        }
    }

    /// What is refused of this; nothing is left of it in any case.
    fn check(&self, images: &[&str], on_exit: &str) -> Result<(), String> {
        let before = self.names();
        let outcome = check(&self.plan(images), &on_exit.parse().unwrap(), None);
        assert_eq!(self.names(), before);
        outcome
    }

    fn names(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.dir.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        names.sort();
        names
    }

    fn save(&self, name: &str) -> String {
        format!("save={}", self.path(name).display())
    }
}

#[test]
fn what_can_be_done_at_the_end_is_not_refused_at_the_start() {
    let scene = Scene::new();
    symlink("a.raw", scene.path("link")).unwrap();

    for on_exit in ["burn", "ask", "commit", &scene.save("out"), &scene.save("")] {
        scene.check(&["a.raw", "b.raw"], on_exit).unwrap();
        scene.check(&["link"], on_exit).unwrap();
    }
    for on_exit in ["burn", "ask", &scene.save("out")] {
        scene.check(&["a.raw", "a.raw"], on_exit).unwrap();
    }
}

#[test]
fn an_output_that_could_not_be_written_is_refused() {
    let scene = Scene::new();
    fs::write(scene.path("out-vdb"), "precious").unwrap();

    for (on_exit, why) in [
        (scene.save("out"), "disk vdb (b.raw): "),
        (scene.save("out"), "out-vdb is there already"),
        (scene.save("nowhere/out"), "cannot open the directory"),
        (scene.save("nowhere/"), "nowhere/ is no name that a file can have"),
        // Where root cannot write either.
        ("save=/proc/out".to_owned(), "cannot create /proc/"),
    ] {
        let refused = scene.check(&["a.raw", "b.raw"], &on_exit).unwrap_err();
        assert!(refused.contains(why), "{refused}");
    }
    assert_eq!(fs::read(scene.path("out-vdb")).unwrap(), b"precious");
}

#[test]
fn a_base_that_could_not_be_replaced_is_refused() {
    let scene = Scene::new();
    fs::hard_link(scene.path("a.raw"), scene.path("other name")).unwrap();

    let refused = scene.check(&["b.raw", "a.raw"], "commit").unwrap_err();

    assert!(refused.contains("disk vdb (a.raw): "), "{refused}");
    assert!(refused.contains("several names (hard links)"), "{refused}");
    assert!(!refused.contains("stays as it is"), "{refused}");
    let refused = scene.check(&["nowhere"], "commit").unwrap_err();
    assert!(refused.contains("cannot find the base"), "{refused}");
}

#[test]
fn a_directory_that_cannot_be_written_is_known_before_the_end() {
    let scene = Scene::new();
    // Where root cannot write either.
    let refused = scene.check(&["/proc/version"], "commit").unwrap_err();
    assert!(refused.contains("cannot create /proc/"), "{refused}");
    if rustix::process::geteuid().is_root() {
        // No mode hinders root.
        return;
    }
    fs::set_permissions(scene.dir.path(), fs::Permissions::from_mode(0o555)).unwrap();

    let refused = scene.check(&["a.raw"], "commit").unwrap_err();

    assert!(refused.contains("Permission denied"), "{refused}");
    fs::set_permissions(scene.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn two_disks_are_not_committed_to_one_base() {
    let scene = Scene::new();
    symlink("a.raw", scene.path("link")).unwrap();

    let refused = scene.check(&["a.raw", "b.raw", "link"], "commit").unwrap_err();

    assert!(
        refused.contains("disk vdc (link): its base is also that of disk vda (a.raw)"),
        "{refused}"
    );
}

#[test]
fn an_imported_base_is_not_committed_to_and_that_is_known_of_asking_too() {
    let scene = Scene::new();
    let mut plan = scene.plan(&["a.raw", "b.raw"]);
    plan.disks[1].is_imported = true;

    let refused = check(&plan, &OnExit::Decided(Fate::Commit), None).unwrap_err();

    assert!(refused.contains("--import"), "{refused}");
    check(&plan, &OnExit::Ask, None).unwrap();
    let obstacles = obstacles(&plan, &Fate::Commit, None);
    assert_eq!(obstacles.len(), 1, "{obstacles:?}");
    plan.disks[1].is_overlaid = false;
    check(&plan, &OnExit::Decided(Fate::Commit), None).unwrap();
}

#[test]
fn a_look_at_the_start_leaves_what_a_killed_commit_left() {
    let scene = Scene::new();
    fs::write(scene.path(".a.raw.mayfly-new"), "left").unwrap();

    for on_exit in ["ask", "commit", &scene.save("")] {
        scene.check(&["a.raw", "b.raw"], on_exit).unwrap();
    }
}

#[test]
fn an_output_that_the_run_itself_would_be_in_the_way_of_is_refused() {
    let scene = Scene::new();
    symlink(".", scene.path("here")).unwrap();
    let mut plan = scene.plan(&["a.raw", "b.raw"]);
    plan.disks[0].control = Some(scene.path("here/out-vdb"));
    let report = scene.path("report-vda");
    let check = |on_exit: String| check(&plan, &on_exit.parse().unwrap(), Some(&report));

    let refused = check(scene.save("out")).unwrap_err();
    assert!(refused.contains("disk vdb (b.raw): "), "{refused}");
    assert!(refused.contains("is where a control socket of this run"), "{refused}");
    let refused = check(scene.save("here/report")).unwrap_err();
    assert!(refused.contains("is where --report of this run"), "{refused}");
    check(scene.save("other")).unwrap();
}

#[test]
fn what_would_leave_the_end_no_way_is_known_while_the_guest_runs() {
    let scene = Scene::new();
    let plan = scene.plan(&["a.raw", "b.raw"]);
    let forestalled = |on_exit: &str, fate: &str| forestalled(&plan, &on_exit.parse().unwrap(), &fate.parse().unwrap());

    let refused = forestalled("commit", "commit").unwrap();
    assert!(refused.contains("cannot be done twice"), "{refused}");
    let refused = forestalled(&scene.save("out"), &scene.save("./out-vdb")).unwrap();
    assert!(refused.contains("saves disk vdb (b.raw)"), "{refused}");
    for (on_exit, fate) in [
        ("ask", "commit"),
        ("burn", "commit"),
        (&*scene.save("out"), "commit"),
        ("commit", &scene.save("out")),
        (&scene.save("out"), &scene.save("out")),
    ] {
        assert_eq!(forestalled(on_exit, fate), None, "{on_exit} {fate}");
    }
}
