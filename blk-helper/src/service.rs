//! The device as it is about to be served: disk, rings, workers, and the door.

use crate::args::Config;
use crate::backend::Backend;
use crate::base::Stamp;
use crate::bell::{Bell, Nudge};
use crate::chain::SEG_MAX;
use crate::cipher::Key;
use crate::clients::ControlDoor;
use crate::disk::{Disk, Medium, ZERO_LIMITS};
use crate::door::{Admission, Door};
use crate::events::Events;
use crate::guest_memory::{Memory, SharedMemory};
use crate::limits::NothingToLimit;
use crate::overlay::Scratch;
use crate::report::DiskFacts;
use crate::resources::{Resources, SavingKit, Ways, disk_descriptors, output_descriptors, way_descriptors};
use crate::ring::Ring;
use crate::save::Saver;
use crate::staff::{Member, StaffError};
use crate::stats::{Statistics, Tally};
use crate::warmer::{Warmer, Warming};
use crate::watch::{Watch, Watcher};
use crate::worker::Draining;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags};
use nix::unistd::Pid;
use policy::forbidden::Targets;
use policy::seccomp::Filter;
use policy::seccomp::helper::{HelperDescriptors, helper_filter};
use policy::{Descriptor, Descriptors, Report, ThreadEvidence};
use protocol::config_space::Geometry;
use protocol::control::{Confinement, Event, Limits, LimitsChange, Stats, Status};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use thiserror::Error;

/// Everything that serving takes.
pub(crate) struct Service {
    pub(crate) facts: DiskFacts,
    pub(crate) door: Door,
    pub(crate) admission: Admission,
    pub(crate) ways: Ways,
    pub(crate) events: Arc<Events>,
    pub(crate) notify: Option<UnixDatagram>,
    pub(crate) exit_on_disconnect: Option<Duration>,
    pub(crate) control: Epoll,
    pub(crate) workers: Vec<Member>,
    warmer: Member,
    /// None for a read-only disk.
    pub(crate) saver: Option<Saver>,
    key: Option<Arc<Key>>,
    watch: Arc<Watch>,
    statistics: Statistics,
    pub(crate) backend: Arc<Mutex<Backend>>,
    disk: Arc<Disk>,
}

/// Why the device is not ready to be served.
#[derive(Debug, Error)]
pub(crate) enum ServiceError {
    #[error("cannot set up {what}")]
    Setup {
        what: &'static str,
        #[source]
        source: Errno,
    },
    #[error("cannot make a ring of {size} descriptors")]
    Ring {
        size: u16,
        #[source]
        source: virtio_queue::Error,
    },
    #[error("the threads are not ready")]
    Staff(#[source] StaffError),
}

impl Service {
    /// Makes the rings and starts the workers. The last moment at which threads can be started.
    ///
    /// # Errors
    /// [`ServiceError`].
    pub(crate) fn start(resources: Resources, config: &Config, cpus: usize) -> Result<Self, ServiceError> {
        let setup = |what| move |source| ServiceError::Setup { what, source };
        let control = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(setup("the control loop"))?;
        let disk = Arc::new(resources.disk);
        let memory = SharedMemory::new(Memory::new());
        let count = config.workers(cpus);
        let bells = (0..count)
            .map(|_| Bell::new().map(Arc::new))
            .collect::<Result<Vec<_>, _>>()
            .map_err(setup("a worker's bell"))?;
        let bell = Bell::new().map(Arc::new).map_err(setup("the warmer's bell"))?;
        let warmer = Arc::new(Warmer::new(Arc::clone(&bell)));
        let rings = rings(config, &memory, &bells, &warmer)?;
        let watch = Arc::new(Watch::default());
        let statistics = Statistics::new(count);
        let own = resources.scratches.into_iter().zip(statistics.tallies());
        let poll = Duration::from_micros(config.poll.into());
        let workers = workers(&rings, &bells, &watch, &disk, own, poll)?;
        let warming = Warming {
            warmer,
            disk: Arc::clone(&disk),
        };
        let warmer = Member::start("blk-warmer".into(), bell, warming).map_err(ServiceError::Staff)?;
        let (saver, key) = saver(&disk, resources.saving, &resources.events)?;

        let geometry = geometry(&disk, config);
        let backend = Backend::new(Arc::clone(&disk), geometry, rings, memory, config.require_seals);
        let shape = (config.num_queues, config.queue_size);
        Ok(Self {
            facts: DiskFacts::new(&disk, resources.overlay, shape, count),
            door: resources.door,
            admission: resources.admission,
            ways: resources.ways,
            events: resources.events,
            notify: resources.notify,
            exit_on_disconnect: config.exit_on_disconnect,
            control,
            workers,
            warmer,
            saver,
            key,
            watch,
            statistics,
            backend: Arc::new(Mutex::new(backend)),
            disk,
        })
    }

