//! How things are.

use super::{Limits, text};
use serde::{Deserialize, Serialize};

/// How things are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Size of the disk, in bytes.
    pub disk_bytes: u64,
    /// Whether a frontend is connected.
    pub connected: bool,
    /// The image below.
    pub base: BaseStatus,
    /// The overlay; a read-only disk has none.
    pub overlay: Option<OverlayStatus>,
    /// The limits in force.
    pub limits: Limits,
    /// The save that is going on, or how the last one ended.
    pub save: Option<SaveStatus>,
    /// How the one before that ended, if there was one: who asks for his own finds it by its number, though another has begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_save: Option<SaveStatus>,
    /// What confines the helper.
    pub confinement: Confinement,
}

/// The image below. Device and inode say whether a path still leads to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseStatus {
    /// The number of the device that it lies on, as `stat` shows it.
    pub device: u64,
    /// Its inode.
    pub inode: u64,
    /// Its length when it was opened, in bytes.
    pub bytes: u64,
}

/// How the overlay is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlayStatus {
    /// Clusters that the guest changed and that take space: not those it discarded.
    pub dirty_clusters: u64,
    /// Clusters that the guest zeroed or discarded: they read as zeros and take no space.
    pub zero_clusters: u64,
    /// The space that the dirty ones take, in bytes. Counted, not measured.
    pub used_bytes: u64,
    /// What `used_bytes` cannot grow beyond.
    pub limit_bytes: u64,
    /// What the file system says that the overlay's file takes, in bytes.
    pub disk_usage_bytes: u64,
    /// Memory that the map of clusters takes, in bytes.
    pub map_bytes: u64,
    /// What `map_bytes` cannot exceed.
    pub map_limit_bytes: u64,
    /// Whether what lies on the medium is encrypted.
    pub encrypted: bool,
}

/// The layers of the helper's confinement, by the names of docs/sandbox.md.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// Those in force.
    #[serde(with = "text::list")]
    pub in_force: Vec<String>,
    /// Those that the system did not permit. None of them is required.
    #[serde(with = "text::list")]
    pub missing: Vec<String>,
}

/// How a save is getting on, or how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SaveStatus {
    /// Which one: the helper's first is 1.
    pub number: u64,
    /// How far it is.
    pub state: SaveState,
    /// Bytes of the disk that are dealt with.
    pub done_bytes: u64,
    /// Of so many.
    pub total_bytes: u64,
    /// How long the guest's requests waited for the point in time to be taken, in microseconds.
    pub pause_us: u64,
}

/// How far a save is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SaveState {
    /// The copy goes on.
    Running,
    /// The output is whole and on the medium.
    Done,
    /// It was called off; the output is empty.
    Cancelled,
    /// It could not be done; the output is empty. Why, in words for people.
    Failed(#[serde(with = "text")] String),
}
