//! Boots a guest from disks that burn after use. Three programs, which meet only on descriptors and a command line:
//!
//! - `mayfly` ([`supervisor`]) has the terminal, the paths and the decisions. It starts one `blk-helper` for each disk and one
//!   `mayfly-vmm` for each run of the guest, and hands each what it needs.
//! - `mayfly-vmm` ([`machine`]) has KVM, the guest's memory and one socket to each disk: no file, no path, no terminal.
//! - `mayfly-import` ([`import`]) turns a qcow2 image into a raw one, from one descriptor to another, before there is a guest.
//!
//! [`contract`] is what they agree on.
#![deny(unsafe_code)]

pub mod contract;
pub mod import;
pub mod machine;
pub mod supervisor;
mod sys;
