//! Everything the process opens: the last time a path is looked up.

use crate::args::{BaseName, Config};
use crate::base::{Base, BaseError, BaseSource};
use crate::cipher::{Cipher, CipherError, Key};
use crate::clients::ControlDoor;
use crate::control::{Channel, NoChannel};
use crate::disk::{Disk, Medium};
use crate::door::{Admission, Door, DoorError, DoorSource, listen_at};
use crate::environment::{Environment, FIRST_PASSED};
use crate::events::Events;
use crate::key_memory::KeyMemoryFacts;
use crate::overlay::{CLUSTER_BYTES, Limits, Overlay, OverlayDir, OverlayFile, OverlayFileError, Scratch, map_bytes};
use crate::report::OverlayFacts;
use crate::save::Output;
use crate::shortage::Shortage;
use crate::throttle::Throttle;
use nix::errno::Errno;
use nix::sys::socket::SockType;
use policy::{Descriptor, Descriptors, Prepared, adopt};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;

/// Where overlays go when nobody says otherwise: on disk, unlike /tmp on many systems.
const DEFAULT_OVERLAY_DIR: &str = "/var/tmp";

/// The ways in for orders.
#[derive(Debug)]
pub(crate) struct Ways {
    pub(crate) operator: Option<Channel>,
    pub(crate) control_door: Option<ControlDoor>,
}

/// What the process opened.
#[derive(Debug)]
pub(crate) struct Resources {
    pub(crate) disk: Disk,
    pub(crate) overlay: Option<OverlayFacts>,
    /// One for each worker.
    pub(crate) scratches: Vec<Scratch>,
    /// What saving takes, and a reset: none of it for a read-only disk.
    pub(crate) saving: Option<SavingKit>,
    pub(crate) door: Door,
    pub(crate) admission: Admission,
    pub(crate) ways: Ways,
    pub(crate) events: Arc<Events>,
    pub(crate) notify: Option<UnixDatagram>,
}

