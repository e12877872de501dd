//! vhost-user messages in every state, over a real socket pair, with requests in between: each is done, or the connection ends; and
//! nothing that a frontend sent stays open.
#![no_main]

use arbitrary::Arbitrary;
use blk_helper::fuzzing::{DiskSpec, Frontends};
use fuzz::descriptors;
use fuzz::guest::base;
use fuzz::vhost::{Act, Frontend};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Case {
    read_only: bool,
    require_seals: bool,
    /// What the frontend does, or that it leaves and the next one comes.
    acts: Vec<Option<Act>>,
}

fuzz_target!(|case: Case| {
    let spec = DiskSpec {
        base: &base(),
        read_only: case.read_only,
        encrypted: false,
        overlay_bytes: u64::MAX,
    };
    let mut backend = Frontends::new(&spec, case.require_seals);
    let before = descriptors();
    let (mut frontend, theirs) = Frontend::new();
    backend.connect(theirs);
    for act in case.acts.iter().take(64) {
        match act {
            Some(act) => frontend.act(act),
            None => {
                let (next, theirs) = Frontend::new();
                frontend = next;
                if backend.hang_up().is_err() {
                    break;
                }
                backend.connect(theirs);
            }
        }
        if backend.advance().is_err() {
            // The helper would end here, and says why.
            break;
        }
        backend.turn();
        frontend.listen();
    }
    drop(frontend);
    backend.turn();
    let _ = backend.hang_up();
    assert_eq!(descriptors(), before, "something is still open");
});
