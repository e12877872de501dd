//! Everything the process opens: the last time a path is looked up.

use crate::args::{BaseName, Config};
use crate::base::{Base, BaseError, BaseSource};
use crate::disk::{Disk, Medium};
use crate::door::{Admission, Door, DoorError, DoorSource};
use crate::environment::{Environment, FIRST_PASSED};
use crate::overlay::{CLUSTER_BYTES, Limits, Overlay, OverlayDir, OverlayFile, OverlayFileError};
use crate::report::OverlayFacts;
use crate::sys::adopt;
use nix::errno::Errno;
use policy::{Descriptor, Descriptors, Prepared};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use thiserror::Error;

/// Where overlays go when nobody says otherwise: on disk, unlike /tmp on many systems.
const DEFAULT_OVERLAY_DIR: &str = "/var/tmp";

/// What the process opened.
#[derive(Debug)]
pub(crate) struct Resources {
    pub(crate) disk: Disk,
    pub(crate) overlay: Option<OverlayFacts>,
    pub(crate) door: Door,
    pub(crate) admission: Admission,
    pub(crate) notify: Option<UnixDatagram>,
}

/// Why something could not be opened.
#[derive(Debug, Error)]
pub(crate) enum OpenError {
    #[error("cannot take over descriptor {number}")]
    Adopt {
        number: RawFd,
        #[source]
        source: Errno,
    },
    #[error("no base: give --blk-file")]
    NoBase,
    #[error("cannot serve the base")]
    Base(#[source] BaseError),
    #[error("no overlay")]
    Overlay(#[source] OverlayFileError),
    #[error("cannot reserve the address space for the cluster map")]
    Map(#[source] io::Error),
    #[error("no way in for a frontend")]
    Door(#[source] DoorError),
    #[error(
        "nobody could connect: give --socket-path or --fd, or start blk-helper with a listening socket (LISTEN_FDS)"
    )]
    NoDoor,
    #[error("the service manager passed {0} descriptors; exactly one listening socket is expected")]
    ManyDoors(u32),
    #[error("descriptor {0} cannot be both the base and the socket")]
    Twice(RawFd),
    #[error("cannot reach the service manager at NOTIFY_SOCKET")]
    Notify(#[source] io::Error),
}

impl Resources {
    /// Opens everything. Only a prepared process may: what it opens from here on, no other process gets at.
    ///
    /// # Errors
    /// [`OpenError`].
    pub(crate) fn open(
        _prepared: &Prepared,
        config: &Config,
        environment: &Environment,
        sources: Sources,
    ) -> Result<Self, OpenError> {
        let base = Base::open(sources.base, config.raw_anyway).map_err(OpenError::Base)?;
        let (medium, overlay) = medium(base, config, environment.temporary.as_deref())?;
        Ok(Self {
            disk: Disk::new(medium, config.serial.0),
            overlay,
            door: Door::open(sources.door).map_err(OpenError::Door)?,
            admission: admission(config),
            notify: environment
                .notify
                .as_deref()
                .map(connect_notify)
                .transpose()
                .map_err(OpenError::Notify)?,
        })
    }
}

/// Root's helper becomes another user; anybody else's stays what it is, whatever `--user` says.
fn admission(config: &Config) -> Admission {
    let me = nix::unistd::getuid();
    Admission::new(me.as_raw(), if me.is_root() { config.user.uid } else { me.as_raw() })
}

/// What comes from outside: the base, and the way in.
#[derive(Debug)]
pub(crate) struct Sources {
    pub(crate) base: BaseSource,
    pub(crate) door: DoorSource,
}

impl Sources {
    /// The sources that the command line and the service manager name.
    ///
    /// # Errors
    /// [`OpenError`].
    pub(crate) fn named(config: &Config, environment: &Environment) -> Result<Self, OpenError> {
        let numbers = Self::numbers(config, environment);
        if let [one, other, ..] = numbers[..]
            && one == other
        {
            return Err(OpenError::Twice(one));
        }
        let take = |number| adopt(number).map_err(|source| OpenError::Adopt { number, source });
        let base = match &config.blk_file {
            Some(BaseName::Path(path)) => BaseSource::Path(path.clone()),
            Some(BaseName::Descriptor(number)) => BaseSource::Descriptor(take(*number)?),
            None => return Err(OpenError::NoBase),
        };
        let door = match (&config.socket_path, config.fd, environment.passed) {
            (Some(path), _, _) => DoorSource::Path(path.clone()),
            (None, Some(number), _) => DoorSource::Connection(take(number)?),
            (None, None, 1) => DoorSource::Listener(take(FIRST_PASSED)?),
            (None, None, 0) => return Err(OpenError::NoDoor),
            (None, None, passed) => return Err(OpenError::ManyDoors(passed)),
        };
        Ok(Self { base, door })
    }

    /// The inherited descriptors that they need.
    pub(crate) fn numbers(config: &Config, environment: &Environment) -> Vec<RawFd> {
        let base = match config.blk_file {
            Some(BaseName::Descriptor(number)) => Some(number),
            Some(BaseName::Path(_)) | None => None,
        };
        let activated = config.socket_path.is_none() && config.fd.is_none() && environment.passed == 1;
        let door = config.fd.or(activated.then_some(FIRST_PASSED));
        base.into_iter().chain(door).collect()
    }
}

impl Descriptors for Resources {
    fn descriptors(&self) -> Vec<Descriptor> {
        let mut list = disk_descriptors(&self.disk);
        list.push(door_descriptor(&self.door));
        list.extend(self.notify.as_ref().map(|socket| Descriptor {
            number: socket.as_raw_fd(),
            what: "socket to the service manager".into(),
        }));
        list
    }
}

/// What a disk keeps open.
pub(crate) fn disk_descriptors(disk: &Disk) -> Vec<Descriptor> {
    let mut list = vec![Descriptor {
        number: disk.medium().base().number(),
        what: "base, read-only".into(),
    }];
    if let Medium::Burning(overlay) = disk.medium() {
        list.push(Descriptor {
            number: overlay.file().number(),
            what: "overlay, nameless, read-write".into(),
        });
    }
    list
}

/// What a door keeps open.
pub(crate) fn door_descriptor(door: &Door) -> Descriptor {
    Descriptor {
        number: door.number(),
        what: match door {
            Door::Listening(_) => "listening socket".into(),
            Door::Single(_) => "connection to the frontend".into(),
        },
    }
}

fn medium(base: Base, config: &Config, temporary: Option<&Path>) -> Result<(Medium, Option<OverlayFacts>), OpenError> {
    if config.read_only {
        return Ok((Medium::ReadOnly(base), None));
    }
    let named = config.overlay_dir.is_some();
    let path = config
        .overlay_dir
        .as_deref()
        .or(temporary)
        .unwrap_or(Path::new(DEFAULT_OVERLAY_DIR))
        .to_owned();
    let dir = OverlayDir { path, named };
    let file = OverlayFile::create(&dir).map_err(OpenError::Overlay)?;
    let limits = limits(config, base.capacity().bytes());
    let facts = OverlayFacts::new(&dir.path, limits, base.capacity().bytes());
    let overlay = Overlay::new(base, file, limits).map_err(OpenError::Map)?;
    Ok((Medium::Burning(overlay), Some(facts)))
}

/// The limits in force: what an operator set, and never more than the disk can need.
fn limits(config: &Config, disk_bytes: u64) -> Limits {
    let clusters = disk_bytes.div_ceil(CLUSTER_BYTES);
    let most_overlay = clusters.saturating_mul(CLUSTER_BYTES);
    let most_map = clusters.saturating_mul(4).next_multiple_of(4096);
    Limits {
        overlay_bytes: config.overlay_limit.unwrap_or(u64::MAX).min(most_overlay),
        map_bytes: config.map_limit.unwrap_or(u64::MAX).min(most_map),
    }
}

/// Connects to the socket that sd_notify(3) names: a path, or an abstract name behind an `@`.
fn connect_notify(name: &OsStr) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    socket.connect_addr(&address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}
