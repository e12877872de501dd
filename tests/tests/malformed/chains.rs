//! Chains whose descriptors make no sense, and some that only look so.

use tests::raw::{DATA, Desc, FLUSH, IN, IOERR, MEMORY, NEXT, OK, OUT, UNTOUCHED, WRITE, linked, request_header};
use tests::rng::Rng;

use super::{HEADER, NOWHERE, STATUS, WITH_ERROR, WITHOUT_STATUS, answer, disk_place, header, start, status};

#[test]
fn a_chain_without_a_place_for_the_status_is_returned_with_length_0() {
    let place = disk_place();
    let (helper, mut disk) = start(&place);

    let header_only = answer(&mut disk, FLUSH, 0, &[header()]);
    let readable_status = answer(&mut disk, FLUSH, 0, &linked(&[header(), Desc::readable(STATUS, 1)]));
    let readable_data_last = answer(&mut disk, OUT, 0, &linked(&[header(), Desc::readable(DATA, 512)]));
    let empty = answer(&mut disk, FLUSH, 0, &[Desc::readable(HEADER, 0)]);
    let unmapped_status = answer(
        &mut disk,
        FLUSH,
        0,
        &linked(&[
            header(),
            Desc {
                addr: NOWHERE,
                ..status()
            },
        ]),
    );

    assert_eq!(header_only, WITHOUT_STATUS);
    assert_eq!(readable_status, WITHOUT_STATUS);
    assert_eq!(readable_data_last, WITHOUT_STATUS);
    assert_eq!(empty, WITHOUT_STATUS);
    assert_eq!(unmapped_status, WITHOUT_STATUS);
    helper.terminate();
}

#[test]
fn a_short_or_missing_header_is_an_error() {
    let place = disk_place();
    let (helper, mut disk) = start(&place);

    let short = answer(&mut disk, FLUSH, 0, &linked(&[Desc::readable(HEADER, 15), status()]));
    let none = answer(&mut disk, FLUSH, 0, &[status()]);
    let writable = answer(&mut disk, FLUSH, 0, &linked(&[Desc::writable(HEADER, 16), status()]));
    let unmapped = answer(
        &mut disk,
        FLUSH,
        0,
        &linked(&[
            Desc {
                addr: NOWHERE,
                ..header()
            },
            status(),
        ]),
    );

    assert_eq!(short, WITH_ERROR);
    assert_eq!(none, WITH_ERROR);
    assert_eq!(writable, WITH_ERROR);
    assert_eq!(unmapped, WITH_ERROR);
    helper.terminate();
}

/// "Message Framing": the device makes no assumption about how a request is cut into descriptors.
#[test]
fn a_request_may_be_cut_into_descriptors_anywhere() {
    let place = disk_place();
    let (helper, mut disk) = start(&place);
    let bytes = Rng::new(1).bytes(512);
    disk.memory.write(DATA, &request_header(OUT, 3));
    disk.memory.write(DATA + 16, &bytes);
    disk.memory.write(STATUS, &[UNTOUCHED]);

    let joined = disk.run(&linked(&[
        Desc::readable(DATA, 16 + 100),
        Desc::readable(DATA + 116, 412),
        status(),
    ]));
    assert_eq!((disk.memory.byte(STATUS), joined.len), (OK, 1));
    let split_header = answer(
        &mut disk,
        FLUSH,
        0,
        &linked(&[Desc::readable(HEADER, 1), Desc::readable(HEADER + 1, 15), status()]),
    );
    disk.memory.write(DATA, &[UNTOUCHED; 513]);
    disk.memory.write(HEADER, &request_header(IN, 3));
    let used = disk.run(&linked(&[
        header(),
        Desc::writable(DATA, 7),
        Desc::writable(DATA + 7, 506),
    ]));

    assert_eq!(split_header, (OK, 1));
    assert_eq!(used.len, 513);
    assert_eq!(disk.memory.read(DATA, 512), bytes);
    assert_eq!(disk.memory.byte(DATA + 512), OK);
    helper.terminate();
}

#[test]
fn data_in_the_wrong_direction_is_an_error_and_nothing_is_written() {
    let place = disk_place();
    let (helper, mut disk) = start(&place);
    disk.memory.write(DATA, &[UNTOUCHED; 512]);

    let read_into_readable = answer(
        &mut disk,
        IN,
        0,
        &linked(&[header(), Desc::readable(DATA, 512), status()]),
    );
    let write_from_writable = answer(
        &mut disk,
        OUT,
        0,
        &linked(&[header(), Desc::writable(DATA, 512), status()]),
    );
    let both = answer(
        &mut disk,
        IN,
        0,
        &linked(&[header(), Desc::readable(DATA, 512), Desc::writable(DATA, 512), status()]),
    );

    assert_eq!(read_into_readable, WITH_ERROR);
    assert_eq!(write_from_writable, WITH_ERROR);
    assert_eq!(both, WITH_ERROR);
    assert_eq!(disk.memory.read(DATA, 512), [UNTOUCHED; 512]);
    helper.terminate();
}

/// "The driver MUST place any device-writable descriptor elements after any device-readable" ones.
#[test]
fn a_readable_descriptor_after_a_writable_one_is_answered_with_an_error() {
    let place = disk_place();
    let (helper, mut disk) = start(&place);

    let after_status = answer(
        &mut disk,
        IN,
        0,
        &linked(&[header(), Desc::writable(DATA, 512), status(), Desc::readable(DATA, 512)]),
    );
    let in_between = answer(
        &mut disk,
        IN,
        0,
        &linked(&[header(), Desc::writable(DATA, 512), Desc::readable(DATA, 512), status()]),
    );

    assert!([WITH_ERROR, WITHOUT_STATUS].contains(&after_status), "{after_status:?}");
    assert_eq!(in_between, WITH_ERROR);
    helper.terminate();
}

