//! What must be true after a frontend misbehaved, whatever it did.
//!
//! The helper lives, serves the disk of an honest next client, and ends within a second of SIGTERM even while the
//! abuse goes on. It knows nothing of any particular abuse.

use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt::Linger};

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

/// A socket on whose closing the kernel waits for an hour, and the peer that lets it: who closes it last is held.
///
/// # Errors
///
/// Whatever the kernel says.
pub fn lingering() -> io::Result<(TcpStream, TcpListener)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let lingering = TcpStream::connect(listener.local_addr()?)?;
    let long = nix::libc::linger {
        l_onoff: 1,
        l_linger: 3600,
    };
    setsockopt(&lingering, Linger, &long)?;
    lingering.set_nonblocking(true)?;
    // Nobody reads: closing it waits for what was not sent.
    while (&lingering).write(&[0; 65536]).is_ok() {}
    lingering.set_nonblocking(false)?;
    Ok((lingering, listener))
}
