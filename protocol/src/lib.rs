//! What Mayfly's processes, a guest and a launcher must agree on.
//!
//! Two conversations meet here. A guest's driver talks to `blk-helper` through virtqueues in the words of the virtio
//! block device ([`blk`], [`config_space`]), counted in the [`units`] of a disk. A launcher starts `blk-helper`, asks
//! things of it while it serves ([`control`]), and reads from its exit code how it ended ([`launch`]). People write a
//! [`size`] the same way to every program, and all know what is no raw image by the same marks ([`formats`]), and what of
//! somebody else's [`text`] may be shown.
//!
//! Not here: the vhost-user messages themselves (the `vhost` crate has them) and any I/O.
#![forbid(unsafe_code)]
#![warn(clippy::missing_docs_in_private_items)]
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]
#![cfg_attr(
    test,
    allow(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        reason = "a test that panics has failed, which is what it is for"
    )
)]

pub mod blk;
pub mod config_space;
pub mod control;
pub mod formats;
pub mod launch;
pub mod size;
pub mod text;
pub mod units;
