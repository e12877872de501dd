//! What a VMM has, with nobody at the other ends: pipes, connected sockets, and a virtual machine where this host has KVM.

use crate::machine::memory::Ram;
use crate::machine::vcpu::Vcpu;
use crate::machine::vm::{Hypervisor, Vm};
use nix::unistd::Pid;
use policy::forbidden::{Targets, stand_in};
use policy::logging::chain;
use policy::seccomp::vmm::{Role, VmmDescriptors};
use policy::{Descriptor, Descriptors};
use std::error::Error;
use std::fs::File;
use std::io::{self, PipeReader};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

/// Guest memory of the virtual machine: as little as a page more than the boot structures need.
const MEMORY: u64 = 2 << 20;

/// A virtual machine without a kernel.
struct Kvm {
    memory: Ram,
    vm: Vm,
    vcpu: Vcpu,
}

impl Kvm {
    /// Makes one. /dev/kvm itself is closed again.
    fn open() -> Result<Self, Box<dyn Error>> {
        let device = File::options().read(true).write(true).open("/dev/kvm");
        let device = device.map_err(|error| format!("cannot open /dev/kvm: {error}"))?;
        let kvm = Hypervisor::adopt(device.into(), 1)?;
        let memory = Ram::new(MEMORY)?;
        let vm = Vm::new(&kvm, &memory)?;
        let features = kvm.features()?;
        let vcpu = Vcpu::new(&vm, 0, &features)?;
        Ok(Self { memory, vm, vcpu })
    }
}

/// The descriptors of a VMM.
pub(super) struct Bench {
    console: PipeReader,
    disk: UnixStream,
    tap: UnixStream,
    /// Stands in for a processor where there is none.
    blank: UnixStream,
    kvm: Result<Kvm, String>,
    kernel: RawFd,
    parent: Pid,
}

impl Bench {
    /// Opens everything.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub(super) fn open(parent: Pid) -> io::Result<Self> {
        let lonely = || UnixStream::pair().map(|(ours, _theirs)| ours);
        let (console, _typing) = io::pipe()?;
        let (disk, tap, blank) = (lonely()?, lonely()?, lonely()?);
        let kvm = Kvm::open().map_err(|error| chain(error.as_ref()));
        // A VMM closes its kernel's file once it has read it.
        let kernel = stand_in()?.as_raw_fd();
        Ok(Self {
            console,
            disk,
            tap,
            blank,
            kvm,
            kernel,
            parent,
        })
    }

    /// Whether there is KVM, for an operator.
    pub(super) fn kvm(&self) -> String {
        match &self.kvm {
            Ok(_) => "kvm: a virtual machine without a guest".to_owned(),
            Err(why) => format!("kvm: none here, so nothing is attempted with it: {why}"),
        }
    }

    /// The descriptors that the filters name.
    pub(super) fn named(&self) -> VmmDescriptors {
        VmmDescriptors {
            disks: vec![self.disk.as_raw_fd()],
            taps: vec![self.tap.as_raw_fd()],
            console_in: self.console.as_raw_fd(),
            vcpus: vec![self.vcpu()],
        }
    }

    /// A thread of each kind, but the control thread.
    pub(super) fn roles(&self) -> impl Iterator<Item = Role> {
        let vcpu = Role::Vcpu { vcpu: self.vcpu() };
        let net = Role::Net {
            tap: self.tap.as_raw_fd(),
        };
        [vcpu, net].into_iter()
    }

    /// What a taken-over process would aim at.
    pub(super) fn targets(&self) -> Targets {
        let kvm = self.kvm.as_ref().ok();
        Targets {
            backend: Some(self.disk.as_raw_fd()),
            console: Some(self.console.as_raw_fd()),
            kernel: Some(self.kernel),
            vm: kvm.map(|kvm| kvm.vm.number()),
            vcpu: kvm.map(|kvm| kvm.vcpu.number()),
            tap: Some(self.tap.as_raw_fd()),
            ..Targets::new(self.parent)
        }
    }

    fn vcpu(&self) -> RawFd {
        self.kvm
            .as_ref()
            .map_or(self.blank.as_raw_fd(), |kvm| kvm.vcpu.number())
    }
}

impl Descriptors for Bench {
    fn descriptors(&self) -> Vec<Descriptor> {
        let kvm = self.kvm.iter().flat_map(|kvm| {
            [
                (kvm.memory.file().as_raw_fd(), "guest memory, sealed"),
                (kvm.vm.number(), "virtual machine"),
                (kvm.vcpu.number(), "processor"),
            ]
        });
        [
            (self.console.as_raw_fd(), "console input"),
            (self.disk.as_raw_fd(), "a socket as a disk's backend"),
            (self.tap.as_raw_fd(), "a socket as a tap"),
            (self.blank.as_raw_fd(), "a socket as a processor, where there is no KVM"),
        ]
        .into_iter()
        .chain(kvm)
        .map(|(number, what)| Descriptor {
            number,
            what: what.to_owned(),
        })
        .collect()
    }
}
