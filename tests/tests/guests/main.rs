//! Real guests in QEMU on a real `blk-helper`: what the disk is to the operating system that uses it.
//!
//! A guest takes seconds to boot, because its processor is emulated, so a test gathers what one guest can show; and
//! guests take turns, because two of them on one small machine would only wait for each other.
//!
//! [`support`] has what the tests share. The base's bytes and modification time and the emptiness of the overlay
//! directory are checked at the end of every test, by [`tests::place::Place`] or [`support::Untouched`].

mod busybox;
mod debian;
mod full;
mod lifetimes;
mod read_only;
mod saved;
mod space;
mod support;
