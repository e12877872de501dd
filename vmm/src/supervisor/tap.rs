//! Taps: the host's end of a network card, opened by name or inherited, and made what the VMM expects (contract.rs).

use super::words::Tap;
use crate::sys;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::stat::Mode;
use std::os::fd::OwnedFd;
use std::path::Path;
use thiserror::Error;

/// The header of virtio 1.x before each frame.
const HEADER_BYTES: i32 = 12;

/// Why there is no tap.
#[derive(Debug, Error)]
pub(crate) enum TapError {
    #[error(
        "cannot open /dev/net/tun, through which taps are reached; load the module tun, or pass the device on to this container"
    )]
    NoTun(#[source] Errno),
    #[error(
        "there is no network interface {0}; make the tap for whoever starts mayfly \
         (sudo ip tuntap add {0} mode tap user $USER, then sudo ip link set {0} up)"
    )]
    Missing(String),
    #[error("the tap {0} is in use by another program; each network card needs a tap of its own")]
    Busy(String),
    #[error("this user may not use the tap {0}; make it for this user (sudo ip tuntap add {0} mode tap user $USER)")]
    Denied(String),
    #[error(
        "{0} is a network interface, but no tap that fits; make one (ip tuntap add ... mode tap), without multi_queue"
    )]
    Unfit(String),
    #[error("cannot attach to the tap {name}")]
    Attach {
        name: String,
        #[source]
        source: Errno,
    },
    #[error(
        "descriptor {number} (--net fd={number}) is not open, or no tap with a virtio header (IFF_TAP, IFF_NO_PI, IFF_VNET_HDR)"
    )]
    Descriptor {
        number: i32,
        #[source]
        source: Errno,
    },
}

/// Opens a tap.
///
/// # Errors
/// [`TapError`].
pub(crate) fn open_tap(tap: &Tap) -> Result<OwnedFd, TapError> {
    match tap {
        Tap::Name(name) => by_name(name),
        Tap::Descriptor(number) => by_number(*number).map_err(|source| TapError::Descriptor {
            number: *number,
            source,
        }),
    }
}

fn by_name(name: &str) -> Result<OwnedFd, TapError> {
    // Attaching to a name that is not there would make the interface, which a typing error should not.
    if !Path::new("/sys/class/net").join(name).exists() {
        return Err(TapError::Missing(name.to_owned()));
    }
    let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let tap = open("/dev/net/tun", flags, Mode::empty()).map_err(TapError::NoTun)?;
    let mode = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    let attached = sys::attach_tap(&tap, name, mode).and_then(|()| sys::set_tap_header(&tap, HEADER_BYTES));
    attached.map_err(|errno| TapError::of_attaching(name, errno))?;
    Ok(tap)
}

impl TapError {
    /// What it means that a tap which is there cannot be attached to.
    fn of_attaching(name: &str, errno: Errno) -> Self {
        let name = name.to_owned();
        if errno == Errno::EBUSY {
            Self::Busy(name)
        } else if matches!(errno, Errno::EPERM | Errno::EACCES) {
            Self::Denied(name)
        } else if errno == Errno::EINVAL {
            Self::Unfit(name)
        } else {
            Self::Attach { name, source: errno }
        }
    }
}

/// Takes over a tap that was inherited. Once for each number: `Settings` has seen to that.
fn by_number(number: i32) -> Result<OwnedFd, Errno> {
    let tap = policy::adopt(number)?;
    let wanted = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    if sys::tap_flags(&tap)? & wanted != wanted {
        return Err(Errno::EINVAL);
    }
    sys::set_tap_header(&tap, HEADER_BYTES)?;
    // It was given to us, open file and all.
    fcntl(&tap, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    fcntl(&tap, FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
    Ok(tap)
}
