//! An operator's program that is wrong in every way there is: each packet gets an error or is dropped, and the guest that is
//! being served does not notice.

use std::fs;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket, socketpair};
use protocol::control::{Command, MAX_BYTES, Outcome, Request};
use protocol::launch::ExitCode;
use tests::abuse::lingering;
use tests::place::Place;
use tests::wire::Wire;

use crate::{assert_refused, attach, attached, guest, operated, threads, while_serving};

/// Every kind of thing that is not a frontend's connection.
fn strange_descriptors(place: &Place) -> io::Result<Vec<(&'static str, OwnedFd)>> {
    let (reader, _) = io::pipe()?;
    let (datagram, _) = UnixDatagram::pair()?;
    let (packets, _) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let remote = TcpStream::connect(listener.local_addr()?)?;
    Ok(vec![
        ("a pipe", reader.into()),
        ("a file", fs::File::open("/etc/passwd")?.into()),
        ("a socket of datagrams", datagram.into()),
        ("a socket of packets", packets),
        ("a network connection", remote.into()),
        ("a listening socket", UnixListener::bind(place.socket())?.into()),
    ])
}

/// Packets that are no requests, or not with these descriptors.
fn malformed<'fd>(stream: BorrowedFd<'fd>) -> Vec<(&'static str, Vec<u8>, Vec<BorrowedFd<'fd>>)> {
    let text = |text: &str| text.as_bytes().to_vec();
    let mut long = attach();
    long.resize(MAX_BYTES + 1, b' ');
    vec![
        ("nothing", Vec::new(), vec![]),
        ("nothing, with a descriptor", Vec::new(), vec![stream]),
        ("no JSON", text("{\"version\":1,"), vec![stream]),
        ("no text", vec![0xff; 64], vec![]),
        ("depth", text(&"[".repeat(MAX_BYTES)), vec![]),
        (
            "no such command",
            text(r#"{"version":1,"id":1,"command":"dance"}"#),
            vec![],
        ),
        (
            "another version",
            text(r#"{"version":2,"id":1,"command":"attach"}"#),
            vec![stream],
        ),
        ("no version", text(r#"{"id":1,"command":"attach"}"#), vec![stream]),
        (
            "a field too many",
            text(r#"{"version":1,"id":1,"command":"attach","x":1}"#),
            vec![stream],
        ),
        ("no descriptor", attach(), vec![]),
        ("two descriptors", attach(), vec![stream; 2]),
        ("all descriptors that a packet can have", attach(), vec![stream; 253]),
        (
            "a status with a descriptor",
            Request::new(1, Command::Status).encode(),
            vec![stream],
        ),
        ("too long", long, vec![stream]),
        ("far too long", vec![b'{'; 100_000], vec![stream; 2]),
    ]
}

#[test]
fn what_makes_no_sense_is_answered_with_an_error_and_disturbs_nobody() {
    let place = Place::with_noise(1 << 20, 1);
    let (helper, operator) = operated(&place);
    let mut disk = attached(&operator);
    let (stream, _peer) = UnixStream::pair().unwrap();

    while_serving(&mut disk, || {
        for (what, packet, descriptors) in malformed(stream.as_fd()) {
            let reply = operator.say(&packet, &descriptors);
            assert!(matches!(reply.outcome, Outcome::Error(_)), "{what}: {reply:?}");
            assert!(operator.status().connected, "{what}");
        }
    });

    assert!(threads(&helper, "Seccomp").iter().all(|mode| mode == "2"));
    helper.terminate();
}

#[test]
fn what_is_no_frontends_connection_is_refused_even_where_nobody_is_served() {
    let place = Place::with_noise(1 << 20, 1);
    let (helper, operator) = operated(&place);

    for (what, descriptor) in strange_descriptors(&place).unwrap() {
        let reply = operator.say(&attach(), &[descriptor.as_fd()]);
        assert!(matches!(reply.outcome, Outcome::Error(_)), "{what}: {reply:?}");
    }
    let unconnected = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    assert_refused(&operator.say(&attach(), &[unconnected.as_fd()]), "not connected");
    let (closed, peer) = UnixStream::pair().unwrap();
    peer.shutdown(std::net::Shutdown::Both).unwrap();
    assert_refused(&operator.say(&attach(), &[closed.as_fd()]), "not connected");

    attached(&operator).assert_serves();
    helper.terminate();
}

#[test]
fn a_connection_that_does_not_block_serves_too() {
    let place = Place::with_noise(1 << 20, 1);
    let (helper, operator) = operated(&place);
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();

    let reply = operator.say(&attach(), &[theirs.as_fd()]);

    assert!(matches!(reply.outcome, Outcome::Ok(_)), "{reply:?}");
    drop(theirs);
    guest(Wire::over(ours)).assert_serves();
    helper.terminate();
}

#[test]
fn ten_thousand_packets_without_reading_a_reply_disturb_nobody() {
    let place = Place::with_noise(1 << 20, 1);
    let (helper, operator) = operated(&place);
    let mut disk = attached(&operator);
    let (stream, _peer) = UnixStream::pair().unwrap();

    while_serving(&mut disk, || {
        for round in 0..2_500 {
            operator.send(&Request::new(round, Command::Status).encode(), &[]);
            operator.send(b"{", &[]);
            operator.send(&attach(), &[stream.as_fd()]);
            operator.send(&attach(), &[stream.as_fd(); 3]);
        }
    });

    let replies = operator.catch_up();
    assert!((16..10_000).contains(&replies.len()), "{} replies", replies.len());
    assert!(operator.status().connected);
    assert!(threads(&helper, "Seccomp").iter().all(|mode| mode == "2"));
    helper.terminate();
}

/// A spin would show: packets and hang-ups wake the control thread, and it must go to sleep again.
#[test]
fn an_operator_that_says_nothing_costs_nothing() {
    let place = Place::with_noise(1 << 20, 1);
    let (helper, operator) = operated(&place);
    operator.send(b"{", &[]);
    std::thread::sleep(Duration::from_millis(50));
    let switches = || -> u64 {
        let each = threads(&helper, "voluntary_ctxt_switches");
        each.iter().map(|count| count.parse::<u64>().expect("a number")).sum()
    };

    let before = switches();
    std::thread::sleep(Duration::from_millis(500));

    assert!(switches() <= before + 5, "somebody was awake");
    helper.terminate();
}

/// As with a frontend's, the workers see to the end when closing a descriptor holds the control thread.
#[test]
fn sigterm_is_obeyed_while_a_refused_descriptor_holds_the_control_thread() {
    let place = Place::with_noise(1 << 20, 1);
    let (helper, operator) = operated(&place);
    let (lingering, listener) = lingering().unwrap();
    // Stopped, so that it is certain to hold the last descriptor when it looks.
    helper.signal(Signal::SIGSTOP);
    operator.send(b"{", &[lingering.as_fd()]);
    drop(lingering);
    helper.signal(Signal::SIGCONT);
    std::thread::sleep(Duration::from_millis(100));
    operator.send(b"{", &[]);
    let held = operator.catch_up();
    assert!(held.is_empty(), "nothing held the helper: {held:?}");

    helper.signal(Signal::SIGTERM);

    helper.wait_within(Duration::from_secs(5)).assert_code(ExitCode::Burnt);
    drop(listener);
}
