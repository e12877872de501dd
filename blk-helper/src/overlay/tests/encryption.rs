//! What of a disk reaches the medium.

use super::*;

#[test]
fn the_file_holds_nothing_that_a_guest_wrote_or_read() {
    const MARK: [u8; 16] = *b"nobody sees this";
    let shown = |encrypted| {
        let mut bench = Bench::with_or_without_cipher(64 * CLUSTER, UNLIMITED, encrypted);
        bench.write(0, &mut MARK.repeat(20 * CLUSTER / 16)).unwrap();
        bench.write(163, &mut MARK.repeat(SECTOR / 16)).unwrap();
        bench.write(1, &mut MARK.repeat(SECTOR / 16)).unwrap();
        bench.write_zeroes(3, 2).unwrap();
        bench.check();
        let medium = medium(&bench);
        let marks = medium.windows(16).filter(|window| *window == MARK).count();
        // Slot 20: a filled cluster, most of it from the base.
        let of_base = medium.ends_with(&bench.pristine[21 * CLUSTER - SECTOR..21 * CLUSTER]);
        (medium.len(), marks > 0, of_base)
    };
    assert_eq!(shown(false), (21 * CLUSTER, true, true));
    assert_eq!(shown(true), (21 * CLUSTER, false, false));
}

#[test]
fn a_partial_write_leaves_the_rest_of_the_cluster_as_it_lies_on_the_medium() {
    let mut bench = Bench::new(4 * CLUSTER, UNLIMITED);
    bench.write(0, &mut [0xaa; 3 * CLUSTER]).unwrap();
    let before = medium(&bench);

    bench.write(9, &mut [0xbb; 2 * SECTOR]).unwrap();
    bench.write_zeroes(12, 1).unwrap();

    bench.check();
    for (sector, (old, new)) in before.chunks(SECTOR).zip(medium(&bench).chunks(SECTOR)).enumerate() {
        assert_eq!(old == new, ![9, 10, 12].contains(&sector), "sector {sector}");
    }
}
