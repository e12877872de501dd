//! Indirect descriptor tables, true and false, and the smallest ring, which can do nothing without them.

use tests::helper::Helper;
use tests::place::Place;
use tests::raw::{
    DATA, Desc, IN, INDIRECT, IOERR, NEXT, OK, OUT, RawDisk, SMALL, UNTOUCHED, WRITE, linked, request_header,
};

const HEADER: u64 = SMALL;
const STATUS: u64 = SMALL + 0x100;
const TABLE: u64 = SMALL + 0x1000;

const WITH_ERROR: (u8, u32) = (IOERR, 1);
const WITHOUT_STATUS: (u8, u32) = (UNTOUCHED, 0);

fn start(place: &Place) -> (Helper, RawDisk) {
    let helper = place.helper().start();
    let disk = RawDisk::start(helper.socket(), 1, 64);
    (helper, disk)
}

/// Puts `inner` at [`TABLE`], runs the chain `outer`, and checks that an honest request works after.
fn answer(disk: &mut RawDisk, inner: &[Desc], outer: &[Desc]) -> (u8, u32) {
    disk.memory.write(HEADER, &request_header(IN, 0));
    disk.memory.write(STATUS, &[UNTOUCHED]);
    let bytes: Vec<u8> = inner.iter().flat_map(|desc| desc.bytes()).collect();
    disk.memory.write(TABLE, &bytes);
    let used = disk.run(outer);
    let answer = (disk.memory.byte(STATUS), used.len);
    disk.assert_serves();
    answer
}

fn read_chain() -> Vec<Desc> {
    linked(&[
        Desc::readable(HEADER, 16),
        Desc::writable(DATA, 512),
        Desc::writable(STATUS, 1),
    ])
}

#[test]
fn a_request_in_an_indirect_table_is_served() {
    let place = Place::with_noise(1 << 20, 1);
    let (helper, mut disk) = start(&place);

    let got = answer(&mut disk, &read_chain(), &[Desc::indirect(TABLE, 3)]);

    assert_eq!(got, (OK, 513));
    assert_eq!(disk.memory.read(DATA, 512), place.content()[..512]);
    helper.terminate();
}

/// "The device MUST handle the case of zero or more normal chained descriptors followed by a single descriptor with
/// flags & VIRTQ_DESC_F_INDIRECT."
#[test]
fn a_chain_may_go_on_in_an_indirect_table() {
    let place = Place::with_noise(1 << 20, 2);
    let (helper, mut disk) = start(&place);
    let inner = linked(&[Desc::writable(DATA, 512), Desc::writable(STATUS, 1)]);

    let got = answer(
        &mut disk,
        &inner,
        &linked(&[Desc::readable(HEADER, 16), Desc::indirect(TABLE, 2)]),
    );

    assert_eq!(got, (OK, 513));
    assert_eq!(disk.memory.read(DATA, 512), place.content()[..512]);
    helper.terminate();
}

/// "The device MUST ignore the write-only flag in the descriptor that refers to an indirect table."
#[test]
fn the_write_flag_of_the_table_itself_is_ignored() {
    let place = Place::with_noise(1 << 20, 3);
    let (helper, mut disk) = start(&place);
    let outer = Desc {
        flags: INDIRECT | WRITE,
        ..Desc::indirect(TABLE, 3)
    };

    let got = answer(&mut disk, &read_chain(), &[outer]);

    assert_eq!(got, (OK, 513));
    helper.terminate();
}

#[test]
fn a_table_that_is_no_table_is_answered_with_an_error() {
    let place = Place::with_noise(1 << 20, 4);
    let (helper, mut disk) = start(&place);
    let chain = read_chain();
    let outer = Desc::indirect(TABLE, 3);

    let empty = answer(&mut disk, &chain, &[Desc { len: 0, ..outer }]);
    let odd = answer(&mut disk, &chain, &[Desc { len: 47, ..outer }]);
    let short = answer(&mut disk, &chain, &[Desc { len: 32, ..outer }]);
    let unmapped = answer(&mut disk, &chain, &[Desc { addr: 1 << 40, ..outer }]);
    let wrapping = answer(
        &mut disk,
        &chain,
        &[Desc {
            addr: u64::MAX - 20,
            ..outer
        }],
    );
    let huge = answer(
        &mut disk,
        &chain,
        &[Desc {
            len: 0xffff_fff0,
            ..outer
        }],
    );

    for got in [empty, odd, short, unmapped, wrapping, huge] {
        assert!([WITH_ERROR, WITHOUT_STATUS].contains(&got), "{got:?}");
    }
    helper.terminate();
}

/// "A driver MUST NOT set both VIRTQ_DESC_F_INDIRECT and VIRTQ_DESC_F_NEXT in flags." What a device does then is its own
/// affair: the table is the rest of the chain, or the chain is malformed.
#[test]
fn a_table_that_goes_on_is_served_or_refused() {
    let place = Place::with_noise(1 << 20, 10);
    let (helper, mut disk) = start(&place);
    let outer = [
        Desc {
            flags: INDIRECT | NEXT,
            next: 1,
            ..Desc::indirect(TABLE, 3)
        },
        Desc::writable(STATUS, 1),
    ];

    let got = answer(&mut disk, &read_chain(), &outer);

    assert!([(OK, 513), WITH_ERROR, WITHOUT_STATUS].contains(&got), "{got:?}");
    helper.terminate();
}

