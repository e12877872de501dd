//! The vhost-user backend: what each message of a frontend does, and nothing else.
//!
//! A frontend is not trusted more than a guest. A message that cannot be right is refused, which ends the connection; the
//! two things that end the process are kept in [`Backend::take_fatal`] for who called. Between connections only the disk
//! and what each ring knows of its past survive.
//!
//! Not offered, and why: INFLIGHT_SHMFD (what was popped is answered before a ring stops, so the used index says it all),
//! LOG_SHMFD and DEVICE_STATE (a disk that burns does not migrate). Of what BACKEND_REQ offers, one message is sent, by
//! `connection.rs`: that the disk has another size.

mod whole;

use crate::disk::Disk;
use crate::guest_memory::{MAX_REGIONS, Memory, MemoryError, MemoryTable, RegionSpec, SharedMemory};
use crate::ring::{Fatal, Quiesced, Ring};
use crate::signal::may_be_eventfd;
use log::{debug, info};
use policy::logging::chain;
use protocol::blk::{AckedFeatures, feature};
use protocol::config_space::{ConfigSpace, Geometry};
use std::fs::File;
use std::sync::Arc;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight, VhostUserLog,
    VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig, VhostUserSharedMsg,
    VhostUserSingleMemoryRegion, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{Error, GpuBackend, Result, VhostUserBackendReqHandlerMut};

/// A frontend's address of a region, in the crate's words.
type RegionBase = vhost::VhostUserMemoryRegionBase;

/// The protocol features offered.
pub(crate) fn protocol_features() -> VhostUserProtocolFeatures {
    VhostUserProtocolFeatures::MQ
        | VhostUserProtocolFeatures::REPLY_ACK
        | VhostUserProtocolFeatures::CONFIG
        | VhostUserProtocolFeatures::BACKEND_REQ
        | VhostUserProtocolFeatures::RESET_DEVICE
        | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
}

/// The device, as one frontend after the other sets it up.
pub(crate) struct Backend {
    disk: Arc<Disk>,
    geometry: Geometry,
    config: ConfigSpace,
    rings: Vec<Arc<Ring>>,
    /// Which of them the frontend has started and not stopped.
    started: Vec<bool>,
    memory: SharedMemory,
    table: MemoryTable,
    acked: AckedFeatures,
    require_seals: bool,
    fatal: Option<Fatal>,
}

impl Backend {
    /// A backend that no frontend has spoken to.
    pub(crate) fn new(
        disk: Arc<Disk>,
        geometry: Geometry,
        rings: Vec<Arc<Ring>>,
        memory: SharedMemory,
        require_seals: bool,
    ) -> Self {
        Self {
            disk,
            config: ConfigSpace::new(&geometry),
            geometry,
            started: vec![false; rings.len()],
            rings,
            memory,
            table: MemoryTable::default(),
            acked: AckedFeatures::default(),
            require_seals,
            fatal: None,
        }
    }

    /// Why the process must end, if it must.
    pub(crate) fn take_fatal(&mut self) -> Option<Fatal> {
        self.fatal.take()
    }

    /// Has each ring looked at by its worker: limits are not what they were.
    pub(crate) fn nudge_rings(&self) {
        for ring in &self.rings {
            ring.nudge();
        }
    }

