//! `mayfly-vmm`: one run of one guest on KVM, confined before the guest's first instruction.
//!
//! Reading order. The process's life: `args` → [`life`] → `confine` (prepare, open, enter, seal, narrow, run). The machine:
//! `layout` (the one table of guest addresses) → `resources` (what it is made of, in order) → `memory`, `vm`, `boot`, `vcpu`,
//! `devices`, `acpi` → `crew` (its threads). An access that KVM cannot finish by itself: `vcpu` → `bus` → `serial`, `power` or
//! `virtio::mmio`; what that leaves to do: `control`. A disk request touches none of this: the guest's doorbell is the backend's
//! kick, the backend's call is the guest's interrupt (`irq`).
//!
//! Threads: the control thread (vhost-user messages, console input, entropy), one for each processor, one for each network card.

mod acpi;
mod args;
mod boot;
mod bus;
mod check;
mod confine;
mod console;
mod control;
mod crew;
mod devices;
#[cfg(fuzzing)]
pub mod fuzzing;
mod irq;
mod layout;
pub mod life;
mod memory;
mod power;
mod resources;
mod serial;
mod thread;
mod vcpu;
mod virtio;
mod vm;
