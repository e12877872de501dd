//! What the whole-process tests are made of.
//!
//! A test sets a [`place`] (a base image and an overlay directory), starts a real [`helper`] process there, and
//! talks to it as a stranger would: through [`client`], whose virtio and vhost-user code is the `virtio-driver`
//! crate's, or, where something malformed must be said, through [`wire`] (single messages) and [`raw`] (rings
//! written byte by byte). An [`operator`] holds the other end of its control channel,
//! or is `mayfly ctl` ([`ctl`]), which a [`pretender`] may answer instead of a helper. What the disk should contain is known by
//! [`model`]; [`traffic`] invents requests and [`drive`] runs them against both.
//!
//! Storage below a program fails when [`faults`] say so, and what nobody can know of the disk then is [`doubt`].
//!
//! A whole machine is a [`supervised`] run of `mayfly`; a [`bare`] one runs a [`payload`] of a few hundred instructions, and a
//! [`vmm`] runs without a supervisor, on a [`backend`] that may be a bad one.
//!
//! Guest memory ([`memory`]) is a memfd that this side reads and writes by system call, so a test can hand a hostile
//! ring to the helper without a line of `unsafe` of its own.
//!
//! What a process keeps in its memory is read by [`memories`], and keys in it are found by [`schedules`].
//!
//! Nothing in here knows how the helper works inside: only its command line, its socket and what `/proc` shows.

#![deny(unsafe_code)]

pub mod abuse;
pub mod backend;
pub mod bare;
pub mod client;
pub mod ctl;
pub mod doubt;
pub mod drive;
pub mod ending;
pub mod faults;
pub mod files;
pub mod guest;
pub mod helper;
pub mod memories;
pub mod memory;
pub mod model;
pub mod mounted;
pub mod nested;
pub mod operator;
pub mod orphans;
pub mod payload;
pub mod place;
pub mod pretender;
pub mod process;
pub mod raw;
pub mod request;
pub mod require;
pub mod ring;
pub mod rng;
pub mod schedules;
pub mod spec;
pub mod supervised;
pub mod theft;
pub mod traffic;
pub mod vmm;
pub mod wire;
