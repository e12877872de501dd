//! Boots a guest from disks that burn after use. Three programs, which meet only on descriptors and a command line:
//!
//! - `mayfly` ([`supervisor`]) has the terminal, the paths and the decisions. It starts one `blk-helper` for each disk and one
//!   `mayfly-vmm` for each run of the guest, and hands each what it needs. With `mayfly ctl` (`ctl`) it is the operator of
//!   a helper that runs already; both keep what a guest wrote, if that is wanted, in the same way (`keep`).
//! - `mayfly-vmm` ([`machine`]) has KVM, the guest's memory and one socket to each disk: no file, no path, no terminal.
//! - `mayfly-import` ([`import`]) turns a qcow2 image into a raw one, from one descriptor to another, before there is a guest.
//!
//! [`contract`] is what they agree on.
#![deny(unsafe_code)]

mod channel;
pub mod contract;
mod ctl;
pub mod import;
mod keep;
pub mod machine;
mod progress;
mod signals;
pub mod supervisor;
mod sys;
