//! The conversation with a vhost-user-blk backend: which messages, in which order.
//!
//! Every message waits for an answer, where the backend can give one (REPLY_ACK), so that a refusal is seen when it happens.
//!
//! A backend that is silent must not keep the control thread waiting for ever. A timeout of the socket does not help: the `vhost`
//! crate takes it for an interruption and tries again. So a conversation runs against an alarm clock, [`Patience`], and SIGALRM
//! ends the process (who starts the process says how).
//!
//! Knows nothing of registers and guests.

use crate::machine::memory::Ram;
use nix::unistd::alarm;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use thiserror::Error;
use vhost::vhost_user::message::{VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserProtocolFeatures};
use vhost::vhost_user::{Error as MessageError, Frontend, VhostUserFrontend};
use vhost::{Error as VhostError, VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::EventFd;

use protocol::blk::feature;

/// How long a backend may take for one conversation. The helper's own deadline for finishing requests is shorter; a guess for
/// others.
const SILENCE_SECONDS: u32 = 30;

/// Why a backend cannot be used, or not any more.
#[derive(Debug, Error)]
pub(crate) enum BackendError {
    /// The descriptor is of no use.
    #[error("cannot use the connection to the backend")]
    Socket(#[source] io::Error),
    /// The backend refused a message, answered nonsense, or went away.
    #[error("the backend failed to {doing}")]
    Message {
        /// What the message is for.
        doing: &'static str,
        /// What went wrong.
        #[source]
        source: VhostError,
    },
    /// The backend went away when it should have answered.
    #[error("the backend failed to {doing}: it closed the connection before its answer was complete")]
    Cut {
        /// What the message is for.
        doing: &'static str,
    },
    /// The backend is of another kind or too old.
    #[error("the backend has no {0}: is it a vhost-user-blk backend that follows virtio 1.0 or later?")]
    Lacking(&'static str),
    /// The driver put a queue where no memory is.
    #[error("queue {index} is not in guest memory or not aligned")]
    Outside {
        /// Its number.
        index: usize,
    },
}

impl BackendError {
    fn message(doing: &'static str) -> impl Fn(VhostError) -> Self {
        move |source| {
            // The library's word for a connection that ended before an answer did, even before it began.
            if matches!(source, VhostError::VhostUserProtocol(MessageError::PartialMessage)) {
                Self::Cut { doing }
            } else {
                Self::Message { doing, source }
            }
        }
    }

    /// Whether the backend, in good health, only does not want what the guest wants.
    pub(super) fn is_refusal(&self) -> bool {
        match self {
            Self::Outside { .. } => true,
            Self::Message { source, .. } => matches!(
                source,
                VhostError::VhostUserProtocol(MessageError::BackendInternalError)
            ),
            Self::Socket(_) | Self::Cut { .. } | Self::Lacking(_) => false,
        }
    }
}

/// What a backend offers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// Its feature bits.
    pub(super) features: u64,
    /// How many queues it has.
    pub(super) queues: usize,
}

/// One stretch of guest memory, as a backend is told.
pub(super) type Region = VhostUserMemoryRegionInfo;

/// Guest memory, as a backend is told. Its descriptor is `ram`'s, which lives as long as a clone of its guest memory.
pub(super) fn regions(ram: &Ram) -> Vec<Region> {
    let region = |region: &crate::machine::memory::RamRegion| Region {
        guest_phys_addr: region.guest.0,
        memory_size: region.bytes,
        userspace_addr: region.host,
        mmap_offset: region.offset,
        mmap_handle: ram.file().as_raw_fd(),
    };
    ram.regions().iter().map(region).collect()
}

/// Where a queue is: addresses in this process.
#[derive(Clone, Copy, Debug)]
pub(super) struct VringPlace {
    /// Its number.
    pub(super) index: usize,
    /// Entries.
    pub(super) size: u16,
    /// The descriptor table.
    pub(super) descriptors: u64,
    /// The available ring.
    pub(super) available: u64,
    /// The used ring.
    pub(super) used: u64,
}

/// The alarm clock of one conversation.
struct Patience;

impl Patience {
    fn begin() -> Self {
        // There is one clock for the process, and conversations follow each other on one thread.
        let _ = alarm::set(SILENCE_SECONDS);
        Self
    }
}

impl Drop for Patience {
    fn drop(&mut self) {
        let _ = alarm::cancel();
    }
}

/// A backend that answers.
pub(super) struct Backend {
    frontend: Frontend,
    watch: UnixStream,
}

impl Backend {
    /// Introduces ourselves over `socket`, and fills `config` with the beginning of the configuration space.
    pub(super) fn connect(socket: OwnedFd, config: &mut [u8]) -> Result<(Self, Terms), BackendError> {
        let _patience = Patience::begin();
        let stream = UnixStream::from(socket);
        stream.set_nonblocking(false).map_err(BackendError::Socket)?;
        let watch = stream.try_clone().map_err(BackendError::Socket)?;
        let mut frontend = Frontend::from_stream(stream, u64::from(u8::MAX));

        frontend.set_owner().map_err(BackendError::message("accept an owner"))?;
        let features = frontend
            .get_features()
            .map_err(BackendError::message("say its features"))?;
        if features & feature::VERSION_1 == 0 {
            return Err(BackendError::Lacking("VIRTIO_F_VERSION_1"));
        }
        if features & feature::PROTOCOL_FEATURES == 0 {
            return Err(BackendError::Lacking("VHOST_USER_F_PROTOCOL_FEATURES"));
        }
        let queues = agree(&mut frontend)?;
        let bytes = u32::try_from(config.len()).unwrap_or(u32::MAX);
        let (_, payload) = frontend
            .get_config(0, bytes, VhostUserConfigFlags::WRITABLE, config)
            .map_err(BackendError::message("say its configuration"))?;
        config.iter_mut().zip(payload).for_each(|(to, from)| *to = from);
        Ok((Self { frontend, watch }, Terms { features, queues }))
    }

    /// The connection's number.
    pub(super) fn number(&self) -> RawFd {
        self.frontend.as_raw_fd()
    }

    /// The connection again: its hang-up can be waited for.
    pub(super) fn watch(&self) -> &UnixStream {
        &self.watch
    }

    /// Says what the driver acked and where memory is.
    pub(super) fn configure(&mut self, acked: u64, memory: &[Region]) -> Result<(), BackendError> {
        let _patience = Patience::begin();
        self.frontend
            .set_features(acked | feature::PROTOCOL_FEATURES)
            .map_err(BackendError::message("accept the features"))?;
        self.frontend
            .set_mem_table(memory)
            .map_err(BackendError::message("accept the guest's memory"))?;
        Ok(())
    }

    /// Lets the backend work on a queue, from its beginning.
    pub(super) fn start(&mut self, place: &VringPlace, kick: &EventFd, call: &EventFd) -> Result<(), BackendError> {
        let _patience = Patience::begin();
        let index = place.index;
        let addresses = VringConfigData {
            queue_max_size: place.size,
            queue_size: place.size,
            flags: 0,
            desc_table_addr: place.descriptors,
            used_ring_addr: place.used,
            avail_ring_addr: place.available,
            log_addr: None,
        };
        let frontend = &mut self.frontend;
        frontend
            .set_vring_num(index, place.size)
            .and_then(|()| frontend.set_vring_addr(index, &addresses))
            .and_then(|()| frontend.set_vring_base(index, 0))
            .map_err(BackendError::message("accept a queue's layout"))?;
        frontend
            .set_vring_call(index, call)
            .and_then(|()| frontend.set_vring_kick(index, kick))
            .and_then(|()| frontend.set_vring_enable(index, true))
            .map_err(BackendError::message("start a queue"))
    }

    /// Makes the backend finish a queue's requests and keep off it.
    pub(super) fn stop(&mut self, index: usize) -> Result<(), BackendError> {
        let _patience = Patience::begin();
        self.frontend
            .set_vring_enable(index, false)
            .and_then(|()| self.frontend.get_vring_base(index))
            .map_err(BackendError::message("stop a queue"))?;
        Ok(())
    }
}

/// Agrees on protocol features; how many queues the backend has.
fn agree(frontend: &mut Frontend) -> Result<usize, BackendError> {
    let wanted =
        VhostUserProtocolFeatures::CONFIG | VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::REPLY_ACK;
    let offered = frontend
        .get_protocol_features()
        .map_err(BackendError::message("say its protocol features"))?;
    let agreed = wanted & offered;
    if !agreed.contains(VhostUserProtocolFeatures::CONFIG) {
        return Err(BackendError::Lacking("VHOST_USER_PROTOCOL_F_CONFIG"));
    }
    frontend
        .set_protocol_features(agreed)
        .map_err(BackendError::message("accept protocol features"))?;
    if agreed.contains(VhostUserProtocolFeatures::REPLY_ACK) {
        frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    }
    if !agreed.contains(VhostUserProtocolFeatures::MQ) {
        return Ok(1);
    }
    let queues = frontend
        .get_queue_num()
        .map_err(BackendError::message("say how many queues it has"))?;
    if queues == 0 {
        return Err(BackendError::Lacking("queue"));
    }
    Ok(usize::try_from(queues).unwrap_or(usize::MAX))
}
