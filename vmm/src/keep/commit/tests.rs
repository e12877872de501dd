//! What is refused, and that a base is old or new.

use super::*;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

/// A directory with a base in it.
struct Scene {
    dir: tempfile::TempDir,
    base: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap().join("base.raw");
        std::fs::write(&base, b"old").unwrap();
        std::fs::set_permissions(&base, std::fs::Permissions::from_mode(0o640)).unwrap();
        Self { dir, base }
    }

    /// As a helper says it that serves `path` now.
    fn served(&self) -> BaseStatus {
        let info = self.base.metadata().unwrap();
        BaseStatus {
            device: info.dev(),
            inode: info.ino(),
            bytes: info.len(),
        }
    }

    fn prepare(&self) -> Result<Commit, CommitError> {
        Commit::prepare(&self.base, &self.served(), false)
    }

    fn content(&self) -> Vec<u8> {
        std::fs::read(&self.base).unwrap()
    }

    fn files(&self) -> usize {
        std::fs::read_dir(self.dir.path()).unwrap().count()
    }
}

#[test]
fn the_name_leads_to_the_new_file_and_who_has_the_old_one_keeps_it() {
    let scene = Scene::new();
    let old = File::open(&scene.base).unwrap();
    let commit = scene.prepare().unwrap();
    assert_eq!(commit.output().metadata().unwrap().mode() & 0o777, 0o600);
    commit.output().write_all(b"new").unwrap();
    assert_eq!(scene.content(), b"old");

    let done = commit.finish().unwrap();

    let expected = Committed {
        path: scene.base.clone(),
        looks_like: None,
    };
    assert_eq!((done, scene.content()), (expected, b"new".to_vec()));
    assert_eq!(scene.base.metadata().unwrap().mode() & 0o777, 0o640);
    let mut kept = [0; 3];
    old.read_exact_at(&mut kept, 0).unwrap();
    assert_eq!(&kept, b"old");
    assert_eq!(scene.files(), 1);
}

#[test]
fn a_second_commit_of_the_old_base_is_refused() {
    let scene = Scene::new();
    let served = scene.served();
    scene.prepare().unwrap().finish().unwrap();

    let second = Commit::prepare(&scene.base, &served, false);

    assert!(matches!(second, Err(CommitError::Replaced(_))), "{second:?}");
}

#[test]
fn two_commits_never_at_once() {
    let scene = Scene::new();
    let first = scene.prepare().unwrap();

    assert!(matches!(scene.prepare(), Err(CommitError::Locked(_))));

    drop(first);
    assert_eq!((scene.content(), scene.files()), (b"old".to_vec(), 1));
    scene.prepare().unwrap();
}

/// Who only tries whether there could be a commit has the lock for a moment.
#[test]
fn a_lock_that_somebody_lets_go_of_is_waited_for() {
    let scene = Scene::new();
    let open = || File::open(&scene.base).unwrap();
    let tried = open();
    flock(&tried, FlockOperation::NonBlockingLockExclusive).unwrap();
    assert_eq!(lock(&open(), Instant::now()), Err(Errno::WOULDBLOCK));

    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| lock(&open(), Instant::now() + Duration::from_secs(3600)));
        // Without this, the lock might be free before it is asked for, and nothing would be shown.
        std::thread::sleep(Duration::from_millis(20));
        drop(tried);
        assert_eq!(waiting.join().unwrap(), Ok(()));
    });
}

#[test]
fn who_only_tries_leaves_what_a_killed_commit_left() {
    let scene = Scene::new();
    let left = scene.dir.path().join(".base.raw.mayfly-new");
    std::fs::write(&left, b"left").unwrap();

    Commit::rehearse(&scene.base, &scene.served()).unwrap();
    assert_eq!(std::fs::read(&left).unwrap(), b"left");
    std::fs::remove_file(&left).unwrap();
    std::fs::create_dir(&left).unwrap();
    let refused = Commit::rehearse(&scene.base, &scene.served());
    assert!(
        matches!(refused, Err(CommitError::File(FreshError::InTheWay(_)))),
        "{refused:?}"
    );
    std::fs::remove_dir(&left).unwrap();
    std::fs::write(&left, b"left").unwrap();

    drop(scene.prepare().unwrap());

    assert!(!left.exists(), "a commit needs the space");
}

