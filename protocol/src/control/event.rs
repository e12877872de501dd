//! What happens, pushed to whoever asked for it.

use super::{Limits, text};
use serde::{Deserialize, Serialize};

/// A packet that no request asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// What happened.
    pub event: Event,
    /// Events so far for which this subscriber had no room.
    #[serde(default)]
    pub missed: u64,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Event {
    /// A frontend connected.
    Connected,
    /// It left.
    Disconnected,
    /// A write found the overlay's quota used up. Said again only after there was space in between.
    QuotaReached {
        /// The quota.
        limit_bytes: u64,
    },
    /// A write found less space on the overlay's file system than is to be kept free. Said again only after there was
    /// enough in between.
    SpaceLow {
        /// What is free.
        free_bytes: u64,
        /// What is to be.
        keep_free_bytes: u64,
    },
    /// Somebody changed the base underfoot: what the guest reads may be neither old nor new.
    BaseChanged,
    /// The disk is as the base again.
    Reset,
    /// A save is done.
    Saved {
        /// Its number.
        number: u64,
    },
    /// A save was called off.
    SaveCancelled {
        /// Its number.
        number: u64,
    },
    /// A save could not be done.
    SaveFailed {
        /// Its number.
        number: u64,
        /// Why, in words for people.
        #[serde(with = "text")]
        reason: String,
    },
    /// The disk has another size.
    Resized {
        /// The new one.
        disk_bytes: u64,
    },
    /// Limits were changed.
    LimitsChanged {
        /// The limits now in force.
        limits: Limits,
    },
    /// Something that this version does not know.
    #[serde(other)]
    Unknown,
}

impl Notice {
    /// The packet.
    ///
    /// # Panics
    /// Never: an event has no part that JSON lacks.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("numbers, names and texts have a form in JSON")
    }
}
