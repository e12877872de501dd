//! Requests that a chain carries soundly and that ask for what there is not.

use tests::raw::{
    DATA, DISCARD, Desc, FLUSH, GET_ID, IN, IOERR, OK, OUT, RawDisk, UNSUPP, UNTOUCHED, WRITE_ZEROES, linked,
    zero_segment,
};
use tests::rng::Rng;

use super::{SECTORS, WITH_ERROR, answer, disk_place, header, start, status};

#[test]
fn a_length_that_is_not_in_sectors_is_an_error() {
    let place = disk_place();
    let (helper, mut disk) = start(&place);

    for len in [1, 511, 513, 1023, 4097] {
        let read = answer(
            &mut disk,
            IN,
            0,
            &linked(&[header(), Desc::writable(DATA, len), status()]),
        );
        let write = answer(
            &mut disk,
            OUT,
            0,
            &linked(&[header(), Desc::readable(DATA, len), status()]),
        );
        assert_eq!((read, write), (WITH_ERROR, WITH_ERROR), "{len} bytes");
    }

    helper.terminate();
}

#[test]
fn a_transfer_of_nothing_is_answered() {
    let place = disk_place();
    let (helper, mut disk) = start(&place);

    for kind in [IN, OUT] {
        let nothing = answer(&mut disk, kind, 0, &linked(&[header(), status()]));
        let empty = answer(
            &mut disk,
            kind,
            0,
            &linked(&[header(), Desc::readable(DATA, 0), status()]),
        );
        for (status, len) in [nothing, empty] {
            assert!([OK, IOERR].contains(&status), "type {kind}: {status}");
            assert_eq!(len, 1, "type {kind}");
        }
    }

    helper.terminate();
}

#[test]
fn sectors_that_are_not_on_the_disk_are_an_error_however_the_sum_wraps() {
    let place = disk_place();
    let (helper, mut disk) = start(&place);

    for sector in [
        SECTORS,
        SECTORS - 1,
        1 << 55,
        (1 << 55) - 1,
        1 << 63,
        u64::MAX,
        u64::MAX / 512,
        u64::MAX / 512 + 1,
    ] {
        let read = answer(
            &mut disk,
            IN,
            sector,
            &linked(&[header(), Desc::writable(DATA, 1024), status()]),
        );
        let write = answer(
            &mut disk,
            OUT,
            sector,
            &linked(&[header(), Desc::readable(DATA, 1024), status()]),
        );
        assert_eq!((read, write), (WITH_ERROR, WITH_ERROR), "sector {sector:#x}");
    }

    helper.terminate();
}

#[test]
fn a_type_that_is_not_served_is_unsupported() {
    let place = disk_place();
    let (helper, mut disk) = start(&place);
    let mut rng = Rng::new(2);
    let known = [IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES];
    let mut kinds: Vec<u32> = (0..64).filter(|kind| !known.contains(kind)).collect();
    kinds.extend([0x100, 0x8000_0000, 0x8000_0001, u32::MAX]);
    kinds.extend((0..200).map(|_| u32::try_from(rng.between(64, u64::from(u32::MAX))).unwrap()));

    for kind in kinds {
        let bare = answer(&mut disk, kind, 0, &linked(&[header(), status()]));
        let out = answer(
            &mut disk,
            kind,
            0,
            &linked(&[header(), Desc::readable(DATA, 512), status()]),
        );
        let both = answer(
            &mut disk,
            kind,
            0,
            &linked(&[header(), Desc::readable(DATA, 96), Desc::writable(DATA, 512), status()]),
        );
        assert_eq!(
            (bare, out, both),
            ((UNSUPP, 1), (UNSUPP, 1), (UNSUPP, 1)),
            "type {kind:#x}"
        );
    }

    helper.terminate();
}

#[test]
fn the_serial_number_is_twenty_bytes_filled_up_with_zeros() {
    let place = disk_place();
    let helper = place.helper().value("--serial", "burn-me").start();
    let mut disk = RawDisk::start(helper.socket(), 2, 64);

    let (status, len, id) = disk.request(GET_ID, 0, &[], 20);

    assert_eq!((status, len), (OK, 21));
    assert_eq!(id, b"burn-me\0\0\0\0\0\0\0\0\0\0\0\0\0");
    helper.terminate();
}

#[test]
fn a_serial_number_into_another_length_is_answered_and_writes_no_more_than_it_says() {
    let place = disk_place();
    let (helper, mut disk) = start(&place);

    for room in [1, 19, 21, 512, 4096] {
        disk.memory.write(DATA + (8 << 20), &vec![UNTOUCHED; 4096]);
        let (status, len, id) = disk.request(GET_ID, 0, &[], room);
        assert!([OK, IOERR].contains(&status), "room {room}: {status}");
        assert!(len >= 1 && len <= room + 1, "room {room}: {len}");
        let written = usize::try_from(len - 1).unwrap();
        assert!(
            id[written..].iter().all(|byte| *byte == UNTOUCHED),
            "room {room}: more than {len} bytes"
        );
        disk.assert_serves();
    }

    helper.terminate();
}