/// What saving and resetting the disk take.
#[derive(Debug)]
pub(crate) struct SavingKit {
    pub(crate) scratch: Scratch,
    pub(crate) output: Output,
    /// The key of the overlay, if it is encrypted.
    pub(crate) key: Option<Arc<Key>>,
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
    #[error("cannot encrypt the overlay")]
    Cipher(#[source] CipherError),
    #[error("cannot reserve a descriptor for what is saved")]
    Output(#[source] io::Error),
    #[error("cannot reserve the address space for the cluster map")]
    Map(#[source] io::Error),
    #[error("no way in for a frontend")]
    Door(#[source] DoorError),
    #[error(
        "nobody could connect: give --socket-path, --fd, --control-fd or --control-path, or start blk-helper with a listening \
         socket (LISTEN_FDS)"
    )]
    NoDoor,
    #[error("the service manager passed {0} descriptors; exactly one listening socket is expected")]
    ManyDoors(u32),
    #[error("descriptor {0} was named for two purposes and cannot serve both")]
    Twice(RawFd),
    #[error("no way in for the operator")]
    Operator(#[source] NoChannel),
    #[error("no control channel")]
    ControlDoor(#[source] DoorError),
    #[error("cannot make the queue of events")]
    Events(#[source] Errno),
    #[error("cannot reach the service manager at NOTIFY_SOCKET")]
    Notify(#[source] io::Error),
}

impl Resources {
    /// Opens everything, for that many `workers`. Only a prepared process may: what it opens from here on, no other process
    /// gets at.
    ///
    /// # Errors
    /// [`OpenError`].
    pub(crate) fn open(
        _prepared: &Prepared,
        config: &Config,
        workers: usize,
        environment: &Environment,
        sources: Sources,
    ) -> Result<Self, OpenError> {
        let base = Base::open(sources.base, config.raw_anyway).map_err(OpenError::Base)?;
        let (scratches, saving, key_memory) = threads_own(workers, config)?;
        let (medium, overlay) = medium(base, config, environment.temporary.as_deref(), key_memory)?;
        let events = Arc::new(Events::new().map_err(OpenError::Events)?);
        Ok(Self {
            disk: Disk::new(
                medium,
                config.serial.0,
                Throttle::new(config.iops, config.bandwidth),
                Shortage::new(config.at_limit, Arc::clone(&events)),
            ),
            events,
            overlay,
            scratches,
            saving,
            door: Door::open(sources.door).map_err(OpenError::Door)?,
            admission: admission(config),
            ways: ways(sources.operator, config)?,
            notify: environment
                .notify
                .as_deref()
                .map(connect_notify)
                .transpose()
                .map_err(OpenError::Notify)?,
        })
    }
}

/// The ways in for orders: one that was handed over, and one to be made.
fn ways(operator: Option<OwnedFd>, config: &Config) -> Result<Ways, OpenError> {
    let listen = |path: &PathBuf| listen_at(path, SockType::SeqPacket).map(ControlDoor::new);
    Ok(Ways {
        operator: operator
            .map(Channel::inherited)
            .transpose()
            .map_err(OpenError::Operator)?,
        control_door: config
            .control_path
            .as_ref()
            .map(listen)
            .transpose()
            .map_err(OpenError::ControlDoor)?,
    })
}

/// Root's helper becomes another user; anybody else's stays what it is, whatever `--user` says.
fn admission(config: &Config) -> Admission {
    let me = nix::unistd::getuid();
    Admission::new(me.as_raw(), if me.is_root() { config.user.uid } else { me.as_raw() })
}

/// What comes from outside: the base, and the ways in.
#[derive(Debug)]
pub(crate) struct Sources {
    pub(crate) base: BaseSource,
    pub(crate) door: DoorSource,
    pub(crate) operator: Option<OwnedFd>,
}

impl Sources {
    /// The sources that the command line and the service manager name.
    ///
    /// # Errors
    /// [`OpenError`].
    pub(crate) fn named(config: &Config, environment: &Environment) -> Result<Self, OpenError> {
        let mut seen = BTreeSet::new();
        if let Some(twice) = Self::numbers(config, environment)
            .into_iter()
            .find(|number| !seen.insert(*number))
        {
            return Err(OpenError::Twice(twice));
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
            (None, None, 0) if config.control_fd.is_some() || config.control_path.is_some() => DoorSource::Closed,
            (None, None, 0) => return Err(OpenError::NoDoor),
            (None, None, passed) => return Err(OpenError::ManyDoors(passed)),
        };
        let operator = config.control_fd.map(take).transpose()?;
        Ok(Self { base, door, operator })
    }

    /// The inherited descriptors that they need.
    pub(crate) fn numbers(config: &Config, environment: &Environment) -> Vec<RawFd> {
        let base = match config.blk_file {
            Some(BaseName::Descriptor(number)) => Some(number),
            Some(BaseName::Path(_)) | None => None,
        };
        let activated = config.socket_path.is_none() && config.fd.is_none() && environment.passed == 1;
        let door = config.fd.or(activated.then_some(FIRST_PASSED));
        base.into_iter().chain(door).chain(config.control_fd).collect()
    }
}

impl Descriptors for Resources {
    fn descriptors(&self) -> Vec<Descriptor> {
        let mut list = disk_descriptors(&self.disk);
        list.extend(way_descriptors(&self.door, &self.ways));
        list.extend(
            self.saving
                .iter()
                .flat_map(|kit| output_descriptors(kit.output.numbers())),
        );
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
        let whats = [
            "overlay, nameless, read-write",
            "overlay for the next reset, nameless, read-write",
        ];
        list.extend(
            overlay
                .numbers()
                .into_iter()
                .zip(whats)
                .map(|(number, what)| Descriptor {
                    number,
                    what: what.into(),
                }),
        );
    }
    list
}

/// What keeps a number for what is saved.
pub(crate) fn output_descriptors(numbers: [RawFd; 2]) -> impl Iterator<Item = Descriptor> {
    let whats = [
        "place of a save's output, /dev/null until then",
        "/dev/null, for that place",
    ];
    numbers.into_iter().zip(whats).map(|(number, what)| Descriptor {
        number,
        what: what.into(),
    })
}

/// What the ways in keep open.
pub(crate) fn way_descriptors(door: &Door, ways: &Ways) -> Vec<Descriptor> {
    let what = match door {
        Door::Listening(_) => "listening socket",
        Door::Single(_) | Door::Closed => "connection to the frontend",
    };
    let door = door.number().map(|number| (number, what));
    let operator = ways.operator.as_ref().map(Channel::number);
    let control = ways.control_door.as_ref().map(ControlDoor::number);
    door.into_iter()
        .chain(operator.map(|number| (number, "control channel of the operator")))
        .chain(control.map(|number| (number, "listening socket of the control channel")))
        .map(|(number, what)| Descriptor {
            number,
            what: what.into(),
        })
        .collect()
}

/// What threads have of their own.
type ThreadsOwn = (Vec<Scratch>, Option<SavingKit>, Option<KeyMemoryFacts>);

/// What the workers and the saver need for themselves, with ciphers of one key if they are to encrypt.
fn threads_own(workers: usize, config: &Config) -> Result<ThreadsOwn, OpenError> {
    if config.read_only {
        return Ok(((0..workers).map(|_| Scratch::new(None)).collect(), None, None));
    }
    let threads = workers.saturating_add(1);
    let (mut scratches, key, facts): (Vec<_>, _, _) = if config.no_encrypt {
        ((0..threads).map(|_| Scratch::new(None)).collect(), None, None)
    } else {
        let (ciphers, facts) = Cipher::with_new_key(threads).map_err(OpenError::Cipher)?;
        let key = ciphers.first().map(Cipher::key);
        let scratches = ciphers.into_iter().map(|cipher| Scratch::new(Some(cipher)));
        (scratches.collect(), key, Some(facts))
    };
    let saving = match scratches.pop() {
        None => None,
        Some(scratch) => Some(SavingKit {
            scratch,
            output: Output::reserve().map_err(OpenError::Output)?,
            key,
        }),
    };
    Ok((scratches, saving, facts))
}

fn medium(
    base: Base,
    config: &Config,
    temporary: Option<&Path>,
    key_memory: Option<KeyMemoryFacts>,
) -> Result<(Medium, Option<OverlayFacts>), OpenError> {
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
    let create = || OverlayFile::create(&dir).map_err(OpenError::Overlay);
    let files = [create()?, create()?];
    let set = Limits {
        overlay_bytes: config.overlay_limit.unwrap_or(u64::MAX),
        map_bytes: config.map_limit.unwrap_or(u64::MAX),
        keep_free_bytes: config.keep_free,
    };
    let bytes = base.capacity().bytes();
    let facts = OverlayFacts::new(&dir.path, in_force(set, bytes), bytes, key_memory);
    let overlay = Overlay::new(base, files, set).map_err(OpenError::Map)?;
    Ok((Medium::Burning(overlay), Some(facts)))
}

/// The limits in force: what an operator set, and never more than the disk can need as large as it is.
fn in_force(set: Limits, disk_bytes: u64) -> Limits {
    let most_overlay = disk_bytes.next_multiple_of(CLUSTER_BYTES);
    Limits {
        overlay_bytes: set.overlay_bytes.min(most_overlay),
        map_bytes: set.map_bytes.min(map_bytes(disk_bytes)),
        keep_free_bytes: set.keep_free_bytes,
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
