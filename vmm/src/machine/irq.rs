//! How a doorbell becomes a kick and a call becomes an interrupt, without this process in between.
//!
//! ```text
//! guest writes QueueNotify ─ KVM ─▶ kick (ioeventfd) ─▶ whoever serves the queue, in whatever process
//! guest gets interrupt     ◀─ KVM ─ call (irqfd)     ◀─ the same
//! ```
//!
//! One kick for each queue, one call for each device: its queues share the device's interrupt line. Registered before the
//! process is sealed, for as long as the virtual machine lives. Knows nothing of what the queues are for.

use super::layout::VirtioSlot;
use kvm_ioctls::{IoEventAddress, VmFd};
use policy::Descriptor;
use std::os::fd::AsRawFd;
use thiserror::Error;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Where a device's QueueNotify register is (virtio 1.2, 4.2.2).
pub(crate) const QUEUE_NOTIFY: u64 = 0x50;

/// KVM will not do without us.
#[derive(Debug, Error)]
pub(crate) enum LinesError {
    /// No more descriptors.
    #[error("cannot create the eventfds of the virtio device at {base:#x}; raise the limit on open files (ulimit -n)")]
    Create {
        /// The device's registers.
        base: u64,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// KVM refused an eventfd.
    #[error("KVM cannot {doing} of the virtio device at {base:#x}")]
    Register {
        /// Which way.
        doing: &'static str,
        /// The device's registers.
        base: u64,
        /// What KVM said.
        #[source]
        source: kvm_ioctls::Error,
    },
}

/// The eventfds of one device.
#[derive(Debug)]
pub(crate) struct Lines {
    /// One for each queue. Edge-triggered waiters need not read them.
    pub(crate) kicks: Vec<EventFd>,
    /// Writing it interrupts the guest.
    pub(crate) call: EventFd,
}

impl Lines {
    /// Eventfds that nobody is at the other end of.
    ///
    /// # Errors
    /// The limit on open files.
    pub(crate) fn unconnected(queues: usize) -> std::io::Result<Self> {
        let eventfd = || EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK);
        Ok(Self {
            kicks: (0..queues).map(|_| eventfd()).collect::<Result<_, _>>()?,
            call: eventfd()?,
        })
    }

    /// The eventfds of a device with `queues` queues in `slot`, connected to the guest.
    ///
    /// # Errors
    /// [`LinesError`].
    pub(crate) fn register(vm: &VmFd, slot: VirtioSlot, queues: usize) -> Result<Self, LinesError> {
        let base = slot.base;
        let lines = Self::unconnected(queues).map_err(|source| LinesError::Create { base, source })?;
        let refused = |doing| move |source| LinesError::Register { doing, base, source };
        let doorbell = IoEventAddress::Mmio(base + QUEUE_NOTIFY);
        for (index, kick) in (0_u32..).zip(&lines.kicks) {
            // The type of `index` is also the width that must match: four bytes.
            vm.register_ioevent(kick, &doorbell, index)
                .map_err(refused("turn the doorbell into kicks"))?;
        }
        vm.register_irqfd(&lines.call, slot.gsi)
            .map_err(refused("turn calls into interrupts"))?;
        Ok(lines)
    }

    /// Kicks the queue `index`, if there is one.
    pub(crate) fn kick(&self, index: usize) {
        if let Some(kick) = self.kicks.get(index) {
            signal(kick);
        }
    }

    /// Interrupts the guest.
    pub(crate) fn interrupt(&self) {
        signal(&self.call);
    }

    /// The open descriptors, for `device`.
    pub(crate) fn descriptors(&self, device: &str) -> Vec<Descriptor> {
        let listed = |eventfd: &EventFd, what| Descriptor {
            number: eventfd.as_raw_fd(),
            what,
        };
        let kicks = self.kicks.iter().enumerate();
        kicks
            .map(|(index, kick)| listed(kick, format!("{device}, kick of queue {index}")))
            .chain([listed(&self.call, format!("{device}, call"))])
            .collect()
    }
}

/// Writes an eventfd.
fn signal(eventfd: &EventFd) {
    // Fails only where the counter is full, and then whoever waits has been woken already.
    let _ = eventfd.write(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kick_reaches_its_queue_only() {
        let lines = Lines::unconnected(2).unwrap();

        lines.kick(1);
        lines.kick(2);

        lines.kicks[0].read().unwrap_err();
        assert_eq!(lines.kicks[1].read().unwrap(), 1);
        lines.call.read().unwrap_err();
    }

    #[test]
    fn every_eventfd_is_listed() {
        let lines = Lines::unconnected(3).unwrap();

        let listed = lines.descriptors("disk 0");

        assert_eq!(listed.len(), 4);
        assert_eq!(listed[3].number, lines.call.as_raw_fd());
        assert_eq!(listed[3].what, "disk 0, call");
    }
}
