//! `mayfly import` as a person has it: what it makes of images that `qemu-img` made, what it refuses, what it leaves behind.
//!
//! That no damage makes the parser panic or hang is shown inside it, by the thousand (`vmm: import::tests`).

mod ends;
mod equal;
mod refused;
mod runs;
mod support;
