//! What must be true after a frontend misbehaved, whatever it did.
//!
//! The helper lives, serves the disk of an honest next client, and ends within a second of SIGTERM even while the
//! abuse goes on. It knows nothing of any particular abuse.

use std::time::Duration;

use crate::client::{Client, Setup};
use crate::helper::Helper;
use crate::place::Place;

/// How long a helper may take to notice that a peer left or to turn one away.
pub const AT_ONCE: Duration = Duration::from_secs(2);

/// Lets `abuse` loose on two helpers: one is then asked to serve an honest client, the other to end meanwhile.
///
/// Whatever `abuse` returns is held, like a connection that stays open, until that was tried.
///
/// # Panics
///
/// If either fails.
pub fn survives<Held>(abuse: impl Fn(&Helper) -> Held) {
    let place = Place::with_noise(1 << 20, 1);

    let helper = place.helper().start();
    drop(abuse(&helper));
    assert_serves(helper, &place);

    let helper = place.helper().start();
    let held = abuse(&helper);
    helper.terminate();
    drop(held);
}

/// Checks that an honest client finds its disk, and ends the helper.
///
/// # Panics
///
/// If it does not.
pub fn assert_serves(mut helper: Helper, place: &Place) {
    helper.assert_alive();
    let mut client = Client::connect(
        helper.socket(),
        Setup {
            queues: 2,
            ..Setup::default()
        },
    );
    let content = place.content();
    assert!(
        client.read(0, content.len().min(1 << 20)) == content[..content.len().min(1 << 20)],
        "the honest client's disk"
    );
    drop(client);
    helper.terminate();
}