    /// The filter for exactly this process: its lines name the descriptors they are for.
    pub(crate) fn filter(&self) -> Filter {
        let overlay = match self.disk.medium() {
            Medium::ReadOnly(_) => None,
            Medium::Burning(overlay) => Some(overlay.numbers()),
        };
        helper_filter(&HelperDescriptors {
            base: self.disk.medium().base().number(),
            overlay,
            encrypted: self.facts.is_encrypted(),
            output: self.saver.as_ref().map(Saver::output),
            listener: match &self.door {
                Door::Listening(listener) => Some(listener.as_raw_fd()),
                Door::Single(_) | Door::Closed => None,
            },
            control: self.ways.operator.as_ref().map(|channel| channel.number()),
            control_listener: self.ways.control_door.as_ref().map(ControlDoor::number),
        })
    }

    /// The disk.
    pub(crate) fn disk(&self) -> &Disk {
        &self.disk
    }

    /// The key that a reset renews.
    pub(crate) fn key(&self) -> Option<&Key> {
        self.key.as_deref()
    }

    /// What a taken-over process would aim at; `parent` was asked for while that was possible.
    pub(crate) fn targets(&self, parent: Pid) -> Targets {
        Targets {
            base: Some(self.disk.medium().base().number()),
            overlay: match self.disk.medium() {
                Medium::ReadOnly(_) => None,
                Medium::Burning(overlay) => Some(overlay.file().number()),
            },
            output: self.saver.as_ref().map(|saver| saver.output()[0]),
            ..Targets::new(parent)
        }
    }

    /// Tells the service manager, if there is one, that frontends may come.
    ///
    /// # Errors
    /// When the manager's socket does not take it.
    pub(crate) fn announce(&self) -> nix::Result<()> {
        match &self.notify {
            None => Ok(()),
            Some(socket) => nix::unistd::write(socket, b"READY=1\n").map(|_| ()),
        }
    }

    /// What the status of the base's file says of its content now.
    ///
    /// # Errors
    /// Whatever the kernel says; an open file always answers.
    pub(crate) fn base_stamp(&self) -> Result<Stamp, Errno> {
        self.disk.medium().base().stamp()
    }

    /// How things are, for the operator.
    pub(crate) fn status(&self, connected: bool, report: &Report) -> Status {
        let overlay = match self.disk.medium() {
            Medium::ReadOnly(_) => None,
            Medium::Burning(overlay) => Some(overlay.status(self.facts.is_encrypted())),
        };
        let (save, previous_save) = self.saver.as_ref().map_or((None, None), Saver::status);
        Status {
            disk_bytes: self.disk.capacity().bytes(),
            connected,
            base: self.disk.medium().base().status(),
            overlay,
            limits: self.disk.limits(),
            save,
            previous_save,
            confinement: confinement(report),
        }
    }

    /// What was counted, for the operator.
    pub(crate) fn stats(&self) -> Stats {
        self.statistics.total(&self.events)
    }

    /// Changes limits, and has a look at queues that wait because of the old ones. The limits now in force.
    ///
    /// # Errors
    /// [`NothingToLimit`].
    pub(crate) fn change_limits(&self, change: &LimitsChange) -> Result<Limits, NothingToLimit> {
        self.disk.change_limits(change)?;
        let backend = self.backend.lock().unwrap_or_else(PoisonError::into_inner);
        backend.nudge_rings();
        let limits = self.disk.limits();
        self.events.emit(Event::LimitsChanged { limits });
        Ok(limits)
    }

    /// Does a piece of the control thread's work, with the workers watching that it ends.
    pub(crate) fn watched<T>(&self, work: impl FnOnce() -> T) -> T {
        self.watch.begin();
        for worker in &self.workers {
            worker.bell().ring();
        }
        let done = work();
        self.watch.end();
        done
    }