#[test]
fn the_status_is_the_last_writable_byte_even_of_a_longer_descriptor() {
    let place = disk_place();
    let (helper, mut disk) = start(&place);
    disk.memory.write(STATUS, &[UNTOUCHED; 8]);
    disk.memory.write(HEADER, &request_header(FLUSH, 0));

    let used = disk.run(&linked(&[header(), Desc::writable(STATUS, 8)]));

    let written = disk.memory.read(STATUS, 8);
    assert_eq!(written[..7], [UNTOUCHED; 7], "a flush returns no data");
    assert!([OK, IOERR].contains(&written[7]), "{written:?}");
    assert_eq!(used.len, 1);
    disk.assert_serves();
    helper.terminate();
}

#[test]
fn a_chain_that_is_cut_at_any_point_is_answered_with_an_error() {
    let place = disk_place();
    let (helper, mut disk) = start(&place);
    let whole = linked(&[
        header(),
        Desc::writable(DATA, 512),
        Desc::writable(DATA + 512, 512),
        status(),
    ]);

    for cut in 0..whole.len() {
        for next in [64, 65, 1000, u16::MAX] {
            let mut table = whole.clone();
            table[cut] = Desc {
                flags: table[cut].flags | NEXT,
                next,
                ..table[cut]
            };
            let got = answer(&mut disk, IN, 0, &table);
            assert!(
                [WITH_ERROR, WITHOUT_STATUS].contains(&got),
                "cut after {cut} to {next}: {got:?}"
            );
        }
    }

    helper.terminate();
}

#[test]
fn a_chain_that_simply_ends_early_never_looks_whole() {
    let place = disk_place();
    let (helper, mut disk) = start(&place);
    let whole = [
        header(),
        Desc::readable(DATA, 512),
        Desc::readable(DATA + 512, 512),
        status(),
    ];

    for keep in 1..whole.len() {
        assert_eq!(
            answer(&mut disk, OUT, 0, &linked(&whole[..keep])),
            WITHOUT_STATUS,
            "{keep} of 4 descriptors"
        );
    }

    let (_, _, data) = disk.request(IN, 0, &[], 1024);
    assert_eq!(data, place.content()[..1024]);
    helper.terminate();
}

#[test]
fn a_loop_is_answered_with_an_error() {
    let place = disk_place();
    let (helper, mut disk) = start(&place);
    let to = |desc: Desc, next| Desc {
        flags: desc.flags | NEXT,
        next,
        ..desc
    };
    let writable = Desc::writable(DATA, 512);

    let itself = answer(&mut disk, IN, 0, &[to(header(), 0)]);
    let back_to_head = answer(&mut disk, IN, 0, &[to(header(), 1), to(writable, 0)]);
    let in_the_data = answer(&mut disk, IN, 0, &[to(header(), 1), to(writable, 2), to(writable, 1)]);
    let of_nothing = answer(&mut disk, IN, 0, &[to(header(), 1), to(Desc::writable(DATA, 0), 1)]);

    for got in [itself, back_to_head, in_the_data, of_nothing] {
        assert!([WITH_ERROR, WITHOUT_STATUS].contains(&got), "{got:?}");
    }
    helper.terminate();
}

#[test]
fn buffers_outside_guest_memory_are_an_error() {
    let place = disk_place();
    let (helper, mut disk) = start(&place);
    let at = |addr| Desc {
        addr,
        ..Desc::writable(0, 512)
    };
    let last = Desc::writable(MEMORY - 256, 512).addr;

    for addr in [0, NOWHERE, last, u64::MAX - 511, u64::MAX - 100, u64::MAX] {
        let read = answer(&mut disk, IN, 0, &linked(&[header(), at(addr), status()]));
        let write = answer(
            &mut disk,
            OUT,
            0,
            &linked(&[header(), Desc { flags: 0, ..at(addr) }, status()]),
        );
        assert_eq!((read, write), (WITH_ERROR, WITH_ERROR), "address {addr:#x}");
    }

    let (_, _, data) = disk.request(IN, 0, &[], 512);
    assert_eq!(data, place.content()[..512]);
    helper.terminate();
}

#[test]
fn buffers_of_four_gibibytes_each_are_an_error() {
    let place = disk_place();
    let (helper, mut disk) = start(&place);
    let huge = Desc {
        len: u32::MAX,
        ..Desc::writable(0, 0)
    };

    let one = answer(&mut disk, IN, 0, &linked(&[header(), huge, status()]));
    let many = answer(
        &mut disk,
        IN,
        0,
        &linked(&[vec![header()], vec![huge; 40], vec![status()]].concat()),
    );

    assert!([WITH_ERROR, WITHOUT_STATUS].contains(&one), "{one:?}");
    assert!([WITH_ERROR, WITHOUT_STATUS].contains(&many), "{many:?}");
    helper.terminate();
}

#[test]
fn a_descriptor_flag_that_does_not_exist_is_ignored_or_refused() {
    let place = disk_place();
    let (helper, mut disk) = start(&place);
    let strange = Desc {
        flags: 0xfff8 | WRITE,
        ..Desc::writable(DATA, 512)
    };

    let got = answer(&mut disk, IN, 0, &linked(&[header(), strange, status()]));

    assert!([(OK, 513), WITH_ERROR].contains(&got), "{got:?}");
    helper.terminate();
}
