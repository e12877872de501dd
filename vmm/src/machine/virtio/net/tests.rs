//! The card between a fake tap (a pair of sockets that keep frames apart) and a fake driver.

use super::super::driver::{BUFFERS, Driver, NEXT, WRITE, memory};
use super::header::BYTES;
use super::*;
use nix::sys::epoll::EpollTimeout;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use proptest::prelude::*;
use std::thread;
use std::time::{Duration, Instant};
use vm_memory::{Bytes, GuestAddress};

const ADDRESS: Mac = Mac([2, 0, 0, 0, 0, 1]);
const FEATURES: u64 = VERSION_1 | MAC | CSUM | HOST_TSO4;

/// A card, the wire it is on, and its guest.
struct Setup {
    net: Net,
    card: Card,
    wire: OwnedFd,
    receive: Driver,
    send: Driver,
    memory: GuestMemoryMmap,
}

impl Setup {
    fn new() -> Self {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let (tap, wire) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
        let (_, memory) = memory();
        let lines = Arc::new(Lines::unconnected(QUEUES).unwrap());
        let (net, card) = Net::new("net 0".to_owned(), tap, ADDRESS, memory.clone(), lines).unwrap();
        Self {
            net,
            card,
            wire,
            receive: Driver::new(&memory, 0x1_0000, 16),
            send: Driver::new(&memory, 0x2_0000, 16),
            memory,
        }
    }

    fn running() -> Self {
        let mut setup = Self::new();
        setup.activate(FEATURES);
        setup
    }

    fn activate(&mut self, acked: u64) {
        let queues = [self.receive.setup(), self.send.setup()];
        self.net.activate(acked, &queues).unwrap();
    }

    /// What the thread does, until it would wait.
    fn run(&mut self) {
        self.card.wait(EpollTimeout::ZERO).unwrap();
        for _ in 0..100 {
            if !self.card.turn() {
                return;
            }
        }
        panic!("the card never rests");
    }

    fn arrives(&self, frame: &[u8]) {
        let bytes = [&[0xee; BYTES], frame].concat();
        send(self.wire.as_raw_fd(), &bytes, MsgFlags::empty()).unwrap();
    }

    /// The next frame on the wire, with its header.
    fn departed(&self) -> Option<Vec<u8>> {
        let mut bytes = vec![0; 70_000];
        let length = recv(self.wire.as_raw_fd(), &mut bytes, MsgFlags::empty()).ok()?;
        Some(bytes[..length].to_vec())
    }

    /// The guest sends `frame` in one buffer behind `header`.
    fn sends(&mut self, header: [u8; BYTES], frame: &[u8]) {
        let bytes = [&header, frame].concat();
        self.memory.write_slice(&bytes, GuestAddress(BUFFERS)).unwrap();
        let length = u32::try_from(bytes.len()).unwrap();
        self.send.describe(0, (BUFFERS, length), 0, 0);
        self.send.offer(0);
    }

    fn memory_at(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }
}

#[test]
fn what_arrives_reaches_the_guest_with_a_header_of_ours() {
    let mut setup = Setup::running();
    setup.receive.describe(0, (BUFFERS, 20), WRITE | NEXT, 1);
    setup.receive.describe(1, (BUFFERS + 0x1000, 2000), WRITE, 0);
    setup.receive.offer(0);

    setup.arrives(b"hello, guest");
    setup.run();

    assert_eq!(setup.receive.used(), [(0, 24)]);
    assert_eq!(
        setup.memory_at(BUFFERS, 20),
        [&header::RECEIVED[..], b"hello, g"].concat()
    );
    assert_eq!(setup.memory_at(BUFFERS + 0x1000, 4), b"uest");
    assert_eq!(setup.net.shared.lines.call.read().unwrap(), 1);
}

#[test]
fn what_the_guest_sends_departs() {
    let mut setup = Setup::running();
    let header = [1, 1, 54, 0, 0xa8, 5, 34, 0, 16, 0, 0, 0];
    setup.sends(header, &[7; 4000]);
    setup.run();

    assert_eq!(setup.departed().unwrap(), [&header[..], &[7; 4000]].concat());
    assert_eq!(setup.send.used(), [(0, 0)]);
}

#[test]
fn a_large_frame_in_many_buffers_departs_whole() {
    let mut setup = Setup::running();
    for index in 0..5_u16 {
        let place = BUFFERS + u64::from(index) * 0x1_0000;
        setup.memory.write_slice(&[0; BYTES], GuestAddress(BUFFERS)).unwrap();
        setup.send.describe(index, (place, 13_000), NEXT, index + 1);
    }
    setup.send.describe(5, (BUFFERS, 1), 0, 0);
    setup.send.offer(0);
    setup.run();

    assert_eq!(setup.departed().unwrap().len(), 65_001);
}

#[test]
fn what_must_not_depart_comes_back_all_the_same() {
    let mut setup = Setup::running();
    setup.sends([1, 4, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0], &[0; 60]);
    setup.send.describe(1, (BUFFERS, 5), 0, 0);
    setup.send.offer(1);
    setup.send.describe(2, (BUFFERS, 1 << 20), 0, 0);
    setup.send.offer(2);
    setup.send.describe(3, (BUFFERS, 100), WRITE, 0);
    setup.send.offer(3);
    setup.run();

    assert_eq!(setup.send.used(), [(0, 0), (1, 0), (2, 0), (3, 0)]);
    assert_eq!(setup.departed(), None);
}

