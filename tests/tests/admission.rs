//! Who is let in and through which door, and what a helper that ended for a reason leaves behind: the reason.

use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use protocol::launch::ExitCode;
use tests::client::{Client, Setup};
use tests::helper::{END, beside_this_test, program};
use tests::place::Place;
use tests::process::copy_program;
use tests::raw::{RawDisk, patient};
use tests::require;
use tests::wire::{Wire, code};

/// An ordinary user.
const SOMEBODY: u32 = 65_533;
/// Another one.
const NEIGHBOUR: u32 = 4711;
/// The user that root's helpers become, and by which name a user namespace calls everybody it does not know.
const NOBODY: u32 = 65_534;

const SHORT: Duration = Duration::from_millis(300);

/// Ends with the test, whatever happens.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A directory in the place that everybody may write.
fn open_dir(dir: &Path) {
    let _ = fs::create_dir(dir);
    fs::set_permissions(dir, Permissions::from_mode(0o777)).expect("a directory of ours");
}

/// A copy of a program, since the tree may lie where an ordinary user cannot go.
fn copied(place: &Place, program: &Path) -> PathBuf {
    let copy = place.dir().join(program.file_name().expect("programs have names"));
    copy_program(program, &copy);
    copy
}

/// A helper that [`SOMEBODY`] started, ready, on a socket that everybody may connect to.
fn somebodys_helper(place: &Place) -> (Killed, PathBuf) {
    let dir = place.dir().join("run");
    let socket = dir.join("socket");
    open_dir(&dir);
    open_dir(&place.overlay_dir());
    let mut child = Command::new(copied(place, &program()))
        .args(["--report", "json", "--blk-file"])
        .arg(place.base())
        .arg("--overlay-dir")
        .arg(place.overlay_dir())
        .arg("--socket-path")
        .arg(&socket)
        .current_dir("/")
        .uid(SOMEBODY)
        .gid(SOMEBODY)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("blk-helper is built (cargo build -p blk-helper)");
    let mut line = String::new();
    let stdout = child.stdout.take().expect("standard output was piped");
    BufReader::new(stdout).read_line(&mut line).expect("a pipe can be read");
    let helper = Killed(child);
    assert!(!line.is_empty(), "the helper did not become ready");
    fs::set_permissions(&socket, Permissions::from_mode(0o666)).expect("root may");
    (helper, socket)
}

/// A frontend of user `uid` that asks one question.
fn ask(place: &Place, uid: u32, socket: &Path) -> Output {
    Command::new(copied(place, &beside_this_test("stranger")))
        .arg("ask")
        .arg(socket)
        .current_dir("/")
        .uid(uid)
        .gid(uid)
        .output()
        .expect("a program of this crate runs")
}

/// In the helper's user namespace everybody unknown is called 65534, and 65534 was admitted: it is whom root's helpers
/// become.
#[test]
fn an_ordinary_users_helper_turns_everybody_else_away() {
    require!(root);
    let place = Place::with_noise(1 << 20, 1);
    let (_helper, socket) = somebodys_helper(&place);

    for uid in [NEIGHBOUR, NOBODY, 0] {
        let output = ask(&place, uid, &socket);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(complaint.contains("no answer"), "user {uid}: {complaint}");
    }
}

