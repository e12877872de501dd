//! The same chains, many at a time, while somebody else changes the guest's memory: whatever comes of the requests, nothing panics,
//! the sanitizer sees nothing, each turn ends, and then the disk can be read; one without an overlay is still its base.
#![no_main]

use arbitrary::Arbitrary;
use fuzz::guest::{Bench, Chain, Kind, MEMORY, base};
use libfuzzer_sys::fuzz_target;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

#[derive(Arbitrary, Debug)]
struct Case {
    kind: Kind,
    chains: Vec<Chain>,
    /// Where, and what; most of it in the ring.
    flips: Vec<(u16, u8, bool)>,
}

/// Turns of the worker. It need not come to rest: the flips can refill the available ring as long as they go on.
const TURNS: usize = 8;

fuzz_target!(|case: Case| {
    let mut bench = Bench::new(case.kind);
    for chain in case.chains.iter().take(16) {
        bench.offer(chain);
    }
    let over = AtomicBool::new(false);
    let memory = bench.memory.try_clone().expect("there are descriptors");
    thread::scope(|scope| {
        let flipper = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) && !case.flips.is_empty() {
                for (at, byte, low) in case.flips.iter().take(64) {
                    // The file has the lower half of memory behind the upper one.
                    let at = if *low {
                        0x8000 + usize::from(*at % 0x2000)
                    } else {
                        usize::from(*at)
                    };
                    memory
                        .write_all_at(&[*byte], (at % MEMORY) as u64)
                        .expect("there is memory");
                }
            }
        });
        for turn in 0..TURNS {
            bench.guest.turn(turn % 2 == 0);
        }
        over.store(true, Ordering::Relaxed);
        // Not left to the scope, which does not wait until the thread has put its things away.
        flipper.join().expect("it does not panic");
    });
    let disk = bench.guest.disk();
    if case.kind.is_read_only() {
        assert_eq!(disk[..base().len()], base());
    }
});