/// "A driver MUST NOT set the VIRTQ_DESC_F_INDIRECT flag within an indirect descriptor."
#[test]
fn a_table_in_a_table_is_answered_with_an_error() {
    let place = Place::with_noise(1 << 20, 5);
    let (helper, mut disk) = start(&place);

    let nested = answer(
        &mut disk,
        &[Desc::indirect(TABLE + 0x100, 3)],
        &[Desc::indirect(TABLE, 1)],
    );
    let in_itself = answer(&mut disk, &[Desc::indirect(TABLE, 1)], &[Desc::indirect(TABLE, 1)]);
    let last = answer(
        &mut disk,
        &linked(&[
            Desc::readable(HEADER, 16),
            Desc::writable(DATA, 512),
            Desc::indirect(TABLE, 3),
        ]),
        &[Desc::indirect(TABLE, 3)],
    );

    for got in [nested, in_itself, last] {
        assert!([WITH_ERROR, WITHOUT_STATUS].contains(&got), "{got:?}");
    }
    helper.terminate();
}

#[test]
fn a_cut_or_a_loop_in_a_table_is_answered_with_an_error() {
    let place = Place::with_noise(1 << 20, 6);
    let (helper, mut disk) = start(&place);

    for entry in 0..3 {
        for next in [3, 64, u16::MAX, 0, 1] {
            let mut inner = read_chain();
            inner[entry] = Desc {
                flags: inner[entry].flags | NEXT,
                next,
                ..inner[entry]
            };
            let regular = entry + 1 == usize::from(next);
            let got = answer(&mut disk, &inner, &[Desc::indirect(TABLE, 3)]);
            assert!(
                regular || [WITH_ERROR, WITHOUT_STATUS].contains(&got),
                "entry {entry} to {next}: {got:?}"
            );
        }
    }

    helper.terminate();
}

#[test]
fn tables_of_65535_entries_are_answered_with_an_error() {
    let place = Place::with_noise(1 << 20, 7);
    let (helper, mut disk) = start(&place);
    let table = |data: Desc| {
        let mut descs = vec![data; 65_535];
        descs[0] = Desc::readable(HEADER, 16);
        descs[65_534] = Desc::writable(STATUS, 1);
        linked(&descs)
    };
    let outer = [Desc::indirect(TABLE, 65_535)];

    // A mebibyte of table begins in the small area and ends in the data, which is the guest's own affair.
    let small = answer(&mut disk, &table(Desc::writable(DATA + (1 << 20), 512)), &outer);
    let huge = answer(
        &mut disk,
        &table(Desc {
            len: u32::MAX,
            ..Desc::writable(0, 0)
        }),
        &outer,
    );
    let empty = answer(&mut disk, &table(Desc::writable(DATA, 0)), &outer);

    for got in [small, huge, empty] {
        assert!([WITH_ERROR, WITHOUT_STATUS].contains(&got), "{got:?}");
    }
    helper.terminate();
}

/// More segments than the ring has entries, as long as the device advertised that many.
#[test]
fn as_many_segments_as_advertised_are_served() {
    let place = Place::with_noise(1 << 20, 8);
    let helper = place.helper().start();
    let mut disk = RawDisk::start(helper.socket(), 1, 64);
    let config = disk
        .wire
        .ask(
            tests::wire::code::GET_CONFIG,
            &[tests::wire::words(&[12, 4, 0]), vec![0; 4]].concat(),
        )
        .unwrap();
    let seg_max = u32::from_le_bytes(config.body[12..16].try_into().unwrap());
    let mut descs = vec![Desc::readable(HEADER, 16)];
    descs.extend((0..seg_max).map(|index| Desc::writable(DATA + 512 * u64::from(index), 512)));
    descs.push(Desc::writable(STATUS, 1));

    let got = answer(&mut disk, &linked(&descs), &[Desc::indirect(TABLE, seg_max + 2)]);

    assert!(seg_max >= 1);
    assert_eq!(got, (OK, seg_max * 512 + 1));
    helper.terminate();
}

#[test]
fn a_ring_of_two_serves_with_indirect_tables() {
    let place = Place::with_noise(1 << 20, 9);
    let helper = place.helper().start();
    let mut disk = RawDisk::start(helper.socket(), 1, 2);
    let bytes: Vec<u8> = linked(&[
        Desc::readable(HEADER, 16),
        Desc::readable(DATA, 512),
        Desc::writable(STATUS, 1),
    ])
    .iter()
    .flat_map(|desc| desc.bytes())
    .collect();
    disk.memory.write(TABLE, &bytes);

    for round in 0..100_u8 {
        disk.memory.write(HEADER, &request_header(OUT, u64::from(round)));
        disk.memory.write(DATA, &[round; 512]);
        disk.memory.write(STATUS, &[UNTOUCHED]);
        let used = disk.run(&[Desc::indirect(TABLE, 3)]);
        assert_eq!((disk.memory.byte(STATUS), used.len), (OK, 1), "round {round}");
    }

    helper.terminate();
}
