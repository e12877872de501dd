//! Commits that do not come to their end: killed, out of space, out of order.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tests::client::{Client, Setup};
use tests::ctl::Ctl;
use tests::helper::{END, beside_this_test, program};
use tests::place::Place;
use tests::pretender::{Manner, Pretender};
use tests::require;
use tests::require::private_mount_command;
use tests::rng::Rng;

use super::{DISK, Scene};

/// How often a commit is killed.
const KILLS: u32 = 100;

/// A killed commit's helper needs a moment to notice; until then the next one is refused.
fn committed_in_the_end(scene: &Scene<'_>) {
    let begun = Instant::now();
    loop {
        let ended = scene.ctl.run(scene.words());
        if ended.code == Some(0) {
            return;
        }
        assert!(begun.elapsed() < END, "{ended:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn killed_at_any_moment_the_base_is_old_or_new() {
    require!(first_time);
    let (place, elsewhere) = (Place::with_noise(DISK, 1), Place::with_noise(512, 1));
    let mut scene = Scene::new(&place);
    let other = elsewhere.helper().base(&scene.base).start();
    let mut neighbour = Client::connect(other.socket(), Setup::default());
    let mut rng = Rng::new(7);
    let mut old = place.content().to_vec();
    scene.guest().write(0, &[0xff; DISK / 2]);
    let mut new = scene.guest().read_all();
    let begun = Instant::now();
    committed_in_the_end(&scene);
    let whole = begun.elapsed();
    let mut replaced = 1;
    for round in 0..KILLS {
        if scene.content() != old {
            assert!(scene.content() == new, "round {round}: neither old nor new");
            replaced += 1;
            scene = scene.restarted();
            old = new;
            scene.guest().write(0, &vec![round.to_le_bytes()[0]; DISK / 2]);
            new = scene.guest().read_all();
        }
        let order = scene.ctl.start(scene.words());
        let most = usize::try_from(whole.as_micros()).unwrap() * 5 / 4;
        let moment = u64::try_from(rng.index(most)).unwrap();
        std::thread::sleep(Duration::from_micros(moment));
        order.signal(Signal::SIGKILL);
        let _ = order.end();
    }
    assert!(scene.content() == old || scene.content() == new, "neither old nor new");

    if scene.content() == old {
        committed_in_the_end(&scene);
    }

    assert!(scene.content() == new, "the last commit is another disk");
    assert_eq!(scene.leftovers(), 0);
    assert!(neighbour.read_all() == place.content(), "the neighbour sees a change");
    assert!(replaced > 1, "no commit that was to be killed came to its end");
}

#[test]
fn a_full_file_system_leaves_the_old_base() {
    require!(private_mounts);
    let place = Place::with_noise(DISK, 2);
    let dir = place.dir().join("small");
    fs::create_dir(&dir).unwrap();
    // The helper's base and the file for the new one are on the same tmpfs, where only one of them has room.
    let script = r#"
        set -e
        mount -t tmpfs -o size=3m,mode=777 none "$1"
        cp "$2" "$1/golden.raw"
        "$3" --blk-file "$1/golden.raw" --control-path "$4" --socket-path "$5" --overlay-dir "$6" &
        helper=$!
        for _ in $(seq 500); do "$7" ctl "$4" status >/dev/null 2>&1 && break; sleep 0.01; done
        "$7" ctl "$4" commit --base "$1/golden.raw" && code=0 || code=$?
        cmp "$2" "$1/golden.raw"
        ls -A "$1"
        kill "$helper"
        wait "$helper" || true
        exit "$code"
    "#;
    let output = private_mount_command()
        .args(["sh", "-c", script, "sh"])
        .args([&dir, &place.base()])
        .arg(program())
        .args([&place.dir().join("ctl"), &place.socket(), &place.overlay_dir()])
        .arg(beside_this_test("mayfly"))
        .output()
        .unwrap();

    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(said.contains("No space left on device"), "{said}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "golden.raw\n");
}

#[test]
fn an_error_of_the_medium_leaves_the_old_base() {
    let place = Place::with_noise(DISK, 3);
    let base = place.dir().join("golden.raw");
    fs::copy(place.base(), &base).unwrap();
    let socket = place.dir().join("ctl");
    let _helper = Pretender::at(
        &socket,
        &base,
        Manner::Fails(vec![1; 4096], "Input/output error (os error 5)"),
    );

    let ended = Ctl::at(&socket).run(["commit", "--base", base.to_str().unwrap()]);

    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("os error 5"), "{ended:?}");
    assert!(fs::read(&base).unwrap() == place.content(), "the base changed");
    assert!(!place.dir().join(".golden.raw.mayfly-new").exists());
}
