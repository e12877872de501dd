//! The one table of guest-physical addresses, ports and interrupt lines. It knows no KVM and no memory.
//!
//! ```text
//! 0                 boot structures (below)
//! 0x000a_0000       nothing
//! 0x000e_0000       ACPI tables, and the reset vector
//! 0x0010_0000       kernel; initramfs as high as it fits below the hole
//! 0xc000_0000       the hole: devices, IOAPIC, local APIC, KVM's own pages
//! 0x1_0000_0000     the rest of memory
//! ```

use vm_memory::GuestAddress;

/// Where memory below 4 GiB ends at the latest.
pub(crate) const HOLE_START: u64 = 0xc000_0000;
/// Where memory goes on.
pub(crate) const HOLE_END: u64 = 1 << 32;

/// The GDT for the boot processor.
pub(crate) const GDT: GuestAddress = GuestAddress(0x500);
/// PVH: `hvm_start_info`.
pub(crate) const PVH_START_INFO: GuestAddress = GuestAddress(0x6000);
/// PVH: its module list.
pub(crate) const PVH_MODULES: GuestAddress = GuestAddress(0x6040);
/// PVH: its memory map.
pub(crate) const PVH_MEMORY_MAP: GuestAddress = GuestAddress(0x7000);
/// Linux's `boot_params` ("zero page").
pub(crate) const ZERO_PAGE: GuestAddress = GuestAddress(0x7000);
/// The boot processor's first stack pointer.
pub(crate) const BOOT_STACK: GuestAddress = GuestAddress(0x8ff0);
/// The first page table; five more follow.
pub(crate) const PML4: GuestAddress = GuestAddress(0x9000);
/// The kernel's command line.
pub(crate) const CMDLINE: GuestAddress = GuestAddress(0x2_0000);
/// Bytes that the command line may have, with its final zero. What Linux takes on x86.
pub(crate) const CMDLINE_MAX: usize = 2048;
/// The end of conventional memory.
pub(crate) const LOW_MEMORY_END: u64 = 0xa_0000;
/// ACPI's root pointer, where firmware searches for it; the tables follow it.
pub(crate) const RSDP: GuestAddress = GuestAddress(0xe_0000);
/// Where processors of a PC begin after a reset, in the last 16 bytes of its firmware (F000:FFF0). Room for ACPI tables ends here.
pub(crate) const RESET_VECTOR: GuestAddress = GuestAddress(0xf_fff0);
/// Where the kernel goes.
pub(crate) const KERNEL: GuestAddress = GuestAddress(0x10_0000);

/// The first virtio-mmio device's registers.
pub(crate) const VIRTIO_BASE: u64 = 0xd000_0000;
/// Distance from one device's registers to the next one's.
pub(crate) const VIRTIO_STRIDE: u64 = 0x1000;
/// The first device's interrupt line; each device has the next one.
pub(crate) const VIRTIO_FIRST_GSI: u32 = 5;
/// The IOAPIC has 24 pins: so many devices fit.
pub(crate) const VIRTIO_DEVICES: usize = 19;

/// KVM's page for the identity map, and the three for its task state.
pub(crate) const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;
/// See above.
pub(crate) const KVM_TSS: usize = 0xfffb_d000;
/// The IOAPIC.
pub(crate) const IOAPIC: u32 = 0xfec0_0000;
/// The local APICs.
pub(crate) const LOCAL_APIC: u32 = 0xfee0_0000;

/// The serial console's first port.
pub(crate) const COM1: u16 = 0x3f8;
/// Its ports.
pub(crate) const COM1_PORTS: u16 = 8;
/// Its interrupt line.
pub(crate) const COM1_GSI: u32 = 4;
/// ACPI's sleep control register (power-off), one byte.
pub(crate) const SLEEP_CONTROL: u16 = 0x600;
/// ACPI's sleep status register, one byte.
pub(crate) const SLEEP_STATUS: u16 = 0x601;
/// ACPI's reset register, one byte.
pub(crate) const RESET: u16 = 0x602;
/// What is written there.
pub(crate) const RESET_VALUE: u8 = 1;
/// The sleep type that stands for soft off (S5).
pub(crate) const SLEEP_TYPE_OFF: u8 = 5;
/// The keyboard controller's command port: writing 0xfe resets a PC.
pub(crate) const I8042_COMMAND: u16 = 0x64;

/// One virtio-mmio device's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VirtioSlot {
    /// The address of its registers.
    pub(crate) base: u64,
    /// Its interrupt line.
    pub(crate) gsi: u32,
}

/// The places of `count` devices, in order; `None` if there are not so many.
pub(crate) fn virtio_slots(count: usize) -> Option<Vec<VirtioSlot>> {
    (count <= VIRTIO_DEVICES).then(|| {
        (VIRTIO_BASE..)
            .step_by(usize::try_from(VIRTIO_STRIDE).unwrap_or(usize::MAX))
            .zip(VIRTIO_FIRST_GSI..)
            .take(count)
            .map(|(base, gsi)| VirtioSlot { base, gsi })
            .collect()
    })
}

/// Memory of `bytes`, as guest-physical (start, length) pairs around the hole.
pub(crate) fn ram_ranges(bytes: u64) -> Vec<(u64, u64)> {
    let low = bytes.min(HOLE_START);
    let high = bytes.saturating_sub(HOLE_START);
    let mut ranges = vec![(0, low)];
    if high > 0 {
        ranges.push((HOLE_END, high));
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_device_has_its_own_place_in_the_hole_and_its_own_pin() {
        let slots = virtio_slots(VIRTIO_DEVICES).unwrap();

        assert_eq!(slots.len(), VIRTIO_DEVICES);
        assert!(
            slots
                .windows(2)
                .all(|pair| pair[0].base + VIRTIO_STRIDE == pair[1].base)
        );
        assert!(
            slots
                .iter()
                .all(|slot| slot.base >= HOLE_START && slot.base + VIRTIO_STRIDE <= u64::from(IOAPIC))
        );
        assert!(slots.windows(2).all(|pair| pair[0].gsi + 1 == pair[1].gsi));
        assert!(slots.iter().all(|slot| slot.gsi != COM1_GSI && slot.gsi < 24));
        assert_eq!(virtio_slots(VIRTIO_DEVICES + 1), None);
    }

    proptest! {
        #[test]
        fn fewer_devices_have_the_same_places(count in 0..=VIRTIO_DEVICES) {
            let all = virtio_slots(VIRTIO_DEVICES).unwrap();

            prop_assert_eq!(virtio_slots(count).unwrap(), &all[..count]);
        }

        #[test]
        fn memory_is_whole_and_leaves_the_hole_alone(bytes in 1..1u64 << 46) {
            let ranges = ram_ranges(bytes);

            prop_assert_eq!(ranges.iter().map(|(_, length)| length).sum::<u64>(), bytes);
            for (start, length) in ranges {
                prop_assert!(length > 0 && (start + length <= HOLE_START || start >= HOLE_END));
            }
        }
    }
}
