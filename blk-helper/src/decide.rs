//! What an operator decides about the disk: to save it, to make it pristine, to make it larger.
//!
//! Each is done, or refused with nothing changed, before the control thread goes on; what takes long is the saver's.

use crate::cipher::CipherError;
use crate::disk::Medium;
use crate::overlay::{GrowError, Overlay};
use crate::save::{SaveRefusal, Saver};
use crate::service::Service;
use log::info;
use protocol::control::{Answer, Event, SaveRequest};
use protocol::units::{Capacity, SectorCount};
use std::os::fd::OwnedFd;
use std::sync::PoisonError;
use thiserror::Error;

/// Why a decision is not carried out. Nothing has changed then.
#[derive(Debug, Error)]
pub(crate) enum DecisionRefusal {
    #[error(transparent)]
    Save(#[from] SaveRefusal),
    #[error("no save is running that could be called off")]
    NoSave,
    #[error("the disk is read-only: there is nothing to reset or to resize")]
    ReadOnly,
    #[error("busy: queue {0} is started; a disk is reset when no guest uses it")]
    Started(usize),
    #[error("busy: a save is running")]
    Saving,
    #[error("cannot make a new key")]
    Key(#[source] CipherError),
    #[error("{0} bytes are not whole sectors of 512 bytes")]
    Sectors(u64),
    #[error("cannot resize the disk")]
    Grow(#[source] GrowError),
}

impl Service {
    /// Saves the disk as it is now.
    ///
    /// # Errors
    /// [`DecisionRefusal`].
    pub(crate) fn save(&self, request: SaveRequest, descriptors: Vec<OwnedFd>) -> Result<Answer, DecisionRefusal> {
        let (overlay, saver) = self.burning().ok_or(SaveRefusal::ReadOnly)?;
        let sent = descriptors.into_iter().next().ok_or(SaveRefusal::NoOutput)?;
        let number = saver.save(overlay, request, sent)?;
        info!("save {number} began");
        Ok(Answer::Saving { number })
    }

    /// Whether a save is running.
    pub(crate) fn is_saving(&self) -> bool {
        self.burning().is_some_and(|(_, saver)| saver.is_running())
    }

    /// Calls the save off.
    ///
    /// # Errors
    /// [`DecisionRefusal::NoSave`].
    pub(crate) fn cancel_save(&self) -> Result<Answer, DecisionRefusal> {
        let called_off = self.burning().is_some_and(|(_, saver)| saver.call_off());
        if called_off {
            Ok(Answer::Cancelled)
        } else {
            Err(DecisionRefusal::NoSave)
        }
    }

    /// Forgets all that the guest wrote.
    ///
    /// # Errors
    /// [`DecisionRefusal`].
    pub(crate) fn reset(&self) -> Result<Answer, DecisionRefusal> {
        let (overlay, saver) = self.burning().ok_or(DecisionRefusal::ReadOnly)?;
        let backend = self.backend.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = backend.started_ring() {
            return Err(DecisionRefusal::Started(queue));
        }
        if saver.is_running() {
            return Err(DecisionRefusal::Saving);
        }
        if let Some(key) = self.key() {
            key.renew().map_err(DecisionRefusal::Key)?;
        }
        // No ring is started, so no request is executed, and none begins while the backend is locked.
        overlay.reset();
        backend.forget_history();
        saver.give_back();
        self.events.emit(Event::Reset);
        info!("the disk was reset");
        Ok(Answer::Reset)
    }

    /// Makes the disk larger. Whoever is connected is yet to be told.
    ///
    /// # Errors
    /// [`DecisionRefusal`].
    pub(crate) fn resize(&self, bytes: u64) -> Result<Answer, DecisionRefusal> {
        let (overlay, saver) = self.burning().ok_or(DecisionRefusal::ReadOnly)?;
        SectorCount::from_bytes(bytes).ok_or(DecisionRefusal::Sectors(bytes))?;
        let capacity = Capacity::of_image(bytes).ok_or_else(|| DecisionRefusal::Grow(overlay.too_large()))?;
        if saver.is_running() {
            return Err(DecisionRefusal::Saving);
        }
        overlay.grow(capacity).map_err(DecisionRefusal::Grow)?;
        let mut backend = self.backend.lock().unwrap_or_else(PoisonError::into_inner);
        backend.set_capacity(capacity);
        self.events.emit(Event::Resized { disk_bytes: bytes });
        info!("the disk has {bytes} bytes now");
        Ok(Answer::Resized)
    }

    /// The overlay and its saver, if there is one.
    fn burning(&self) -> Option<(&Overlay, &Saver)> {
        match (self.disk().medium(), &self.saver) {
            (Medium::Burning(overlay), Some(saver)) => Some((overlay, saver)),
            (Medium::Burning(_) | Medium::ReadOnly(_), _) => None,
        }
    }
}