/// Whoever turns 65534 away, as everybody unknown is called there, must still know this one.
#[test]
fn an_ordinary_users_helper_serves_its_user() {
    require!(root);
    let place = Place::with_noise(1 << 20, 1);
    let (_helper, socket) = somebodys_helper(&place);
    ask(&place, NEIGHBOUR, &socket);

    let output = ask(&place, SOMEBODY, &socket);

    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Whoever looked whether anybody was there ended the helper before its frontend came.
#[test]
fn a_connection_that_says_nothing_is_no_frontend_to_wait_for() {
    let place = Place::with_noise(1 << 20, 1);
    let mut helper = place.helper().option("--exit-on-disconnect").start();

    for _ in 0..3 {
        drop(UnixStream::connect(helper.socket()).expect("the helper listens"));
        std::thread::sleep(SHORT);
    }

    helper.assert_alive();
    RawDisk::start(helper.socket(), 1, 64).assert_serves();
    helper.wait_within(END).assert_code(ExitCode::Burnt);
}

/// So did a second helper, which looks whether the socket at its path is alive.
#[test]
fn a_second_helper_at_its_path_does_not_end_the_first() {
    let place = Place::with_noise(1 << 20, 1);
    let mut helper = place.helper().option("--exit-on-disconnect").start();

    place.helper().start_refused().assert_code(ExitCode::CannotStart);
    std::thread::sleep(SHORT);

    helper.assert_alive();
    RawDisk::start(helper.socket(), 1, 64).assert_serves();
    helper.wait_within(END).assert_code(ExitCode::Burnt);
}

/// One message makes a frontend; to wait for more would keep a disk whose frontend failed early.
#[test]
fn a_frontend_that_said_one_thing_and_left_ends_its_helper() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().option("--exit-on-disconnect").start();

    let wire = Wire::connect(helper.socket());
    wire.ask(code::GET_FEATURES, &[])
        .expect("the first question is answered");
    drop(wire);

    helper.wait_within(END).assert_code(ExitCode::Burnt);
}

/// The lines about frontends used up the second's budget, and the line with the reason was among the lost.
#[test]
fn the_reason_of_the_end_is_told_after_any_number_of_other_lines() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();
    for _ in 0..60 {
        drop(patient(helper.socket()));
    }
    let disk = RawDisk::prepare(helper.socket(), 1, 64);
    disk.memory.store_index(disk.rings[0].used_ring() + 2, 5);

    let refused = disk.try_start_ring(0, 5);

    assert!(refused.is_some());
    let ended = helper.wait_within(END);
    ended.assert_code(ExitCode::HistoryRefused);
    assert!(ended.stderr.contains("roll back"), "{}", ended.stderr);
}

/// Two owners of one descriptor closed it twice, and the standard library aborted the process.
#[test]
fn one_descriptor_cannot_be_both_base_and_socket() {
    let place = Place::with_noise(1 << 20, 1);
    let (_ours, theirs) = UnixStream::pair().unwrap();
    let base = format!("fd:{}", theirs.as_raw_fd());

    let ended = place.helper().base(&base).connected(theirs).start_refused();

    assert_eq!(ended.signal, None, "{}", ended.stderr);
    ended.assert_code(ExitCode::CannotStart);
    assert!(ended.stderr.contains("both"), "{}", ended.stderr);
}

/// The socket that nobody wanted stayed open, so that the helper found itself not confined and did not start.
#[test]
fn a_path_on_the_command_line_counts_more_than_a_passed_socket() {
    let place = Place::with_noise(1 << 20, 1);
    let passed = UnixListener::bind(place.socket()).unwrap();
    let named = place.dir().join("named");

    let helper = place.helper().activated(passed).value("--socket-path", &named).start();

    let content = Client::connect(&named, Setup::default()).read(0, 512);
    assert_eq!(content, place.content()[..512]);
    helper.terminate();
}

/// They counted as none, and the advice was to pass a listening socket.
#[test]
fn two_passed_sockets_are_refused_with_their_number() {
    let place = Place::with_noise(1 << 20, 1);
    let bind = |name| OwnedFd::from(UnixListener::bind(place.dir().join(name)).expect("a fresh path"));
    let script = r#"export LISTEN_PID=$$ LISTEN_FDS=2; exec "$@" 3<&0 4<&1 0</dev/null 1>/dev/null"#;

    let output = Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(program())
        .arg("--blk-file")
        .arg(place.base())
        .arg("--overlay-dir")
        .arg(place.overlay_dir())
        .stdin(bind("one"))
        .stdout(bind("other"))
        .stderr(File::create(place.dir().join("stderr")).unwrap())
        .spawn()
        .expect("every system has a shell")
        .wait()
        .unwrap();

    let complaint = fs::read_to_string(place.dir().join("stderr")).unwrap();
    assert_eq!(
        output.code(),
        Some(i32::from(ExitCode::CannotStart.number())),
        "{complaint}"
    );
    assert!(complaint.contains("2 descriptors"), "{complaint}");
}