#[test]
fn discard_and_write_zeroes_check_every_segment() {
    let place = disk_place();
    let (helper, mut disk) = start(&place);

    for kind in [DISCARD, WRITE_ZEROES] {
        let mut run = |body: &[u8]| {
            let (status, len, _) = disk.request(kind, 0, body, 0);
            disk.assert_serves();
            (status, len)
        };
        let too_many = zero_segment(0, 8, 0).repeat(4096);
        let second_is_wrong = [zero_segment(0, 8, 0), zero_segment(SECTORS, 8, 0)].concat();

        assert_eq!(run(&[]), WITH_ERROR, "no segment");
        assert_eq!(run(&zero_segment(0, 8, 0)[..15]), WITH_ERROR, "fifteen bytes");
        assert_eq!(
            run(&[&zero_segment(0, 8, 0)[..], &[0]].concat()),
            WITH_ERROR,
            "seventeen bytes"
        );
        assert_eq!(run(&too_many), WITH_ERROR, "4096 segments");
        assert_eq!(run(&second_is_wrong), WITH_ERROR, "the second segment is outside");
        assert_eq!(run(&zero_segment(SECTORS, 1, 0)), WITH_ERROR, "behind the end");
        assert_eq!(run(&zero_segment(SECTORS - 1, 2, 0)), WITH_ERROR, "over the end");
        assert_eq!(run(&zero_segment(u64::MAX, 2, 0)), WITH_ERROR, "the sum wraps");
        assert_eq!(run(&zero_segment(1 << 55, 1, 0)), WITH_ERROR, "the product wraps");
        assert_eq!(run(&zero_segment(0, u32::MAX, 0)), WITH_ERROR, "more than the maximum");
        assert_eq!(run(&zero_segment(0, 8, 2)), (UNSUPP, 1), "an unknown flag");
        assert_eq!(run(&zero_segment(0, 8, 1 << 31)), (UNSUPP, 1), "an unknown flag");
    }

    helper.terminate();
}

/// "The device MUST set the status byte to VIRTIO_BLK_S_UNSUPP for discard commands if the unmap flag is set."
#[test]
fn a_discard_with_unmap_is_unsupported_and_a_write_zeroes_with_unmap_is_not() {
    let place = disk_place();
    let (helper, mut disk) = start(&place);

    let (discard, ..) = disk.request(DISCARD, 0, &zero_segment(0, 8, 1), 0);
    let (before, _, data) = disk.request(IN, 0, &[], 4096);
    let (write_zeroes, ..) = disk.request(WRITE_ZEROES, 0, &zero_segment(0, 8, 1), 0);
    let (after, _, zeros) = disk.request(IN, 0, &[], 4096);

    assert_eq!((discard, write_zeroes), (UNSUPP, OK));
    assert_eq!((before, data), (OK, place.content()[..4096].to_vec()));
    assert_eq!((after, zeros), (OK, vec![0; 4096]));
    helper.terminate();
}

#[test]
fn a_read_only_disk_answers_every_type() {
    let place = disk_place();
    let helper = place.helper().read_only().start();
    let mut disk = RawDisk::start(helper.socket(), 1, 64);

    let (out, ..) = disk.request(OUT, 0, &[1; 512], 0);
    let (discard, ..) = disk.request(DISCARD, 0, &zero_segment(0, 8, 0), 0);
    let (write_zeroes, ..) = disk.request(WRITE_ZEROES, 0, &zero_segment(0, 8, 0), 0);
    let (id, len, _) = disk.request(GET_ID, 0, &[], 20);

    assert_eq!(out, IOERR);
    assert!([IOERR, UNSUPP].contains(&discard), "{discard}");
    assert!([IOERR, UNSUPP].contains(&write_zeroes), "{write_zeroes}");
    assert_eq!((id, len), (OK, 21));
    disk.assert_serves();
    helper.terminate();
}

/// The status byte is judged by where it is, not by what came before it.
#[test]
fn used_length_counts_exactly_the_bytes_that_were_written() {
    let place = disk_place();
    let (helper, mut disk) = start(&place);
    let canary = vec![UNTOUCHED; 8192];

    for (sectors, room) in [(1_u64, 512_u32), (2, 1024), (16, 8192)] {
        disk.memory.write(DATA + (8 << 20), &canary);
        let (status, len, data) = disk.request(IN, SECTORS - sectors, &[], room);
        let end = usize::try_from(SECTORS * 512).unwrap();
        assert_eq!((status, len), (OK, room + 1));
        assert_eq!(data, place.content()[end - usize::try_from(room).unwrap()..]);
    }

    helper.terminate();
}
