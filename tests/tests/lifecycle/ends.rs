//! How a helper ends: asked, left alone, or orphaned.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use protocol::launch::ExitCode;
use tests::abuse::assert_serves;
use tests::client::{Client, Setup};
use tests::helper::{END, program};
use tests::memory::GuestMemory;
use tests::model::SECTOR;
use tests::place::Place;
use tests::raw::{MEMORY, OUT, RawDisk};
use tests::wire::Wire;

#[test]
fn every_asking_signal_burns_at_once() {
    let place = Place::with_noise(1 << 20, 1);
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let idle = place.helper().start();
        idle.signal(signal);
        idle.wait_within(END).assert_code(ExitCode::Burnt);

        let busy = place.helper().start();
        let mut disk = RawDisk::start(busy.socket(), 1, 64);
        disk.assert_serves();
        busy.signal(signal);
        busy.wait_within(END).assert_code(ExitCode::Burnt);
    }
}

#[test]
fn what_was_written_is_gone_with_the_process() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();
    Client::connect(helper.socket(), Setup::default()).write(0, &[7; SECTOR]);
    helper.terminate();

    let helper = place.helper().start();

    assert_serves(helper, &place);
}

#[test]
fn a_connected_socket_is_served_until_its_end() {
    let place = Place::with_noise(1 << 20, 1);
    let (ours, theirs) = UnixStream::pair().unwrap();
    let helper = place.helper().connected(theirs).start();
    let mut disk = RawDisk::start_with(Wire::over(ours), GuestMemory::sealed(MEMORY), 1, 64);
    disk.assert_serves();

    drop(disk);

    helper.wait_within(END).assert_code(ExitCode::Burnt);
}

#[test]
fn exit_on_disconnect_ends_with_the_first_frontend() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().option("--exit-on-disconnect").start();
    std::thread::sleep(Duration::from_millis(300));
    let mut disk = RawDisk::start(helper.socket(), 1, 64);
    disk.assert_serves();

    drop(disk);

    helper.wait_within(END).assert_code(ExitCode::Burnt);
}

#[test]
fn exit_on_disconnect_waits_as_long_as_it_was_told() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().option("--exit-on-disconnect=3").start();
    let mut disk = RawDisk::start(helper.socket(), 1, 64);
    disk.request(OUT, 0, &[7; SECTOR], 0);
    drop(disk);
    std::thread::sleep(Duration::from_secs(2));
    let mut client = Client::connect(helper.socket(), Setup::default());
    std::thread::sleep(Duration::from_secs(2));

    assert_eq!(client.read(0, SECTOR), [7; SECTOR], "a new frontend stops the clock");
    drop(client);
    let begun = Instant::now();
    helper
        .wait_within(Duration::from_secs(3) + END)
        .assert_code(ExitCode::Burnt);
    assert!(begun.elapsed() > Duration::from_secs(2), "{:?}", begun.elapsed());
}

/// A helper with `--die-with-parent` that is ready, and its parent.
fn with_a_parent(place: &Place) -> (Child, Pid) {
    let script = r#""$@" >"$0" 2>/dev/null & echo $!; wait"#;
    let ready = place.dir().join("ready");
    let mut parent = Command::new("sh")
        .args(["-c", script])
        .arg(&ready)
        .arg(program())
        .args(["--die-with-parent", "--report", "json", "--blk-file"])
        .arg(place.base())
        .arg("--overlay-dir")
        .arg(place.overlay_dir())
        .arg("--socket-path")
        .arg(place.socket())
        .stdout(Stdio::piped())
        .spawn()
        .expect("there is a shell");
    let said = BufReader::new(parent.stdout.take().expect("it was piped"));
    let line = said.lines().next().expect("it says a line").expect("it is text");
    let begun = Instant::now();
    while fs::read(&ready).unwrap_or_default().is_empty() {
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "the helper did not become ready"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    (parent, Pid::from_raw(line.parse().expect("it is a number")))
}

#[test]
fn a_dead_parent_ends_the_helper_even_one_that_is_stopped() {
    nix::sys::prctl::set_child_subreaper(true).unwrap();
    for stopped in [false, true] {
        let place = Place::with_noise(1 << 20, 1);
        let (mut parent, orphan) = with_a_parent(&place);
        if stopped {
            kill(orphan, Signal::SIGSTOP).unwrap();
        }

        parent.kill().unwrap();
        parent.wait().unwrap();

        let begun = Instant::now();
        let mut ended = WaitStatus::StillAlive;
        while ended == WaitStatus::StillAlive {
            assert!(
                begun.elapsed() < END,
                "the helper outlives its parent; stopped: {stopped}"
            );
            std::thread::sleep(Duration::from_millis(5));
            ended = waitpid(orphan, Some(WaitPidFlag::WNOHANG)).unwrap();
        }
        assert!(
            matches!(ended, WaitStatus::Signaled(_, Signal::SIGKILL, _)),
            "{ended:?}"
        );
    }
}
