//! A virtual processor: how it begins, and what happens when KVM cannot go on by itself.
//!
//! The processor that boots gets its registers from `boot`; the others wait, inside KVM, for the guest to wake them. It knows no
//! device: an access goes to a bus, and what a bus or KVM says may be the end of the machine.
#![expect(
    unsafe_code,
    reason = "listed: KVM's own account of an internal error is in a C union"
)]

use super::boot::Entry;
use super::boot::registers;
use super::bus::{Bus, Written};
use super::vm::Vm;
use crate::contract::MachineExit;
use kvm_bindings::{CpuId, Msrs};
use kvm_ioctls::{VcpuExit, VcpuFd};
use log::error;
use std::ops::{ControlFlow, Range};
use std::os::fd::{AsRawFd, RawFd};
use thiserror::Error;

/// KVM refuses something about a processor.
#[derive(Debug, Error)]
#[error("KVM refuses to {doing} processor {index}; if KVM here is one in software, use --accel qemu")]
pub(crate) struct VcpuError {
    doing: &'static str,
    index: u8,
    #[source]
    source: kvm_ioctls::Error,
}

/// Where accesses go that KVM does not finish by itself.
#[derive(Debug, Default)]
pub(crate) struct Buses {
    /// Port I/O.
    pub(crate) ports: Bus,
    /// Memory that is not RAM.
    pub(crate) memory: Bus,
}

/// A processor.
#[derive(Debug)]
pub(crate) struct Vcpu {
    index: u8,
    fd: VcpuFd,
}

impl Vcpu {
    /// Makes the processor `index`, as it is after a reset, with `cpuid` for what it says about itself.
    ///
    /// # Errors
    /// KVM refuses.
    pub(crate) fn new(vm: &Vm, index: u8, cpuid: &CpuId) -> Result<Self, VcpuError> {
        let refused = |doing| move |source| VcpuError { doing, index, source };
        let fd = vm.fd().create_vcpu(index.into()).map_err(refused("make"))?;
        fd.set_cpuid2(cpuid).map_err(refused("set the features of"))?;
        let entries = registers::model_specific();
        let registers = Msrs::from_entries(&entries).expect("a handful of registers is fewer than KVM takes");
        let set = fd
            .set_msrs(&registers)
            .map_err(refused("set the model-specific registers of"))?;
        if set < entries.len() {
            return Err(refused("set all model-specific registers of")(kvm_ioctls::Error::new(
                libc::EINVAL,
            )));
        }
        fd.get_lapic()
            .and_then(|after_reset| fd.set_lapic(&registers::local_interrupts(after_reset)))
            .map_err(refused("set the local interrupt controller of"))?;
        Ok(Self { index, fd })
    }

    /// Has this processor boot the machine.
    ///
    /// # Errors
    /// KVM refuses.
    pub(crate) fn begin_at(&self, entry: &Entry) -> Result<(), VcpuError> {
        self.fd
            .get_sregs()
            .and_then(|after_reset| self.fd.set_sregs(&registers::special(entry, after_reset)))
            .and_then(|()| self.fd.set_regs(&registers::general(entry)))
            .map_err(|source| VcpuError {
                doing: "set the registers of",
                index: self.index,
                source,
            })
    }

