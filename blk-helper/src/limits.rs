//! The limits of a disk that can change while it is served, gathered from where each is kept.

use crate::disk::{Disk, Medium};
use crate::overlay::Overlay;
use protocol::control::{Limits, LimitsChange};
use thiserror::Error;

/// A limit that this disk cannot have.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("a read-only disk takes no space, so that there is nothing to limit")]
pub(crate) struct NothingToLimit;

impl Disk {
    /// Those in force.
    pub(crate) fn limits(&self) -> Limits {
        let overlay = self.overlay();
        let (iops, bandwidth) = self.throttle().rates();
        Limits {
            overlay_bytes: overlay.map_or(0, Overlay::limit_bytes),
            iops,
            bandwidth,
            keep_free_bytes: overlay.map_or(0, |overlay| overlay.floor().keep()),
            at_limit: self.shortage().policy(),
        }
    }

    /// Changes them, all or none.
    ///
    /// # Errors
    /// [`NothingToLimit`].
    pub(crate) fn change_limits(&self, change: &LimitsChange) -> Result<(), NothingToLimit> {
        match self.medium() {
            Medium::Burning(overlay) => {
                if let Some(bytes) = change.overlay_bytes {
                    overlay.set_limit(bytes);
                }
                if let Some(bytes) = change.keep_free_bytes {
                    overlay.floor().change(bytes);
                }
            }
            Medium::ReadOnly(_) => {
                if change.overlay_bytes.is_some() || change.keep_free_bytes.is_some() || change.at_limit.is_some() {
                    return Err(NothingToLimit);
                }
            }
        }
        self.throttle().change(change.iops, change.bandwidth);
        if let Some(at_limit) = change.at_limit {
            self.shortage().change(at_limit);
        }
        Ok(())
    }
}