    /// Collects from each thread what the kernel says of it under the filter.
    ///
    /// # Errors
    /// [`StaffError`].
    pub(crate) fn prove(&self) -> Result<Vec<ThreadEvidence>, StaffError> {
        let saver = self.saver.iter().map(Saver::member);
        let all = self.workers.iter().chain([&self.warmer]).chain(saver);
        all.map(Member::prove).collect()
    }
}

impl Descriptors for Service {
    fn descriptors(&self) -> Vec<Descriptor> {
        let described = |number, what: &str| Descriptor {
            number,
            what: what.into(),
        };
        let mut list = disk_descriptors(&self.disk);
        list.extend(way_descriptors(&self.door, &self.ways));
        list.push(described(self.control.0.as_raw_fd(), "epoll of the control thread"));
        list.push(described(self.events.number(), "bell of the control thread"));
        let workers = self.workers.iter().map(|worker| (worker, "a worker"));
        for (member, whose) in workers.chain([(&self.warmer, "the warmer")]) {
            let [epoll, bell] = member.bell().numbers();
            list.push(described(epoll, &format!("epoll of {whose}")));
            list.push(described(bell, &format!("bell of {whose}")));
        }
        if let Some(saver) = &self.saver {
            let [epoll, bell] = saver.member().bell().numbers();
            list.push(described(epoll, "epoll of the saver"));
            list.push(described(bell, "bell of the saver"));
            list.extend(output_descriptors(saver.output()));
        }
        if let Some(socket) = &self.notify {
            list.push(described(socket.as_raw_fd(), "socket to the service manager"));
        }
        list
    }
}

/// The names of the layers in force, and of those that are not.
fn confinement(report: &Report) -> Confinement {
    let named = |achieved| {
        let layers = report.layers.iter().filter(move |layer| layer.achieved == achieved);
        layers.map(|layer| layer.name.to_owned()).collect()
    };
    Confinement {
        in_force: named(true),
        missing: named(false),
    }
}

/// The saver, for a disk that can be saved, and the key that a reset renews.
fn saver(
    disk: &Arc<Disk>,
    kit: Option<SavingKit>,
    events: &Arc<Events>,
) -> Result<(Option<Saver>, Option<Arc<Key>>), ServiceError> {
    let Some(SavingKit { scratch, output, key }) = kit else {
        return Ok((None, None));
    };
    let bell = Bell::new().map(Arc::new).map_err(|source| ServiceError::Setup {
        what: "the saver's bell",
        source,
    })?;
    let saver =
        Saver::start(Arc::clone(disk), (scratch, output), bell, Arc::clone(events)).map_err(ServiceError::Staff)?;
    Ok((Some(saver), key))
}

/// What a driver is told about the disk.
fn geometry(disk: &Disk, config: &Config) -> Geometry {
    Geometry {
        capacity: disk.capacity(),
        seg_max: SEG_MAX,
        num_queues: config.num_queues,
        zeroing: (!disk.is_read_only()).then_some(ZERO_LIMITS),
    }
}

/// One ring for each queue, each with the bell of the worker that drains it.
fn rings(
    config: &Config,
    memory: &SharedMemory,
    bells: &[Arc<Bell>],
    warmer: &Arc<Warmer>,
) -> Result<Vec<Arc<Ring>>, ServiceError> {
    let size = config.queue_size;
    (0..usize::from(config.num_queues))
        .zip(bells.iter().cycle())
        .map(|(index, bell)| {
            let nudge = Nudge::new(Arc::clone(bell));
            Ring::new(index, size, memory.clone(), nudge, Arc::clone(warmer))
                .map(Arc::new)
                .map_err(|source| ServiceError::Ring { size, source })
        })
        .collect()
}

/// One worker for each bell, with every ring that rings it, and a scratch and a tally of its own.
fn workers(
    rings: &[Arc<Ring>],
    bells: &[Arc<Bell>],
    watch: &Arc<Watch>,
    disk: &Arc<Disk>,
    own: impl Iterator<Item = (Scratch, Tally)>,
    poll: Duration,
) -> Result<Vec<Member>, ServiceError> {
    let watchers = u32::try_from(bells.len()).unwrap_or(u32::MAX);
    bells
        .iter()
        .zip(own)
        .enumerate()
        .map(|(index, (bell, (scratch, tally)))| {
            let share = rings.iter().skip(index).step_by(bells.len());
            let draining = Draining {
                rings: share.map(Arc::clone).collect(),
                disk: Arc::clone(disk),
                scratch,
                tally,
                watcher: Watcher::new(Arc::clone(watch), watchers),
                poll,
            };
            Member::start(format!("blk-worker{index}"), Arc::clone(bell), draining).map_err(ServiceError::Staff)
        })
        .collect()
}
