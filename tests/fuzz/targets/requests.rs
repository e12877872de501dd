//! Descriptor chains and requests of any shape, one by one, against the model: the same answers, the same bytes in memory, the
//! same disk.
#![no_main]

use arbitrary::Arbitrary;
use fuzz::guest::{Bench, Chain, Kind, RING_END, USED_RING, base};
use fuzz::model::{Answer, Model, Shape, walk};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Case {
    kind: Kind,
    chains: Vec<(Chain, bool)>,
}

/// Does one; says whether the ring can be trusted afterwards.
fn step(bench: &mut Bench, model: &mut Model, kind: Kind, chain: &Chain, must_kick: bool) -> bool {
    let head = bench.offer(chain);
    let before = bench.snapshot();
    let (index, ..) = Bench::used(&before);
    let shape = walk(&before, head);
    while bench.guest.turn(must_kick) && must_kick {}
    let mut after = bench.snapshot();
    let (now, id, length) = Bench::used(&after);

    let (sent, room) = match shape {
        Shape::Sound { sent, room } if !Model::is_suicide(&room) => (sent, room),
        Shape::Bad => {
            // A head that is none is not answered, and the ring is broken then.
            let changed = (0..before.len()).filter(|at| !USED_RING.contains(at) && before[*at] != after[*at]);
            assert!(
                now.wrapping_sub(index) <= 1 && changed.count() <= 1,
                "a bad chain wrote memory"
            );
            return now != index && before[..0x800] == after[..0x800];
        }
        Shape::Sound { .. } | Shape::Doubtful => {
            model.disk = bench.guest.disk();
            return false;
        }
    };
    assert_eq!(
        (now, id),
        (index.wrapping_add(1), u32::from(head)),
        "answered once, as itself"
    );
    let (status_at, data_room) = room.split_last().expect("it is sound");
    let status = after[*status_at];
    let old = model.disk.clone();
    let answer = model.execute(&sent, room.len());
    let written = match answer {
        Answer::Ok(_) if kind.is_limited() && status == 1 => {
            // For want of space: each sector is as it was or as it was to be.
            let disk = bench.guest.disk();
            for ((is, was), new) in disk.chunks(512).zip(old.chunks(512)).zip(model.disk.chunks(512)) {
                assert!(is == was || is == new, "a sector that nobody wrote");
            }
            model.disk = disk;
            Vec::new()
        }
        Answer::Ok(written) => {
            assert_eq!(status, 0, "it failed");
            written
        }
        Answer::Failed => {
            assert!(status == 1 || status == 2, "it succeeded: {status}");
            Vec::new()
        }
    };
    assert_eq!(length as usize, written.len() + 1, "the length of the answer");
    let mut expected = before;
    for (at, byte) in data_room.iter().zip(written) {
        expected[*at] = byte;
    }
    expected[*status_at] = status;
    after[..RING_END].fill(0);
    expected[..RING_END].fill(0);
    assert!(after == expected, "other bytes in memory");
    true
}

fuzz_target!(|case: Case| {
    let mut bench = Bench::new(case.kind);
    let mut model = Model::new(case.kind.is_read_only());
    for (chain, must_kick) in case.chains.iter().take(32) {
        if !step(&mut bench, &mut model, case.kind, chain, *must_kick) {
            break;
        }
    }
    assert!(bench.guest.disk() == model.disk, "another disk");
    if case.kind.is_read_only() {
        assert_eq!(model.disk[..base().len()], base());
    }
});
