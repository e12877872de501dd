//! `mayfly run` as a person, a script or a service manager has it: on a terminal, on pipes, told to end, killed.
//!
//! Guests are emulated (`--accel qemu`), which works everywhere; where KVM is there, if only in software, programs for a bare
//! machine stand in for a guest on KVM. Real kernels on KVM are the business of `nested.rs`.

mod called_off;
mod ends;
mod keep;
mod kvm;
mod odd;
mod pipes;
mod refused;
mod support;
mod terminal;
