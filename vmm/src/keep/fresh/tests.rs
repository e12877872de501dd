//! Names that come late, and what the killed leave.

use super::*;
use std::io::Write;
use std::os::unix::fs::MetadataExt;

fn place(path: &Path) -> Place {
    Place::open(path).unwrap()
}

/// Files for `path` as they are here, and as they are where files cannot be without a name.
const KINDS: [fn(Place) -> Result<Fresh, FreshError>; 2] = [
    |place| Fresh::create_nameless(place, PRIVATE),
    |place| Fresh::create_named(place, PRIVATE),
];

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_file_has_its_name_when_it_is_whole() {
    for (create, before) in KINDS.into_iter().zip([&[][..], &[".x.raw.mayfly-new"]]) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.raw");
        let fresh = create(place(&path)).unwrap();
        assert_eq!(names(dir.path()), before);
        assert_eq!(fresh.file().metadata().unwrap().mode() & 0o7777, 0o600);
        fresh.file().write_all(b"whole").unwrap();

        assert_eq!(fresh.publish_new().unwrap().len(), 5);

        assert_eq!(names(dir.path()), ["x.raw"]);
        assert_eq!(std::fs::read(path).unwrap(), b"whole");
    }
}

#[test]
fn what_is_given_up_is_gone() {
    for create in KINDS {
        let dir = tempfile::tempdir().unwrap();

        drop(create(place(&dir.path().join("x.raw"))).unwrap());

        assert!(names(dir.path()).is_empty());
    }
}

#[test]
fn nothing_is_overwritten_unless_that_is_wanted() {
    for create in KINDS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.raw");
        let fresh = create(place(&path)).unwrap();
        std::fs::write(&path, b"somebody's").unwrap();

        assert!(matches!(fresh.publish_new(), Err(FreshError::Exists(_))));
        let refused = Fresh::create_new(place(&path), PRIVATE);
        assert!(matches!(refused, Err(FreshError::Exists(_))));
        assert_eq!(std::fs::read(&path).unwrap(), b"somebody's");

        let fresh = create(place(&path)).unwrap();
        fresh.file().write_all(b"new").unwrap();
        fresh.publish_over().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(names(dir.path()), ["x.raw"]);
    }
}

#[test]
fn leftovers_are_removed_and_what_somebody_writes_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.raw");
    let left = File::create(dir.path().join(".x.raw.mayfly-new")).unwrap();
    (&left).write_all(b"left").unwrap();
    // As after the death of who made it, while the helper still writes it.
    flock(&left, FlockOperation::NonBlockingLockExclusive).unwrap();
    let in_use = |place| Fresh::create_named(place, PRIVATE).is_err_and(|why| matches!(why, FreshError::InUse(_)));
    assert!(in_use(place(&path)));
    drop(left);

    let fresh = Fresh::create_named(place(&path), PRIVATE).unwrap();

    assert_eq!(fresh.file().metadata().unwrap().len(), 0);
    assert!(in_use(place(&path)));
}

/// A file that replaces another one needs that name for a moment.
#[test]
fn a_leftover_is_not_in_the_way_of_a_file_that_had_no_name_and_what_somebody_writes_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.raw");
    std::fs::write(&path, b"old").unwrap();
    let leave = || File::create(dir.path().join(".x.raw.mayfly-new")).unwrap();
    let late = Fresh::create_over(place(&path), PRIVATE).unwrap();
    let left = leave();
    flock(&left, FlockOperation::NonBlockingLockExclusive).unwrap();

    assert!(matches!(late.publish_over(), Err(FreshError::InUse(_))));
    let refused = Fresh::create_over(place(&path), PRIVATE);
    assert!(matches!(refused, Err(FreshError::InUse(_))));
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    drop(left);
    let fresh = Fresh::create_over(place(&path), PRIVATE).unwrap();
    assert_eq!(
        names(dir.path()),
        ["x.raw"],
        "it takes no space while the new one is written"
    );
    drop(leave());
    fresh.publish_over().unwrap();

    assert_eq!(std::fs::read(&path).unwrap(), b"");
    assert_eq!(names(dir.path()), ["x.raw"]);
}

#[test]
fn what_is_no_leftover_stays() {
    let dir = tempfile::tempdir().unwrap();
    let temporary = dir.path().join(".x.raw.mayfly-new");
    let path = dir.path().join("x.raw");

    std::fs::create_dir(&temporary).unwrap();
    let refused = Fresh::create_named(place(&path), PRIVATE);
    assert!(matches!(refused, Err(FreshError::InTheWay(_))));
    std::fs::remove_dir(&temporary).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &temporary).unwrap();
    let refused = Fresh::create_named(place(&path), PRIVATE);
    assert!(matches!(refused, Err(FreshError::InTheWay(_))));

    assert_eq!(names(dir.path()), [".x.raw.mayfly-new"]);
}

#[test]
fn what_is_no_name_is_refused() {
    assert!(matches!(Place::open(Path::new("/")), Err(FreshError::NoName(_))));
    assert!(matches!(Place::open(Path::new("a/..")), Err(FreshError::NoName(_))));
    let error = Place::open(Path::new("/nowhere/x")).unwrap_err();
    assert_eq!(error.to_string(), "cannot open the directory /nowhere");
}