#[test]
fn a_frame_waits_for_a_buffer() {
    let mut setup = Setup::running();
    setup.arrives(b"first");
    setup.arrives(b"second");
    setup.run();
    assert!(setup.receive.used().is_empty());

    setup.receive.describe(0, (BUFFERS, 2000), WRITE, 0);
    setup.receive.offer(0);
    setup.run();
    assert_eq!(setup.receive.used(), [(0, 17)]);
    assert_eq!(setup.memory_at(BUFFERS + 12, 5), b"first");

    setup.receive.offer(0);
    setup.run();
    assert_eq!(setup.receive.used(), [(0, 18)]);
}

#[test]
fn a_frame_that_does_not_fit_is_dropped_and_the_next_is_not() {
    let mut setup = Setup::running();
    setup.receive.describe(0, (BUFFERS, 30), WRITE, 0);
    setup.receive.offer(0);
    setup.receive.offer(0);
    setup.arrives(&[1; 100]);
    setup.arrives(&[2; 18]);
    setup.run();

    assert_eq!(setup.receive.used(), [(0, 0), (0, 30)]);
}

#[test]
fn a_tap_that_vanishes_leaves_the_guest_a_card_that_swallows() {
    let mut setup = Setup::running();
    let (_, other) = nix::unistd::pipe().unwrap();
    drop(std::mem::replace(&mut setup.wire, other));
    setup.run();
    setup.sends([0; BYTES], &[0; 60]);
    setup.run();

    assert_eq!(setup.send.used(), [(0, 0)]);
    assert!(setup.receive.used().is_empty());
}

#[test]
fn a_reset_takes_the_queues_away_and_an_activation_brings_new_ones() {
    let mut setup = Setup::running();
    setup.arrives(b"for the old driver");
    setup.run();
    setup.net.reset().unwrap();
    setup.receive.describe(0, (BUFFERS, 2000), WRITE, 0);
    setup.receive.offer(0);
    setup.run();
    assert!(setup.receive.used().is_empty());

    setup.receive = Driver::new(&setup.memory, 0x3_0000, 16);
    setup.send = Driver::new(&setup.memory, 0x4_0000, 16);
    setup.activate(VERSION_1);
    setup.receive.describe(0, (BUFFERS, 2000), WRITE, 0);
    setup.receive.offer(0);
    setup.arrives(b"for the new one");
    setup.run();

    assert_eq!(setup.receive.used(), [(0, 27)]);
}

#[test]
fn one_broken_queue_does_not_stop_the_other() {
    let mut setup = Setup::running();
    setup.receive.claim(17);
    setup.arrives(b"nobody gets this");
    setup.sends([0; BYTES], &[3; 60]);
    setup.run();

    assert_eq!(setup.send.used(), [(0, 0)]);
    assert_eq!(setup.departed().unwrap().len(), 72);
}

#[test]
fn the_thread_wakes_for_whatever_comes() {
    let Setup {
        mut net,
        card,
        wire,
        mut receive,
        send: mut sender,
        memory,
    } = Setup::new();
    let queues = [receive.setup(), sender.setup()];
    thread::spawn(move || card.run());
    let until = |what: &str, mut happened: Box<dyn FnMut() -> bool + '_>| {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !happened() {
            assert!(Instant::now() < deadline, "{what}");
            thread::sleep(Duration::from_millis(1));
        }
    };

    // The bell: frames were there before the driver.
    send(wire.as_raw_fd(), &[0; 100], MsgFlags::empty()).unwrap();
    receive.describe(0, (BUFFERS, 2000), WRITE, 0);
    receive.offer(0);
    net.activate(FEATURES, &queues).unwrap();
    until("the bell", Box::new(|| receive.used() == [(0, 100)]));
    // The tap.
    receive.offer(0);
    net.shared.lines.kick(RECEIVE);
    send(wire.as_raw_fd(), &[0; 50], MsgFlags::empty()).unwrap();
    until("the tap", Box::new(|| receive.used() == [(0, 50)]));
    // A kick.
    memory.write_slice(&[0; 72], GuestAddress(BUFFERS)).unwrap();
    sender.describe(0, (BUFFERS, 72), 0, 0);
    sender.offer(0);
    net.shared.lines.kick(SEND);
    until("a kick", Box::new(|| sender.used() == [(0, 0)]));
}

proptest! {
    #[test]
    fn no_scribble_keeps_the_thread(
        bytes in prop::collection::vec(any::<u8>(), 1..64),
        indices in any::<[u16; 2]>(),
        acked in prop::sample::select(vec![VERSION_1, FEATURES | EVENT_IDX]),
    ) {
        let mut setup = Setup::new();
        setup.activate(acked);
        setup.receive.scribble(&bytes);
        setup.send.scribble(&bytes);
        setup.receive.claim(indices[0]);
        setup.send.claim(indices[1]);
        setup.arrives(&[0; 60]);
        setup.card.wait(EpollTimeout::ZERO).unwrap();
        for _ in 0..4 {
            setup.card.turn();
        }
    }
}