    /// Does something to a ring while its worker keeps away, then lets it run if it is to run.
    fn with_ring<T>(
        &mut self,
        index: impl TryInto<usize>,
        act: impl FnOnce(&mut Quiesced<'_>, &MemoryTable) -> Result<T>,
    ) -> Result<T> {
        let ring = index
            .try_into()
            .ok()
            .and_then(|index| self.rings.get(index))
            .ok_or(Error::InvalidParam)?;
        let outcome = ring.quiesce().and_then(|mut ring| {
            let result = act(&mut ring, &self.table);
            ring.update(&self.disk).map(|()| result)
        });
        match outcome {
            Ok(result) => result,
            Err(fatal) => {
                self.fatal = Some(fatal);
                Err(Error::BackendInternalError)
            }
        }
    }

    /// Changes a ring in a way that is always possible.
    fn change(&mut self, index: impl TryInto<usize>, act: impl FnOnce(&mut Quiesced<'_>)) -> Result<()> {
        self.with_ring(index, |ring, _| {
            act(ring);
            Ok(())
        })
    }

    /// Changes all of them so.
    fn change_all(&mut self, act: impl Fn(&mut Quiesced<'_>)) -> Result<()> {
        (0..self.rings.len()).try_for_each(|index| self.change(index, &act))
    }

    /// Changes a ring's layout, which a running ring does not allow.
    fn lay_out(&mut self, index: u32, act: impl FnOnce(&mut Quiesced<'_>, &MemoryTable) -> bool) -> Result<()> {
        self.with_ring(index, |ring, table| {
            if !ring.is_started() && act(ring, table) {
                Ok(())
            } else {
                debug!("the frontend asked for an impossible layout of queue {index}");
                Err(Error::InvalidParam)
            }
        })
    }

    /// Puts a new table in force with no request in flight, so that the old memory is unmapped when this returns.
    fn replace_memory(&mut self, table: MemoryTable) -> Result<()> {
        let memory = table.memory().map_err(refused)?;
        let outcome = self
            .rings
            .iter()
            .map(|ring| ring.quiesce())
            .collect::<std::result::Result<Vec<_>, Fatal>>()
            .and_then(|mut rings| {
                self.table = table;
                swap(&self.memory, memory);
                rings.iter_mut().try_for_each(|ring| ring.memory_changed(&self.disk))
            });
        outcome.map_err(|fatal| {
            self.fatal = Some(fatal);
            Error::BackendInternalError
        })
    }

    fn check_eventfd(file: Option<&File>) -> Result<()> {
        if file.is_none_or(may_be_eventfd) {
            Ok(())
        } else {
            debug!("the frontend sent something else than an eventfd");
            Err(Error::IncorrectFds)
        }
    }
}

fn swap(shared: &SharedMemory, memory: Memory) {
    let guard = shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    guard.replace(memory);
}

fn refused(error: MemoryError) -> Error {
    info!("guest memory refused: {}", chain(&error));
    Error::InvalidParam
}

fn spec(region: &VhostUserMemoryRegion) -> RegionSpec {
    RegionSpec {
        guest_address: region.guest_phys_addr,
        bytes: region.memory_size,
        frontend_address: region.user_addr,
        file_offset: region.mmap_offset,
    }
}

impl VhostUserBackendReqHandlerMut for Backend {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    /// Deprecated; the specification allows to disable all rings, which is the harmless reading of it.
    fn reset_owner(&mut self) -> Result<()> {
        self.change_all(|ring| ring.set_enabled(false))
    }

    fn reset_device(&mut self) -> Result<()> {
        self.acked = AckedFeatures::default();
        self.reset_rings()
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(self.disk.features().bits())
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        self.acked = self.disk.features().ack(features).map_err(|beyond| {
            debug!("the frontend acked features that were not offered: {beyond:#x}");
            Error::FeatureMismatch
        })?;
        let event_idx = self.acked.has(feature::EVENT_IDX);
        self.change_all(|ring| ring.set_event_idx(event_idx))
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy: Option<bool>,
    ) -> Result<Option<Vec<RegionBase>>> {
        let mut table = MemoryTable::default();
        for (region, file) in regions.iter().zip(&files) {
            table.add(spec(region), file, self.require_seals).map_err(refused)?;
        }
        self.replace_memory(table).map(|()| None)
    }

    fn add_mem_region(
        &mut self,
        region: &VhostUserSingleMemoryRegion,
        file: File,
        _postcopy: Option<bool>,
    ) -> Result<Option<RegionBase>> {
        let mut table = self.table.clone();
        table.add(spec(region), &file, self.require_seals).map_err(refused)?;
        self.replace_memory(table).map(|()| None)
    }

    fn remove_mem_region(&mut self, region: &VhostUserSingleMemoryRegion) -> Result<()> {
        let mut table = self.table.clone();
        table.remove(spec(region)).map_err(refused)?;
        self.replace_memory(table)
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        u64::try_from(MAX_REGIONS).map_err(|_| Error::BackendInternalError)
    }

    fn set_vring_num(&mut self, index: u32, size: u32) -> Result<()> {
        self.lay_out(index, |ring, _| ring.set_size(size))
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Result<()> {
        self.lay_out(index, |ring, table| {
            let guest = |address| table.to_guest(address);
            match (guest(descriptor), guest(available), guest(used)) {
                (Some(descriptor), Some(available), Some(used)) => ring.set_addresses(descriptor, available, used),
                _ => false,
            }
        })
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        let base = u16::try_from(base).map_err(|_| Error::InvalidParam)?;
        self.lay_out(index, |ring, _| {
            ring.set_base(base);
            true
        })
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        self.note_started(index, false);
        let base = self.with_ring(index, |ring, _| Ok(ring.stop()))?;
        Ok(VhostUserVringState::new(index, u32::from(base)))
    }

    fn set_vring_kick(&mut self, index: u8, file: Option<File>) -> Result<()> {
        Self::check_eventfd(file.as_ref())?;
        // Without a descriptor the frontend asks to have the ring polled, which would keep a processor busy for ever.
        let kick = file.ok_or(Error::InvalidOperation("rings are not polled"))?;
        // Without protocol features a frontend cannot enable rings, so they start enabled (vhost-user, "Ring states").
        self.note_started(index, true);
        let starts_enabled = !self.acked.has(feature::PROTOCOL_FEATURES);
        self.with_ring(index, |ring, _| {
            if starts_enabled {
                ring.set_enabled(true);
            }
            ring.set_kick(kick).map_err(|_| Error::IncorrectFds)
        })
    }

    fn set_vring_call(&mut self, index: u8, file: Option<File>) -> Result<()> {
        Self::check_eventfd(file.as_ref())?;
        self.change(index, |ring| ring.set_call(file))
    }

    fn set_vring_err(&mut self, index: u8, file: Option<File>) -> Result<()> {
        Self::check_eventfd(file.as_ref())?;
        self.change(index, |ring| ring.set_err(file))
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        self.change(index, |ring| ring.set_enabled(enable))
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(protocol_features())
    }

    fn set_protocol_features(&mut self, features: u64) -> Result<()> {
        let beyond = features & !protocol_features().bits();
        if beyond == 0 {
            Ok(())
        } else {
            debug!("the frontend acked protocol features that were not offered: {beyond:#x}");
            Err(Error::FeatureMismatch)
        }
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        u64::try_from(self.rings.len()).map_err(|_| Error::BackendInternalError)
    }

    fn get_config(&mut self, offset: u32, size: u32, _flags: VhostUserConfigFlags) -> Result<Vec<u8>> {
        let bytes = self.config.read(offset, size).ok_or(Error::InvalidParam)?;
        Ok(bytes.to_vec())
    }

    /// No field is writable. Some frontends pass a guest's write on all the same; ignoring it, as a device does with
    /// writes to read-only fields, keeps the guest its disk.
    fn set_config(&mut self, offset: u32, bytes: &[u8], _flags: VhostUserConfigFlags) -> Result<()> {
        debug!("ignored a write of {} configuration bytes at {offset}", bytes.len());
        Ok(())
    }

    fn set_gpu_socket(&mut self, _gpu: GpuBackend) -> Result<()> {
        Err(Error::InvalidOperation("not a GPU"))
    }

    fn get_shared_object(&mut self, _uuid: VhostUserSharedMsg) -> Result<File> {
        Err(Error::InvalidOperation("no shared objects"))
    }

    fn get_inflight_fd(&mut self, _: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        Err(Error::InvalidOperation("no in-flight buffer"))
    }

    fn set_inflight_fd(&mut self, _: &VhostUserInflight, _file: File) -> Result<()> {
        Err(Error::InvalidOperation("no in-flight buffer"))
    }

    fn set_device_state_fd(
        &mut self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _file: File,
    ) -> Result<Option<File>> {
        Err(Error::InvalidOperation("no device state"))
    }

    fn check_device_state(&mut self) -> Result<()> {
        Err(Error::InvalidOperation("no device state"))
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        Err(Error::InvalidOperation("no shared memory regions"))
    }

    fn set_log_base(&mut self, _log: &VhostUserLog, _file: File) -> Result<()> {
        Err(Error::InvalidOperation("no migration log"))
    }
}
