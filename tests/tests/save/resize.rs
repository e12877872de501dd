//! A disk that grows while it is served.

use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use protocol::control::{Answer, Command, ResizeRequest};
use tests::memory::GuestMemory;
use tests::operator::Operator;
use tests::place::Place;
use tests::raw::{IN, MEMORY, OK, OUT, RawDisk};
use tests::wire::{code, words};

use crate::support::{RAW, assert_same, connect, delta, operated, save};

fn resize(operator: &Operator, disk_bytes: u64) -> Result<Answer, String> {
    operator.ask(Command::Resize(ResizeRequest { disk_bytes }), &[])
}

#[test]
fn what_is_new_reads_as_zeros_and_can_be_written_and_saved() {
    // The last cluster is short, and so is the base's last sector.
    let place = Place::with_noise((4 << 20) + 4096 + 700, 1);
    let (helper, operator) = operated(place.helper());
    let mut client = connect(&helper);
    let old = client.capacity();
    assert_eq!(old, (4 << 20) + 4096 + 1024);
    client.write(old - 512, &[5; 512]);
    let mut expected = client.read_all();

    assert_eq!(resize(&operator, 9 << 20), Ok(Answer::Resized));

    assert_eq!(operator.status().disk_bytes, 9 << 20);
    assert_eq!(client.capacity(), 9 << 20);
    expected.resize(9 << 20, 0);
    assert!(client.read_all() == expected);
    client.write(old, &[6; 4096]);
    client.write((9 << 20) - 512, &[7; 512]);
    let at = usize::try_from(old).unwrap();
    expected[at..at + 4096].fill(6);
    expected[(9 << 20) - 512..].fill(7);
    assert!(client.read_all() == expected);
    let raw = save(&operator, RAW, place.dir().join("raw"));
    assert!(fs::read(&raw).unwrap() == expected);
    assert_same(&save(&operator, delta(&place.base()), place.dir().join("delta")), &raw);
    helper.terminate();
}

#[test]
fn disks_only_grow_by_whole_sectors_and_not_without_end() {
    let place = Place::with_noise(1 << 20, 2);
    let (helper, operator) = operated(place.helper());
    for (bytes, why) in [
        (512 << 10, "only grow"),
        ((1 << 20) + 100, "whole sectors"),
        (2 << 40, "at most"),
        (u64::MAX, "whole sectors"),
        (1 << 63, "at most"),
        (u64::MAX - 511, "at most"),
    ] {
        let refused = resize(&operator, bytes).unwrap_err();
        assert!(refused.contains(why), "{bytes}: {refused}");
    }
    assert_eq!(operator.status().disk_bytes, 1 << 20);
    assert_eq!(resize(&operator, 1 << 40), Ok(Answer::Resized));
    let mut client = connect(&helper);
    assert_eq!(client.capacity(), 1 << 40);
    client.write((1 << 40) - 4096, &[1; 4096]);
    helper.terminate();
}

#[test]
fn a_frontend_that_gave_a_channel_is_told_and_the_others_are_not_disturbed() {
    let place = Place::with_noise(1 << 20, 3);
    let (operator, theirs) = Operator::pair();
    let helper = place.helper().closed().operated(theirs).start();
    let mut disk = RawDisk::start_with(operator.attach().unwrap(), GuestMemory::sealed(MEMORY), 1, 64);
    assert_eq!(resize(&operator, 2 << 20), Ok(Answer::Resized));
    let (mut ours, channel) = UnixStream::pair().unwrap();
    assert_eq!(
        disk.wire.tell(code::SET_BACKEND_REQ_FD, &[], &[channel.as_fd()]).ok(),
        Some(0)
    );

    assert_eq!(resize(&operator, 3 << 20), Ok(Answer::Resized));

    ours.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut message = [0; 12];
    ours.read_exact(&mut message).unwrap();
    assert_eq!(message[..], words(&[2, 1, 0])[..]);
    let last = (3 << 20) / 512 - 1;
    assert_eq!(disk.request(OUT, last, &[7; 512], 0).0, OK);
    // Nobody reads it any more, and nobody waits for that.
    for megabytes in 4..2000 {
        assert_eq!(resize(&operator, megabytes << 20), Ok(Answer::Resized));
    }
    assert_eq!(disk.request(IN, last, &[], 512).2, [7; 512]);
    helper.terminate();
}
