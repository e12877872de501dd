//! Kick and call descriptors that are no eventfds, or that a hostile VMM fills, swaps and clogs.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::unistd::pipe2;
use tests::abuse::survives;
use tests::helper::Helper;
use tests::memory::GuestMemory;
use tests::place::Place;
use tests::raw::RawDisk;
use tests::wire::{code, longs, words};

const SHORT: Duration = Duration::from_millis(300);

/// Descriptors that are no eventfds, each with what keeps it as it is.
fn strangers() -> Vec<(&'static str, OwnedFd, Option<OwnedFd>)> {
    let (read_end, write_end) = pipe2(OFlag::O_CLOEXEC).expect("the kernel has pipes to give");
    let (closed_read, closed_write) = pipe2(OFlag::O_CLOEXEC).expect("the kernel has pipes to give");
    drop(closed_read);
    let (ended_read, ended_write) = pipe2(OFlag::O_CLOEXEC).expect("the kernel has pipes to give");
    drop(ended_write);
    let (full_read, full_write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).expect("the kernel has pipes to give");
    let mut full = File::from(full_write);
    while full.write(&[0; 4096]).is_ok() {}
    let (socket, peer) = UnixStream::pair().expect("the kernel has sockets to give");
    let (hung_up, _) = UnixStream::pair().expect("the kernel has sockets to give");
    let device = |path| {
        OwnedFd::from(
            File::options()
                .read(true)
                .write(true)
                .open(path)
                .expect("a device of every system"),
        )
    };
    let memory = GuestMemory::sealed(4096);
    let file = memory
        .as_fd()
        .try_clone_to_owned()
        .expect("a descriptor can be duplicated");
    vec![
        ("the read end of a pipe", read_end, Some(write_end)),
        ("the write end of a closed pipe", closed_write, None),
        ("the read end of a closed pipe", ended_read, None),
        ("a full pipe", full.into(), Some(full_read)),
        ("a socket", socket.into(), Some(peer.into())),
        ("a socket whose peer left", hung_up.into(), None),
        ("/dev/null", device("/dev/null"), None),
        ("/dev/zero", device("/dev/zero"), None),
        ("a file", file, None),
    ]
}

/// Passes `stranger` as descriptor `which` of ring 0, then tries to use the ring.
fn pass_stranger(helper: &Helper, which: u32, stranger: &OwnedFd) -> (RawDisk, io::Result<u64>) {
    let mut disk = RawDisk::start(helper.socket(), 2, 64);
    let told = disk.wire.tell(which, &longs(&[0]), &[stranger.as_fd()]);
    disk.set_up_flush();
    let RawDisk { memory, rings, .. } = &mut disk;
    for _ in 0..100 {
        rings[0].publish(memory, &[0]);
        rings[0].kick();
    }
    std::thread::sleep(Duration::from_millis(20));
    (disk, told)
}

#[test]
fn a_kick_that_is_no_eventfd_is_refused() {
    for (name, stranger, _other_end) in strangers() {
        survives(|helper| {
            let (disk, told) = pass_stranger(helper, code::SET_VRING_KICK, &stranger);
            assert_ne!(told.ok(), Some(0), "{name}");
            disk
        });
    }
}

#[test]
fn a_call_that_is_no_eventfd_is_refused() {
    for (name, stranger, _other_end) in strangers() {
        survives(|helper| {
            let (disk, told) = pass_stranger(helper, code::SET_VRING_CALL, &stranger);
            assert_ne!(told.ok(), Some(0), "{name}");
            disk
        });
    }
}

/// Nothing tells these from an eventfd without `/proc`, which the helper does not have. They can wake it, like a kick.
#[test]
fn what_only_looks_like_an_eventfd_harms_nobody() {
    use nix::sys::epoll::{Epoll, EpollCreateFlags};
    use nix::sys::signalfd::{SfdFlags, SigSet, SignalFd};
    use nix::sys::time::TimeSpec;
    use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap().0;
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC).unwrap();
    timer
        .set(Expiration::Interval(TimeSpec::new(0, 1)), TimerSetTimeFlags::empty())
        .unwrap();
    let signals = SignalFd::with_flags(&SigSet::empty(), SfdFlags::SFD_CLOEXEC).unwrap();
    let cousins = [epoll, timer.into(), signals.as_fd().try_clone_to_owned().unwrap()];

    for cousin in &cousins {
        for which in [code::SET_VRING_KICK, code::SET_VRING_CALL, code::SET_VRING_ERR] {
            survives(|helper| pass_stranger(helper, which, cousin));
        }
    }
}

#[test]
fn an_err_that_is_no_eventfd_is_refused_or_never_waited_for() {
    for (_, stranger, _other_end) in strangers() {
        survives(|helper| {
            let (mut disk, _) = pass_stranger(helper, code::SET_VRING_ERR, &stranger);
            let RawDisk { memory, rings, .. } = &mut disk;
            rings[0].publish_index(memory, 0x4000);
            rings[0].kick();
            std::thread::sleep(Duration::from_millis(20));
            disk
        });
    }
}

fn eventfd(flags: EfdFlags) -> EventFd {
    EventFd::from_flags(EfdFlags::EFD_CLOEXEC | flags).expect("the kernel has eventfds to give")
}

