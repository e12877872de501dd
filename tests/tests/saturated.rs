//! Eventfds whose counter has no room left, up to the one value that only the kernel itself can count to.
//!
//! A process adds at most up to 2^64 - 2. What the kernel signals may add one more, and poll then says "error" instead
//! of "not writable", while a write blocks all the same.

use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use tests::abuse::survives;
use tests::helper::Helper;
use tests::place::Place;
use tests::raw::{RawDisk, signalled};
use tests::require::{Missing, skip};
use tests::wire::{code, longs};

const SOON: Duration = Duration::from_secs(5);

/// A read by asynchronous I/O, whose completion the kernel announces on standard input. Perl, since it can make any
/// system call, and this crate only safe ones: 206 is io_setup, 209 io_submit, 208 io_getevents; the last two numbers of
/// the request are IOCB_FLAG_RESFD and the descriptor.
const LET_THE_KERNEL_COUNT: &str = r#"
my ($context, $byte, $event) = ("\0" x 8, "\0", "\0" x 32);
open(my $zero, "<", "/dev/zero") or die "/dev/zero: $!";
syscall(206, 1, $context) == 0 or die "io_setup: $!";
my $request = pack("QLLSsLPQqQLL", 0, 0, 0, 0, 0, fileno($zero), $byte, 1, 0, 0, 1, 0);
my $requests = pack("P", $request);
syscall(209, unpack("Q", $context), 1, $requests) == 1 or die "io_submit: $!";
syscall(208, unpack("Q", $context), 1, 1, $event, 0) == 1 or die "io_getevents: $!";
"#;

/// A blocking eventfd that no process can write to, but the kernel can.
fn full() -> EventFd {
    let eventfd = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).expect("the kernel has eventfds to give");
    eventfd.write(u64::MAX - 1).expect("a fresh counter takes that much");
    eventfd
}

/// A blocking eventfd at the very end of its counter.
fn overflowing() -> Result<EventFd, Missing> {
    let eventfd = full();
    let inherited = eventfd.as_fd().try_clone_to_owned().expect("descriptors can be copied");
    let counted = Command::new("perl")
        .args(["-e", LET_THE_KERNEL_COUNT])
        .stdin(Stdio::from(inherited))
        .output()
        .map_err(|error| format!("needs perl: {error}"))?;
    if !counted.status.success() {
        let complaint = String::from_utf8_lossy(&counted.stderr);
        return Err(format!("needs asynchronous I/O of the kernel: {}", complaint.trim()));
    }
    let mut fds = [PollFd::new(eventfd.as_fd(), PollFlags::POLLOUT)];
    poll(&mut fds, PollTimeout::ZERO).expect("eventfds of ours can be polled");
    assert_eq!(fds[0].revents(), Some(PollFlags::POLLERR), "the counter is at its end");
    Ok(eventfd)
}

/// Passes `eventfd` as the call of a running ring, and lets the ring be used.
fn use_as_call<'e>(helper: &Helper, eventfd: &'e EventFd) -> (RawDisk, &'e EventFd) {
    let mut disk = RawDisk::start(helper.socket(), 2, 64);
    let begun = Instant::now();
    let told = disk.wire.tell(code::SET_VRING_CALL, &longs(&[0]), &[eventfd.as_fd()]);
    assert_eq!(told.ok(), Some(0));
    for _ in 0..20 {
        disk.assert_serves();
        assert!(disk.wire.ask(code::GET_QUEUE_NUM, &[]).is_ok(), "the next message");
    }
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    (disk, eventfd)
}

/// Passes `eventfd` as the err of a running ring, and breaks the ring.
fn use_as_err<'e>(helper: &Helper, eventfd: &'e EventFd) -> (RawDisk, &'e EventFd) {
    let mut disk = RawDisk::start(helper.socket(), 2, 64);
    let begun = Instant::now();
    for ring in 0..2 {
        let told = disk.wire.tell(code::SET_VRING_ERR, &longs(&[ring]), &[eventfd.as_fd()]);
        assert_eq!(told.ok(), Some(0));
    }
    let RawDisk { memory, rings, .. } = &mut disk;
    rings[1].publish_index(memory, 0x4000);
    rings[1].kick();
    std::thread::sleep(Duration::from_millis(50));
    disk.assert_serves();
    assert!(disk.wire.ask(code::GET_QUEUE_NUM, &[]).is_ok(), "the next message");
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    (disk, eventfd)
}

/// Poll tells of this one that it is full. It was always well; it is here for what the next one is compared with.
#[test]
fn a_full_call_is_taken_and_the_next_message_answered() {
    let full = full();
    survives(|helper| use_as_call(helper, &full));
}

/// "Error" was read as "ready": the control thread blocked in its write for ever, and with it every later client.
#[test]
fn a_call_at_the_end_of_its_counter_blocks_nobody() {
    match overflowing() {
        Err(missing) => skip(&missing),
        Ok(eventfd) => survives(|helper| use_as_call(helper, &eventfd)),
    }
}

/// As the full call, this was always well.
#[test]
fn a_full_err_blocks_nobody() {
    let full = full();
    survives(|helper| use_as_err(helper, &full));
}

/// As with the call: the write that announced the broken ring never came back, and the next client was not served.
#[test]
fn an_err_at_the_end_of_its_counter_blocks_nobody() {
    match overflowing() {
        Err(missing) => skip(&missing),
        Ok(eventfd) => survives(|helper| use_as_err(helper, &eventfd)),
    }
}

/// What could not be announced on the full one would otherwise be announced on none.
#[test]
fn a_call_with_room_that_replaces_a_full_one_is_signalled() {
    let place = Place::with_noise(1 << 20, 1);
    let helper = place.helper().start();
    let full = full();
    let (mut disk, _) = use_as_call(&helper, &full);

    let told = disk
        .wire
        .tell(code::SET_VRING_CALL, &longs(&[0]), &[disk.rings[0].call.as_fd()]);
    assert_eq!(told.ok(), Some(0));

    assert!(signalled(&disk.rings[0].call, SOON), "for what was completed before");
    disk.assert_serves();
    helper.terminate();
}