#[test]
fn a_base_that_is_replaced_meanwhile_stays() {
    let scene = Scene::new();
    let commit = scene.prepare().unwrap();
    std::fs::rename(&scene.base, scene.dir.path().join("away")).unwrap();
    std::fs::write(&scene.base, b"other").unwrap();

    assert!(matches!(commit.finish(), Err(CommitError::Replaced(_))));

    assert_eq!((scene.content(), scene.files()), (b"other".to_vec(), 2));
}

#[test]
fn links_are_followed_and_stay() {
    let scene = Scene::new();
    let link = scene.dir.path().join("link");
    std::os::unix::fs::symlink("base.raw", &link).unwrap();

    let commit = Commit::prepare(&link, &scene.served(), false).unwrap();
    commit.output().write_all(b"new").unwrap();
    assert_eq!(commit.finish().unwrap().path, scene.base);

    assert!(link.symlink_metadata().unwrap().is_symlink());
    assert_eq!(std::fs::read(&link).unwrap(), b"new");
}

#[test]
fn what_no_file_can_replace_is_refused_with_the_reason() {
    let scene = Scene::new();
    let other = scene.dir.path().join("other");
    std::fs::hard_link(&scene.base, &other).unwrap();
    let error = scene.prepare().unwrap_err().to_string();
    assert!(error.contains("hard links") && error.contains("save"), "{error}");
    std::fs::remove_file(other).unwrap();

    for (path, why) in [("/dev/null", "no regular file"), ("/", "no name")] {
        let error = Commit::prepare(Path::new(path), &scene.served(), false).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    }
    let error = Commit::prepare(Path::new("/nowhere/x"), &scene.served(), false).unwrap_err();
    assert!(matches!(error, CommitError::Find { .. }), "{error}");
    let deleted = File::open(&scene.base).unwrap();
    let served = scene.served();
    std::fs::remove_file(&scene.base).unwrap();
    let path = format!("/proc/self/fd/{}", deleted.as_raw_fd());
    let error = Commit::prepare(Path::new(&path), &served, false).unwrap_err();
    assert!(matches!(error, CommitError::Find { .. }), "{error}");
}

#[test]
fn what_cannot_keep_its_owner_is_refused_before_anything_is_written_unless_that_is_wanted() {
    let scene = Scene::new();
    let mut refused = scene.prepare().unwrap();
    refused.base.attributes.add_impossible();
    assert!(matches!(refused.finish(), Err(CommitError::Attributes { .. })));
    assert_eq!((scene.content(), scene.files()), (b"old".to_vec(), 1));

    let mut taken = scene.prepare().unwrap();
    taken.base.attributes.add_impossible();
    taken.new_owner = true;
    taken.finish().unwrap();
    assert_eq!(scene.content(), b"");
}

#[test]
fn a_disk_that_looks_like_an_image_is_told() {
    let scene = Scene::new();
    let commit = scene.prepare().unwrap();
    let mut head = [0; 512];
    head[..4].copy_from_slice(b"QFI\xfb");
    commit.output().write_all(&head).unwrap();

    assert_eq!(commit.finish().unwrap().looks_like, Some("a qcow2 image"));
}

#[test]
fn that_the_base_stays_as_it_is_is_said_only_where_it_does() {
    let path = || PathBuf::from("base.raw");
    let source = || io::Error::from(Errno::IO);
    let after = CommitError::File(FreshError::Unsynced {
        path: path(),
        source: source(),
    });
    let before = CommitError::File(FreshError::System {
        doing: "lock",
        path: path(),
        source: source(),
    });

    assert_eq!(after.effect(), "the base is the new one");
    assert_eq!(before.effect(), "the base stays as it is");
}
