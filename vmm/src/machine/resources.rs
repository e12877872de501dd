//! Everything that a machine is made of, before it has threads: adopted from the supervisor, or asked of KVM.
//!
//! The kernel's and the initramfs's files are read and closed here, and /dev/kvm is closed as soon as the processors exist.
//! Memory, boot and devices know how each part is made; this is the order.

use super::acpi;
use super::boot::{self, BootError, Entry, cpuid};
use super::console::{Console, ConsoleError};
use super::control::Control;
use super::devices::{Backends, Devices, DevicesError};
use super::memory::{Ram, RamError};
use super::power;
use super::vcpu::{Buses, Vcpu, VcpuError};
use super::virtio::net::card::Card;
use super::vm::{Hypervisor, Vm, VmError};
use crate::contract::MachineSpec;
use nix::errno::Errno;
use policy::seccomp::vmm::VmmDescriptors;
use policy::{Descriptor, Descriptors, Prepared, adopt};
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use thiserror::Error;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Why there is no machine.
#[derive(Debug, Error)]
pub(crate) enum OpenError {
    #[error("cannot take over descriptor {number}")]
    Adopt {
        number: RawFd,
        #[source]
        source: Errno,
    },
    #[error("descriptor {0} is named twice")]
    Twice(RawFd),
    #[error("the guest gets no memory")]
    Memory(#[source] RamError),
    #[error("there is no virtual machine")]
    Vm(#[source] VmError),
    #[error("a processor is missing")]
    Vcpu(#[source] VcpuError),
    #[error("the guest cannot boot")]
    Boot(#[source] BootError),
    #[error("a device is missing")]
    Devices(#[source] DevicesError),
    #[error("the guest has no console")]
    Console(#[source] ConsoleError),
    #[error("cannot set up the control loop")]
    Control(#[source] io::Error),
}

/// What was inherited, each thing by its own name.
struct Inherited {
    kvm: OwnedFd,
    kernel: File,
    initrd: Option<File>,
    console_in: OwnedFd,
    console_out: OwnedFd,
    backends: Backends,
}

impl Inherited {
    fn adopt(spec: &MachineSpec) -> Result<Self, OpenError> {
        let mut seen = BTreeSet::new();
        if let Some(twice) = spec.descriptors().into_iter().find(|number| !seen.insert(*number)) {
            return Err(OpenError::Twice(twice));
        }
        let take = |number| adopt(number).map_err(|source| OpenError::Adopt { number, source });
        let disks = spec.disks.iter().copied().map(take).collect::<Result<_, _>>()?;
        let nets = spec
            .nets
            .iter()
            .map(|net| Ok((take(net.tap)?, net.mac)))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            kvm: take(spec.kvm)?,
            kernel: take(spec.kernel)?.into(),
            initrd: spec.initrd.map(take).transpose()?.map(File::from),
            console_in: take(spec.console_in)?,
            console_out: take(spec.console_out)?,
            backends: Backends { disks, nets },
        })
    }
}

/// A machine without threads.
#[derive(Debug)]
pub(crate) struct Resources {
    /// Kept open: its interrupt lines go with it.
    pub(crate) vm: Vm,
    pub(crate) vcpus: Vec<Vcpu>,
    pub(crate) buses: Buses,
    pub(crate) control: Control,
    pub(crate) cards: Vec<(RawFd, Card)>,
    /// The descriptors that the filters name.
    pub(crate) named: VmmDescriptors,
    /// Every open descriptor.
    pub(crate) listed: Vec<Descriptor>,
}

impl Resources {
    /// Builds the machine that `spec` orders, up to the point where only threads are missing. Only a prepared process may: what
    /// it opens from here on, no other process gets at.
    ///
    /// # Errors
    /// [`OpenError`].
    pub(crate) fn open(_prepared: &Prepared, spec: &MachineSpec) -> Result<Self, OpenError> {
        let mut inherited = Inherited::adopt(spec)?;
        let kvm = Hypervisor::adopt(inherited.kvm, spec.cpus).map_err(OpenError::Vm)?;
        let ram = Ram::new(spec.memory_bytes).map_err(OpenError::Memory)?;
        let vm = Vm::new(&kvm, &ram).map_err(OpenError::Vm)?;
        let entry = boot::load(&ram, &mut inherited.kernel, inherited.initrd.as_mut(), &spec.cmdline)
            .map_err(OpenError::Boot)?;
        drop((inherited.kernel, inherited.initrd));
        let vcpus = vcpus(&kvm, &vm, spec.cpus, &entry)?;
        drop(kvm);

        let bell = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).map_err(OpenError::Control)?;
        let devices = Devices::new(&vm, &ram, spec.cpus, inherited.backends, bell).map_err(OpenError::Devices)?;
        acpi::write(&ram, spec.cpus, &devices.slots).map_err(OpenError::Boot)?;
        power::write_reset_code(&ram).map_err(OpenError::Boot)?;
        let console = Console::new(&vm, inherited.console_in, inherited.console_out).map_err(OpenError::Console)?;
        let buses = devices.buses(Arc::clone(&console.com1)).map_err(OpenError::Devices)?;

        let named = VmmDescriptors {
            disks: spec.disks.iter().copied().chain(devices.connections()).collect(),
            taps: spec.nets.iter().map(|net| net.tap).collect(),
            console_in: spec.console_in,
            vcpus: vcpus.iter().map(Vcpu::number).collect(),
        };
        let mut listed = vec![
            described(ram.file().as_raw_fd(), "guest memory, sealed"),
            described(vm.number(), "virtual machine"),
            described(devices.bell.as_raw_fd(), "bell of the control thread"),
        ];
        listed.extend(vcpus.iter().map(|vcpu| described(vcpu.number(), &vcpu.name())));
        listed.extend(console.descriptors());
        listed.extend(devices.places.iter().flat_map(|place| place.device.descriptors()));
        let control =
            Control::new(console, &devices.bell, devices.places).map_err(|source| OpenError::Control(source.into()))?;
        listed.push(described(control.number(), "epoll of the control thread"));
        Ok(Self {
            vm,
            vcpus,
            buses,
            control,
            cards: devices.cards,
            named,
            listed,
        })
    }
}

impl Descriptors for Resources {
    fn descriptors(&self) -> Vec<Descriptor> {
        self.listed.clone()
    }
}

/// Makes all processors; the first one boots.
fn vcpus(kvm: &Hypervisor, vm: &Vm, count: u8, entry: &Entry) -> Result<Vec<Vcpu>, OpenError> {
    let features = kvm.features().map_err(OpenError::Vm)?;
    let vcpus = (0..count)
        .map(|index| Vcpu::new(vm, index, &cpuid::of_processor(&features, index, count)))
        .collect::<Result<Vec<_>, _>>()
        .map_err(OpenError::Vcpu)?;
    if let Some(first) = vcpus.first() {
        first.begin_at(entry).map_err(OpenError::Vcpu)?;
    }
    Ok(vcpus)
}

fn described(number: RawFd, what: &str) -> Descriptor {
    Descriptor {
        number,
        what: what.into(),
    }
}
