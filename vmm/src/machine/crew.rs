//! A machine with its threads: parked until everything is sealed, then one processor each.
//!
//! It knows in which order things are let go, and nothing of what they do. There is no way back: the run ends with the process,
//! from whichever thread notices first why.

use super::confine::Crewed;
use super::control::Control;
use super::resources::Resources;
use super::thread::{Parked, ThreadError};
use super::vcpu::{Buses, Vcpu, VcpuError};
use super::virtio::net::card::Card;
use super::vm::Vm;
use crate::contract::MachineExit;
use log::error;
use policy::seccomp::vmm::{Role, VmmDescriptors};
use policy::signals::exit_now;
use policy::{Confined, Descriptor, Descriptors};
use std::sync::Arc;
use thiserror::Error;

/// Why a machine has no threads.
#[derive(Debug, Error)]
pub(crate) enum StartError {
    #[error("a thread is missing")]
    Thread(#[source] ThreadError),
    #[error("the machine does not run")]
    Vcpu(#[source] VcpuError),
}

/// A machine whose threads wait.
#[derive(Debug)]
pub(crate) struct Machine {
    threads: Vec<(Role, Parked)>,
    control: Control,
    named: VmmDescriptors,
    listed: Vec<Descriptor>,
    /// Kept open: its interrupt lines go with it.
    _vm: Vm,
}

impl Machine {
    /// Starts the threads. The last moment at which that is possible.
    ///
    /// # Errors
    /// One does not start, or finds itself unconfined; KVM cannot run the machine.
    pub(crate) fn start(resources: Resources) -> Result<Self, StartError> {
        let Resources {
            vm,
            mut vcpus,
            buses,
            control,
            cards,
            named,
            listed,
        } = resources;
        if let Some(first) = vcpus.first_mut() {
            first.warm_up().map_err(StartError::Vcpu)?;
        }
        let buses = Arc::new(buses);
        let mut threads = Vec::with_capacity(vcpus.len() + cards.len());
        for vcpu in vcpus {
            let role = Role::Vcpu { vcpu: vcpu.number() };
            let buses = Arc::clone(&buses);
            let thread = Parked::start(vcpu.name(), move || run_processor(vcpu, &buses)).map_err(StartError::Thread)?;
            threads.push((role, thread));
        }
        for (index, (tap, card)) in cards.into_iter().enumerate() {
            let thread = Parked::start(format!("net{index}"), move || run_card(card)).map_err(StartError::Thread)?;
            threads.push((Role::Net { tap }, thread));
        }
        Ok(Self {
            threads,
            control,
            named,
            listed,
            _vm: vm,
        })
    }

    /// Lets the guest run, and does the control thread's work until the run ends, unless another thread ends the process first.
    /// It ends here, because nothing of the machine may be closed: the filter has no call for that.
    pub(crate) fn run(confined: Confined<Self>) -> ! {
        let (machine, _) = confined.into_parts();
        let Self {
            threads, mut control, ..
        } = machine;
        for (_, thread) in threads {
            thread.go();
        }
        exit_now(control.run().number())
    }
}

impl Descriptors for Machine {
    fn descriptors(&self) -> Vec<Descriptor> {
        self.listed.clone()
    }
}

impl Crewed for Machine {
    fn named(&self) -> VmmDescriptors {
        self.named.clone()
    }

    fn threads(&self) -> Vec<(Role, &Parked)> {
        self.threads.iter().map(|(role, thread)| (*role, thread)).collect()
    }
}

/// A processor's thread. Whatever the guest has printed is in the console's pipe already, so the process can end here.
fn run_processor(mut vcpu: Vcpu, buses: &Buses) {
    let exit = vcpu.run(buses);
    exit_now(exit.number());
}

/// A network card's thread.
fn run_card(card: Card) {
    let failed = card.run();
    error!("a network card cannot wait for packets: {failed}; the guest is stopped");
    exit_now(MachineExit::RunFailed.number());
}