    /// Its descriptor's number.
    pub(crate) fn number(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Its thread's name.
    pub(crate) fn name(&self) -> String {
        format!("vcpu{}", self.index)
    }

    /// Has KVM do what it does when a machine's first processor runs for the first time, without running it. Since Linux 6.14 that
    /// starts a thread of the kernel's own in this process, which a process that is limited to the threads it has could not do.
    ///
    /// # Errors
    /// KVM refuses.
    pub(crate) fn warm_up(&mut self) -> Result<(), VcpuError> {
        self.fd.set_kvm_immediate_exit(1);
        let run = self.fd.run().map(|_| ());
        self.fd.set_kvm_immediate_exit(0);
        match run {
            Err(source) if source.errno() != libc::EINTR => Err(VcpuError {
                doing: "run",
                index: self.index,
                source,
            }),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Runs the guest until the machine ends, and says why in the log if nobody in the guest asked for it.
    pub(crate) fn run(&mut self, buses: &Buses) -> MachineExit {
        loop {
            if let ControlFlow::Break(exit) = self.turn(buses) {
                return exit;
            }
        }
    }

    /// Runs the guest until KVM cannot go on by itself, and helps.
    fn turn(&mut self, buses: &Buses) -> Written {
        let index = self.index;
        match self.fd.run() {
            Ok(VcpuExit::IoOut(port, data)) => port_accesses(data.len())
                .try_for_each(|part| buses.ports.write(port.into(), data.get(part).unwrap_or_default())),
            Ok(VcpuExit::IoIn(port, data)) => {
                port_accesses(data.len())
                    .for_each(|part| buses.ports.read(port.into(), data.get_mut(part).unwrap_or_default()));
                ControlFlow::Continue(())
            }
            Ok(VcpuExit::MmioWrite(address, data)) => buses.memory.write(address, data),
            Ok(VcpuExit::MmioRead(address, data)) => {
                buses.memory.read(address, data);
                ControlFlow::Continue(())
            }
            // A signal, or the first run of a processor that the guest has not woken yet.
            Ok(VcpuExit::Intr) => ControlFlow::Continue(()),
            Err(refused) if [libc::EINTR, libc::EAGAIN].contains(&refused.errno()) => ControlFlow::Continue(()),
            Ok(VcpuExit::Shutdown) => {
                error!(
                    "the guest's processor {index} gave up (a triple fault): its kernel crashed before it could handle its own \
                     crash, or is not for this machine; try another kernel, and earlyprintk=ttyS0 in --cmdline to see how far \
                     it comes"
                );
                ControlFlow::Break(MachineExit::GuestCrashed)
            }
            Ok(VcpuExit::InternalError) => {
                let numbers = self.internal_error();
                failed(index, &format!("internal error {numbers}"))
            }
            Ok(VcpuExit::FailEntry(reason, cpu)) => failed(
                index,
                &format!("the host's processor {cpu} refuses the guest's state (reason {reason:#x})"),
            ),
            Ok(other) => failed(index, &format!("{other:?} is nothing this machine knows")),
            Err(refused) => failed(index, &refused.to_string()),
        }
    }

    /// The numbers of KVM's internal error.
    fn internal_error(&mut self) -> String {
        // SAFETY: KVM filled this member of the union when it said that it failed internally, which is when this is called;
        // it is integers, for which any bits will do.
        let internal = unsafe { self.fd.get_kvm_run().__bindgen_anon_1.internal };
        let count = usize::try_from(internal.ndata).unwrap_or(usize::MAX);
        let data = internal.data.get(..count).unwrap_or_default();
        format!("{}, {data:x?}", internal.suberror)
    }
}

/// The accesses that a port exit is made of. KVM hands the elements of a string instruction over in one buffer, and its crate
/// does not tell how wide they are: what is no width of a single access is taken for bytes, the only width of our devices.
fn port_accesses(length: usize) -> impl Iterator<Item = Range<usize>> {
    let width = if [1, 2, 4].contains(&length) { length } else { 1 };
    (0..length).step_by(width).map(move |start| start..start + width)
}

/// KVM cannot run the guest any further.
fn failed(index: u8, why: &str) -> Written {
    error!(
        "KVM cannot run the guest's processor {index} any further: {why}. If /proc/cpuinfo shows neither vmx nor svm, this \
         host's KVM is one in software, which cannot run ordinary kernels: use --accel qemu"
    );
    ControlFlow::Break(MachineExit::RunFailed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_access_is_whole_and_a_string_is_bytes() {
        let widths = |length| port_accesses(length).map(|part| part.len()).collect::<Vec<_>>();
        assert_eq!(widths(1), [1]);
        assert_eq!(widths(4), [4]);
        assert_eq!(widths(3), [1, 1, 1]);
        assert_eq!(widths(4096), [1; 4096]);
        assert!(widths(0).is_empty());
    }
}