#[test]
fn a_swapped_kick_is_served_and_the_old_one_is_not() {
    for flags in [EfdFlags::empty(), EfdFlags::EFD_NONBLOCK] {
        let place = Place::with_noise(1 << 20, 1);
        let helper = place.helper().start();
        let mut disk = RawDisk::start(helper.socket(), 2, 64);
        disk.set_up_flush();
        disk.assert_serves();
        disk.set_up_flush();
        let fresh = eventfd(flags);

        let told = disk.wire.tell(code::SET_VRING_KICK, &longs(&[0]), &[fresh.as_fd()]);
        assert_eq!(told.ok(), Some(0));
        let RawDisk { memory, rings, .. } = &mut disk;
        // The swap itself may look at the ring once; after that only the new descriptor counts.
        std::thread::sleep(SHORT);
        rings[0].publish(memory, &[0]);
        rings[0].kick();
        std::thread::sleep(SHORT);
        assert_eq!(rings[0].take_used(memory), [], "a kick of the old eventfd");
        fresh.write(1).unwrap();
        assert_eq!(rings[0].wait_used(memory, 1).len(), 1, "a kick of the new eventfd");

        helper.terminate();
    }
}

#[test]
fn a_thousand_swaps_under_load_leave_a_working_helper() {
    survives(|helper| {
        let mut disk = RawDisk::start(helper.socket(), 2, 64);
        disk.set_up_flush();
        let mut all = Vec::new();
        for round in 0..1000 {
            let flags = if round % 2 == 0 {
                EfdFlags::empty()
            } else {
                EfdFlags::EFD_NONBLOCK
            };
            let fresh = eventfd(flags);
            let RawDisk { memory, rings, .. } = &mut disk;
            rings[0].publish(memory, &[0]);
            rings[0].kick();
            assert_eq!(
                disk.wire
                    .tell(code::SET_VRING_KICK, &longs(&[0]), &[fresh.as_fd()])
                    .ok(),
                Some(0)
            );
            fresh.write(1).unwrap();
            disk.rings[0].kick = fresh;
            let RawDisk { memory, rings, .. } = &mut disk;
            all.extend(rings[0].wait_used(memory, 1));
        }
        assert_eq!(all.len(), 1000);
        disk
    });
}

/// A full counter blocks the next writer of a blocking eventfd, for as long as the peer likes.
#[test]
fn a_saturated_call_eventfd_blocks_nobody() {
    for flags in [EfdFlags::empty(), EfdFlags::EFD_NONBLOCK] {
        survives(|helper| {
            let mut disk = RawDisk::start(helper.socket(), 2, 64);
            let full = eventfd(flags);
            full.write(u64::MAX - 1).unwrap();
            assert_eq!(
                disk.wire.tell(code::SET_VRING_CALL, &longs(&[0]), &[full.as_fd()]).ok(),
                Some(0)
            );
            for _ in 0..100 {
                disk.assert_serves();
            }
            (disk, full)
        });
    }
}

/// The peer drains and fills the counter while the helper looks at it: only its own queue may suffer.
#[test]
fn a_call_eventfd_that_fills_up_in_the_wrong_moment_never_prevents_the_end() {
    survives(|helper| {
        let mut disk = RawDisk::start(helper.socket(), 2, 64);
        let call = eventfd(EfdFlags::empty());
        assert_eq!(
            disk.wire.tell(code::SET_VRING_CALL, &longs(&[0]), &[call.as_fd()]).ok(),
            Some(0)
        );
        disk.set_up_flush();
        let RawDisk { memory, rings, .. } = &mut disk;
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(3) {
            rings[0].publish(memory, &[0]);
            rings[0].kick();
            // The flag belongs to the open file that both share: this side never waits, the other side might.
            fcntl(&call, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
            let _ = call.read();
            let _ = call.write(u64::MAX - 1);
            fcntl(&call, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
            rings[0].take_used(memory);
        }
        (disk, call)
    });
}

#[test]
fn one_eventfd_for_everything_is_the_guests_own_affair() {
    survives(|helper| {
        let disk = RawDisk::start(helper.socket(), 2, 64);
        let same = eventfd(EfdFlags::EFD_NONBLOCK);
        for ring in 0..2 {
            for which in [code::SET_VRING_CALL, code::SET_VRING_ERR, code::SET_VRING_KICK] {
                let _ = disk.wire.tell(which, &longs(&[ring]), &[same.as_fd()]);
            }
        }
        disk.set_up_flush();
        let RawDisk {
            memory,
            mut rings,
            wire,
        } = disk;
        rings[0].publish(&memory, &[0; 64]);
        same.write(1).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        (wire, memory, rings, same)
    });
}

/// Bit 8 of the payload says that no descriptor comes along, and asks for polling.
#[test]
fn rings_without_descriptors_are_refused_or_simply_not_called() {
    survives(|helper| {
        let disk = RawDisk::start(helper.socket(), 2, 64);
        let _ = disk.wire.tell(code::SET_VRING_CALL, &longs(&[1 << 8]), &[]);
        let _ = disk.wire.tell(code::SET_VRING_ERR, &longs(&[1 << 8]), &[]);
        let _ = disk.wire.tell(code::SET_VRING_KICK, &longs(&[1 << 8]), &[]);
        disk
    });
}

#[test]
fn a_ring_number_that_does_not_exist_is_refused() {
    for index in [16, 17, 255, 256, 0xffff, u32::MAX] {
        survives(|helper| {
            let disk = RawDisk::start(helper.socket(), 1, 64);
            for told in [code::SET_VRING_NUM, code::SET_VRING_BASE, code::SET_VRING_ENABLE] {
                assert_ne!(
                    disk.wire.tell(told, &words(&[index, 1]), &[]).ok(),
                    Some(0),
                    "message {told}, ring {index}"
                );
            }
            disk
        });
    }
}
