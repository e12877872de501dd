//! What a helper writes reaches whoever reads it, and waits for nobody.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tests::client::{Client, Setup};
use tests::helper::{END, program};
use tests::place::Place;
use tests::raw::{Desc, RawDisk, SMALL, patient};

/// Ends with the test, whatever happens.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a helper by a shell line in which `"$@"` is the helper, and waits for its socket.
fn start(place: &Place, line: &str, stderr: Stdio) -> Killed {
    let child = Command::new("sh")
        .args(["-c", line, "sh"])
        .arg(program())
        .arg("--verbose")
        .arg("--blk-file")
        .arg(place.base())
        .arg("--overlay-dir")
        .arg(place.overlay_dir())
        .arg("--socket-path")
        .arg(place.socket())
        .stdin(Stdio::null())
        .stderr(stderr)
        .spawn()
        .expect("every system has a shell");
    let begun = Instant::now();
    while UnixStream::connect(place.socket()).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(20), "the helper does not listen");
        std::thread::sleep(Duration::from_millis(5));
    }
    Killed(child)
}

fn flood(place: &Place) {
    let mut disk = RawDisk::start(&place.socket(), 1, 64);
    let RawDisk { memory, rings, .. } = &mut disk;
    rings[0].put(memory, 0, &[Desc::readable(SMALL, 3)]);
    for _ in 0..500 {
        rings[0].publish(memory, &[0; 64]);
        rings[0].kick();
        rings[0].wait_used(memory, 64);
    }
    disk.assert_serves();
}

#[test]
fn a_full_standard_error_stops_nobody() {
    let place = Place::with_noise(1 << 20, 1);
    // Nobody ever reads this pipe, and it takes 64 KiB.
    let helper = start(&place, r#"exec "$@""#, Stdio::piped());

    flood(&place);

    drop(helper);
}

#[test]
fn a_closed_output_stops_nobody() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = start(&place, r#"exec "$@" >&- 2>&-"#, Stdio::null());

    flood(&place);
    let content = Client::connect(&place.socket(), Setup::default()).read(0, 512);

    assert_eq!(content, place.content()[..512]);
    drop(helper);
}

#[test]
fn a_reader_that_left_stops_nobody() {
    let place = Place::with_noise(1 << 20, 1);
    let mut helper = start(&place, r#"exec "$@""#, Stdio::piped());
    drop(helper.0.stderr.take());

    flood(&place);

    drop(helper);
}

#[test]
fn a_log_file_longer_than_the_overlay_limit_still_gets_lines() {
    let place = Place::with_noise(1 << 20, 1);
    let log = place.dir().join("log");
    File::create(&log).unwrap().set_len(4 << 20).unwrap();
    let before = fs::metadata(&log).unwrap().len();

    let helper = start(
        &place,
        r#"exec "$@""#,
        File::options().append(true).open(&log).unwrap().into(),
    );
    flood(&place);
    drop(helper);

    assert!(fs::metadata(&log).unwrap().len() > before, "not one line");
}

#[test]
fn three_thousand_connections_are_not_worth_a_hundred_lines() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();

    for _ in 0..3000 {
        let _ = UnixStream::connect(helper.socket());
    }
    drop(patient(helper.socket()));
    helper.signal(Signal::SIGTERM);
    let ended = helper.wait_within(END);

    assert!(ended.stderr.lines().count() < 100, "{}", ended.stderr);
}
