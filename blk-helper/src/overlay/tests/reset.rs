//! Resets, with what the last one left given back, or not.

use super::*;

impl Bench {
    fn reset(&mut self, give_back: bool) {
        self.overlay.reset();
        if give_back {
            self.overlay.give_back_leftover();
        }
        let bytes = self.model.len();
        self.model.clone_from(&self.pristine);
        self.model.resize(bytes, 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn after_each_reset_the_disk_is_the_base_whatever_is_still_in_its_file(
        tail in 0usize..9000, encrypted: bool, rounds in prop::collection::vec((any::<bool>(), operations()), 1..6)
    ) {
        let mut bench = Bench::with_or_without_cipher((2 << 20) + 100_000 + tail, UNLIMITED, encrypted);
        for (give_back, operations) in rounds {
            bench.apply(operations);
            bench.check();
            bench.reset(give_back);
            prop_assert_eq!(bench.in_use(), 0);
            bench.check();
        }
    }
}

#[test]
fn resets_need_no_space_given_back_and_the_space_they_take_is_bounded() {
    let mut bench = Bench::new(1 << 20, UNLIMITED);
    let disk = |bench: &Bench| {
        bench
            .overlay
            .store
            .file()
            .both()
            .each_ref()
            .map(OverlayFile::disk_usage)
    };
    for _ in 0..10 {
        bench.write(0, &mut [7; 1 << 20]).unwrap();
        bench.reset(false);
        bench.check();
    }
    let [first, second] = disk(&bench);
    assert!(first <= 2 << 20 && second <= 2 << 20, "{first} and {second} bytes");

    bench.reset(true);
    bench.reset(true);
    bench.check();
    assert_eq!(disk(&bench), [0, 0]);
}
