//! Frontends that make the kernel hold the helper's control thread: the helper ends rather than take no more messages.
//! Slow, because its patience is forty seconds.

use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::socket::{MsgFlags, send};
use protocol::launch::ExitCode;
use tests::abuse::lingering;
use tests::place::Place;
use tests::raw::{DATA, Desc, OK, OUT, RawDisk, SMALL, linked, request_header};
use tests::require;
use tests::wire::{VERSION, Wire, code, header};

/// Longer than the helper's patience, on a loaded machine too.
const LIMIT: Duration = Duration::from_secs(80);

/// The control thread could be held for ever by a message that was shorter than it seemed.
#[test]
fn a_message_that_only_seems_whole_ends_the_helper_with_its_own_code() {
    require!(first_time);
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();
    let stream = UnixStream::connect(helper.socket()).unwrap();
    let number = stream.as_raw_fd();
    let wire = Wire::over(stream);

    wire.send_bytes(&header(code::GET_FEATURES, VERSION, 1), &[]).unwrap();
    // A byte out of band counts as waiting, and no ordinary read ever gets it.
    send(number, b"x", MsgFlags::MSG_OOB).unwrap();

    helper.wait_within(LIMIT).assert_code(ExitCode::Stalled);
}

/// The worker that should notice is woken ten times a second to try a held write again.
#[test]
fn a_guest_with_a_held_queue_does_not_keep_that_from_being_noticed() {
    require!(first_time);
    let place = Place::with_noise(1 << 20, 1);
    let helper = place
        .helper()
        .value("--overlay-limit", "4K")
        .value("--at-limit", "hold")
        .value("--threads", "1")
        .start();
    let mut disk = RawDisk::start(helper.socket(), 1, 64);
    assert_eq!(disk.request(OUT, 0, &[1; 512], 0).0, OK);
    let RawDisk { wire, memory, rings } = &mut disk;
    memory.write(SMALL, &request_header(OUT, 64));
    let table = linked(&[
        Desc::readable(SMALL, 16),
        Desc::readable(DATA, 512),
        Desc::writable(SMALL + 0x100, 1),
    ]);
    rings[0].put(memory, 0, &table);
    rings[0].publish(memory, &[0]);
    rings[0].kick();
    let (lingering, listener) = lingering().unwrap();

    hold(wire, lingering);

    helper.wait_within(LIMIT).assert_code(ExitCode::Stalled);
    drop(listener);
}

/// Has the helper close the last descriptor of something whose closing takes an hour.
fn hold(wire: &Wire, lingering: TcpStream) {
    // The helper looks at no message before it is whole: by then it has the last descriptor, and closing it is its affair.
    let beginning = header(code::SET_VRING_CALL, VERSION, 8);
    wire.send_bytes(&beginning, &[lingering.as_fd()])
        .expect("the helper reads");
    drop(lingering);
    wire.send_bytes(&0u64.to_ne_bytes(), &[]).expect("the helper reads");
    assert!(!wire.closes_within(Duration::from_secs(1)), "nothing held the helper");
}

/// SIGTERM was left pending on the very thread that a frontend held.
#[test]
fn sigterm_is_obeyed_while_a_descriptor_holds_the_control_thread() {
    require!(first_time);
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();
    let wire = Wire::connect(helper.socket());
    let (lingering, listener) = lingering().unwrap();

    hold(&wire, lingering);
    helper.signal(nix::sys::signal::Signal::SIGTERM);

    helper.wait_within(Duration::from_secs(5)).assert_code(ExitCode::Burnt);
    drop(listener);
}
