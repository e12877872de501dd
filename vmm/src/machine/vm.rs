//! The virtual machine as KVM sees it: what KVM must be able to do, the guest's memory, and the interrupt controllers.
//!
//! It does not know what is in the memory, and no devices. /dev/kvm itself is needed only until all processors exist; the
//! virtual machine's own descriptor stays open, because with it would go every interrupt line.
//!
//! There is no interval timer (PIT): Linux takes its time from kvm-clock and its ticks from the local APIC, and the timer's
//! emulation is one more piece of the host's kernel that a hostile guest would talk to. A guest told not to use kvm-clock
//! (`no-kvmclock`) has nothing to measure its processor's clock with.
#![expect(unsafe_code, reason = "listed: KVM is told where guest memory is")]

use super::boot::cpuid;
use super::layout;
use super::memory::Ram;
use kvm_bindings::{CpuId, KVM_API_VERSION, kvm_userspace_memory_region};
use kvm_ioctls::{Cap, Kvm, VmFd};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use thiserror::Error;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

/// Why there is no virtual machine.
#[derive(Debug, Error)]
pub(crate) enum VmError {
    #[error(
        "what was given as /dev/kvm is not KVM (it answers {found} when asked for its API version, not {KVM_API_VERSION}); \
         load the module kvm_intel or kvm_amd, or use --accel qemu"
    )]
    NotKvm { found: i32 },
    #[error("this host's KVM lacks {0}, without which a guest cannot run; use a newer kernel, or --accel qemu")]
    TooOld(&'static str),
    #[error("this host's KVM gives a guest at most {most} processors and not {wanted}; use --cpus {most}")]
    Cpus { wanted: u8, most: usize },
    #[error(
        "KVM refuses to {doing}; if another hypervisor uses this host's processor, stop it, and if KVM here is one in \
         software, use --accel qemu"
    )]
    Refused {
        doing: &'static str,
        #[source]
        source: kvm_ioctls::Error,
    },
}

/// What is used of KVM beyond its first version, and what an operator may search for.
const NEEDED: [(Cap, &str); 9] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::SetIdentityMapAddr, "KVM_CAP_SET_IDENTITY_MAP_ADDR"),
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::MpState, "KVM_CAP_MP_STATE"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
];

/// /dev/kvm, which was found able to run a guest.
#[derive(Debug)]
pub(crate) struct Hypervisor(Kvm);

impl Hypervisor {
    /// Takes over /dev/kvm, and makes sure that it is one that can run a guest of `cpus` processors.
    ///
    /// # Errors
    /// [`VmError`].
    pub(crate) fn adopt(device: OwnedFd, cpus: u8) -> Result<Self, VmError> {
        // SAFETY: `device` owned the descriptor and gives it up here; whether it is KVM is what the next call asks.
        let kvm = unsafe { Kvm::from_raw_fd(device.into_raw_fd()) };
        let found = kvm.get_api_version();
        if u32::try_from(found) != Ok(KVM_API_VERSION) {
            return Err(VmError::NotKvm { found });
        }
        if let Some((_, lacking)) = NEEDED.into_iter().find(|&(cap, _)| !kvm.check_extension(cap)) {
            return Err(VmError::TooOld(lacking));
        }
        let most = kvm.get_max_vcpus();
        if usize::from(cpus) > most {
            return Err(VmError::Cpus { wanted: cpus, most });
        }
        Ok(Self(kvm))
    }

    /// What KVM can tell a guest about its processors.
    ///
    /// # Errors
    /// KVM refuses.
    pub(crate) fn features(&self) -> Result<CpuId, VmError> {
        let doing = "say which features processors may have";
        cpuid::supported(&self.0).map_err(|source| VmError::Refused { doing, source })
    }
}

/// A virtual machine with memory and interrupt controllers, and no processors yet.
#[derive(Debug)]
pub(crate) struct Vm {
    fd: VmFd,
    /// Keeps the guest's memory mapped as long as KVM knows its addresses.
    _memory: GuestMemoryMmap,
}

impl Vm {
    /// Makes one with this memory.
    ///
    /// # Errors
    /// KVM refuses.
    pub(crate) fn new(hypervisor: &Hypervisor, ram: &Ram) -> Result<Self, VmError> {
        let refused = |doing| move |source| VmError::Refused { doing, source };
        let fd = hypervisor.0.create_vm().map_err(refused("make a virtual machine"))?;
        fd.set_tss_address(layout::KVM_TSS)
            .map_err(refused("place the task state in the guest"))?;
        fd.set_identity_map_address(layout::KVM_IDENTITY_MAP)
            .map_err(refused("place the identity map in the guest"))?;
        fd.create_irq_chip()
            .map_err(refused("make the interrupt controllers"))?;
        for (slot, region) in (0..).zip(ram.regions()) {
            let region = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: region.guest.0,
                memory_size: region.bytes,
                userspace_addr: region.host,
            };
            // SAFETY: `Ram` has mapped these bytes at this address, and `_memory` below keeps them mapped at least as long
            // as the virtual machine's descriptor is open; `Ram`'s regions do not overlap.
            unsafe { fd.set_user_memory_region(region) }.map_err(refused("take the guest's memory"))?;
        }
        Ok(Self {
            fd,
            _memory: ram.guest().clone(),
        })
    }

    /// From now on each write to `line` is an edge on the interrupt line `gsi`.
    ///
    /// # Errors
    /// KVM refuses.
    pub(crate) fn connect(&self, line: &EventFd, gsi: u32) -> Result<(), VmError> {
        let doing = "connect an interrupt line";
        self.fd
            .register_irqfd(line, gsi)
            .map_err(|source| VmError::Refused { doing, source })
    }

    /// KVM's handle, for processors, interrupt lines and doorbells.
    pub(crate) fn fd(&self) -> &VmFd {
        &self.fd
    }

    /// Its descriptor's number.
    pub(crate) fn number(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn a_descriptor_that_is_not_kvm_is_recognised() {
        let device = File::open("/dev/null").unwrap().into();
        let error = Hypervisor::adopt(device, 1).unwrap_err();
        assert!(matches!(error, VmError::NotKvm { found: -1 }), "{error}");
    }
}
