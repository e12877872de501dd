//! The moment of a save: what the guest notices of it.

use std::fs::OpenOptions;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use protocol::control::SaveState;
use tests::place::Place;
use tests::rng::Rng;

use crate::support::{RAW, await_end, begin, connect, operated, output};

/// What is going on: nothing, the moment being taken, the copy being made, the end.
const PHASES: usize = 4;

/// How long a guest waits is printed (`--nocapture`). `MAYFLY_SAVE_MIB=4096`, with the programs of a release, gives the figures in
/// docs/control.md.
#[test]
fn a_guest_is_answered_while_its_disk_is_frozen_and_copied() {
    let mebibytes: u64 = std::env::var("MAYFLY_SAVE_MIB").map_or(16, |number| number.parse().expect("a number"));
    let place = Place::with_noise(4096, 6);
    let large = place.dir().join("large");
    std::fs::write(&large, [7; 4096]).unwrap();
    let base = OpenOptions::new().write(true).open(&large).unwrap();
    base.set_len(mebibytes << 20).unwrap();
    let (helper, operator) = operated(place.helper().base(&large));
    let mut client = connect(&helper);
    for mebibyte in 0..mebibytes {
        client.write(mebibyte << 20, &vec![9; 1 << 20]);
    }

    let (phase, clusters) = (AtomicUsize::new(0), usize::try_from(mebibytes << 8).unwrap());
    let longest = std::thread::scope(|scope| {
        let guest = scope.spawn(|| {
            let (mut rng, mut longest) = (Rng::new(7), [Duration::ZERO; PHASES]);
            loop {
                let cluster = u64::try_from(rng.index(clusters)).unwrap();
                let (before, begun) = (phase.load(Ordering::SeqCst), Instant::now());
                client.write(cluster << 12, &[1; 4096]);
                let took = begun.elapsed();
                // It counts where it began and where it ended: it may have waited in either.
                let after = phase.load(Ordering::SeqCst);
                for longest in &mut longest[before..=after] {
                    *longest = took.max(*longest);
                }
                if after == PHASES - 1 {
                    return longest;
                }
            }
        });
        std::thread::sleep(Duration::from_millis(200));
        phase.store(1, Ordering::SeqCst);
        let begun = Instant::now();
        begin(&operator, RAW, &output(&place.dir().join("raw"))).unwrap();
        println!(
            "{mebibytes} MiB dirty: the moment was taken after {:?}",
            begun.elapsed()
        );
        phase.store(2, Ordering::SeqCst);
        let end = await_end(&operator);
        phase.store(3, Ordering::SeqCst);
        assert_eq!(end.state, SaveState::Done);
        guest.join().unwrap()
    });

    println!(
        "the longest request before, at the moment, during the copy: {:?}",
        &longest[..3]
    );
    assert!(
        longest[..3].iter().all(|longest| *longest > Duration::ZERO),
        "{longest:?}"
    );
    helper.terminate();
}
