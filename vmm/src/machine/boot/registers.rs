//! The state in which the boot processor begins: registers, tables and model-specific registers. Pure but for [`write_tables`],
//! which puts the tables that the registers point to into memory.
//!
//! Other processors begin where KVM starts them and are woken by the guest with an INIT and a start-up message.
//!
//! Knows the two protocols' demands on the processor, and nothing of what is in the zero page or the start info.

use kvm_bindings::{kvm_dtable, kvm_lapic_state, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::{Entry, Protocol};
use crate::machine::layout;

/// The selectors of Linux's 64-bit boot protocol ("__BOOT_CS", "__BOOT_DS"); PVH leaves them open.
const CODE_SELECTOR: u16 = 0x10;
/// See above.
const DATA_SELECTOR: u16 = 0x18;
/// A task state that is never used: a processor has one always, and Intel's checks it.
const TASK_SELECTOR: u16 = 0x20;
/// Bytes of the task state, less one. PVH says so.
const TASK_LIMIT: u32 = 0x67;

/// Segment types: code that can be executed and read, data that can be read and written, a busy task state; the first two as if
/// they had been used already.
const CODE: u8 = 0b1011;
/// See above.
const DATA: u8 = 0b0011;
/// See above.
const BUSY_TASK: u8 = 0b1011;

const CR0_PROTECTED: u64 = 1 << 0;
/// Always set on every processor that this runs on.
const CR0_EXTENSION_TYPE: u64 = 1 << 4;
const CR0_PAGING: u64 = 1 << 31;
const CR4_PHYSICAL_ADDRESS_EXTENSION: u64 = 1 << 5;
const EFER_LONG_ENABLE: u64 = 1 << 8;
const EFER_LONG_ACTIVE: u64 = 1 << 10;
/// The bit of RFLAGS that is always set. Interrupts stay off.
const RFLAGS_FIXED: u64 = 1 << 1;

/// A page table's entry: present and writable.
const PRESENT_WRITABLE: u64 = 0b11;
/// In a page directory's entry: no further table but a page of 2 MiB.
const LARGE: u64 = 1 << 7;
const LARGE_PAGE_BYTES: u64 = 2 << 20;
const TABLE_BYTES: u64 = 4096;
const ENTRIES: u64 = 512;
/// Page directories that map 4 GiB, so that a kernel reaches whatever it was told of before it has tables of its own.
const DIRECTORIES: u64 = 4;

/// IA32_MISC_ENABLE: which of the optional things there are.
const MSR_MISC_ENABLE: u32 = 0x1a0;
/// Fast string operations; and no branch trace store, no precise event sampling, since there are no performance counters.
const MISC_ENABLE: u64 = 1 << 0 | 1 << 11 | 1 << 12;
/// IA32_MTRR_DEF_TYPE: how memory is cached that no range register speaks of, which is all of it.
const MSR_MTRR_DEFAULT_TYPE: u32 = 0x2ff;
/// Enabled, write-back. Reset leaves "uncached", and Linux would believe it.
const MTRR_DEFAULT_TYPE: u64 = 1 << 11 | 6;

/// The local APIC's two pins: where their registers are in its page.
const LOCAL_PIN_0: usize = 0x350;
/// See above.
const LOCAL_PIN_1: usize = 0x360;
/// Masked, for the legacy interrupt controller. ACPI says that there is none (hardware-reduced), so no guest programs it; were
/// this pin open, an interrupt line below 16 would also arrive here, with a vector nobody chose.
const LEGACY_MASKED: u32 = 1 << 16 | 0b111 << 8;
/// Open, for non-maskable interrupts.
const NON_MASKABLE: u32 = 0b100 << 8;

/// The boot processor's general registers.
pub(crate) fn general(entry: &Entry) -> kvm_regs {
    let common = kvm_regs {
        rip: entry.address,
        rsp: layout::BOOT_STACK.0,
        rflags: RFLAGS_FIXED,
        ..kvm_regs::default()
    };
    match entry.protocol {
        Protocol::Linux64 => kvm_regs {
            rsi: layout::ZERO_PAGE.0,
            ..common
        },
        Protocol::Pvh32 => kvm_regs {
            rbx: layout::PVH_START_INFO.0,
            ..common
        },
    }
}

/// The boot processor's special registers, made from those that it has after a reset.
pub(crate) fn special(entry: &Entry, after_reset: kvm_sregs) -> kvm_sregs {
    let (code, data, task) = segments(entry.protocol);
    let protected = kvm_sregs {
        cs: code,
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        tr: task,
        gdt: kvm_dtable {
            base: layout::GDT.0,
            limit: GDT_LIMIT,
            padding: [0; 3],
        },
        // No exception can be handled before the kernel has a table: one is the end.
        idt: kvm_dtable::default(),
        cr0: CR0_PROTECTED | CR0_EXTENSION_TYPE,
        cr4: 0,
        efer: 0,
        ..after_reset
    };
    match entry.protocol {
        Protocol::Linux64 => kvm_sregs {
            cr0: protected.cr0 | CR0_PAGING,
            cr3: layout::PML4.0,
            cr4: CR4_PHYSICAL_ADDRESS_EXTENSION,
            efer: EFER_LONG_ENABLE | EFER_LONG_ACTIVE,
            ..protected
        },
        Protocol::Pvh32 => protected,
    }
}

/// The model-specific registers of every processor that are not right after a reset.
pub(crate) fn model_specific() -> [kvm_msr_entry; 2] {
    [
        (MSR_MISC_ENABLE, MISC_ENABLE),
        (MSR_MTRR_DEFAULT_TYPE, MTRR_DEFAULT_TYPE),
    ]
    .map(|(index, data)| kvm_msr_entry {
        index,
        data,
        ..kvm_msr_entry::default()
    })
}

/// The local APIC of every processor, with its two pins set as firmware would have.
pub(crate) fn local_interrupts(mut after_reset: kvm_lapic_state) -> kvm_lapic_state {
    for (at, value) in [(LOCAL_PIN_0, LEGACY_MASKED), (LOCAL_PIN_1, NON_MASKABLE)] {
        for (register, byte) in after_reset.regs[at..].iter_mut().zip(value.to_le_bytes()) {
            *register = byte.cast_signed();
        }
    }
    after_reset
}

/// Writes what the registers point to: segment descriptors and page tables.
///
/// # Errors
/// There is no memory where `layout` has them.
pub(crate) fn write_tables(guest: &GuestMemoryMmap, entry: &Entry) -> Result<(), GuestMemoryError> {
    let (code, data, task) = segments(entry.protocol);
    // Two unused entries, then in the selectors' order. A task state's descriptor is twice as long in long mode; its upper half
    // is the upper half of its address.
    let descriptors = [0, 0, descriptor(&code), descriptor(&data), descriptor(&task), 0];
    write_table(guest, layout::GDT, descriptors)?;
    if entry.protocol == Protocol::Linux64 {
        write_page_tables(guest)?;
    }
    Ok(())
}

/// The last byte of the descriptors that [`write_tables`] writes.
const GDT_LIMIT: u16 = 6 * 8 - 1;

/// Maps the first 4 GiB to themselves: one table of tables, one table of directories, the directories.
fn write_page_tables(guest: &GuestMemoryMmap) -> Result<(), GuestMemoryError> {
    let page = |number: u64| layout::PML4.unchecked_add(number * TABLE_BYTES);
    let (pointers, directories) = (page(1), page(2));
    write_table(guest, layout::PML4, [pointers.0 | PRESENT_WRITABLE])?;
    let tables = (0..DIRECTORIES).map(|number| page(2 + number).0 | PRESENT_WRITABLE);
    write_table(guest, pointers, tables)?;
    let pages = (0..DIRECTORIES * ENTRIES).map(|number| (number * LARGE_PAGE_BYTES) | PRESENT_WRITABLE | LARGE);
    write_table(guest, directories, pages)
}

fn write_table(
    guest: &GuestMemoryMmap,
    at: GuestAddress,
    entries: impl IntoIterator<Item = u64>,
) -> Result<(), GuestMemoryError> {
    let bytes: Vec<u8> = entries.into_iter().flat_map(u64::to_le_bytes).collect();
    guest.write_slice(&bytes, at)
}

/// Code, data and task state: flat, from 0 to the end of 32-bit addresses.
fn segments(protocol: Protocol) -> (kvm_segment, kvm_segment, kvm_segment) {
    let long = u8::from(protocol == Protocol::Linux64);
    let flat = kvm_segment {
        limit: u32::MAX,
        present: 1,
        s: 1,
        g: 1,
        ..kvm_segment::default()
    };
    let code = kvm_segment {
        selector: CODE_SELECTOR,
        type_: CODE,
        l: long,
        db: 1 - long,
        ..flat
    };
    let data = kvm_segment {
        selector: DATA_SELECTOR,
        type_: DATA,
        db: 1,
        ..flat
    };
    let task = kvm_segment {
        selector: TASK_SELECTOR,
        type_: BUSY_TASK,
        limit: TASK_LIMIT,
        present: 1,
        ..kvm_segment::default()
    };
    (code, data, task)
}

/// The segment as a descriptor table has it. All segments here begin at 0.
fn descriptor(segment: &kvm_segment) -> u64 {
    let limit = if segment.g == 1 {
        segment.limit >> 12
    } else {
        segment.limit
    };
    let bit = |value: u8, at: u32| u64::from(value) << at;
    u64::from(limit & 0xffff)
        | u64::from(limit >> 16) << 48
        | bit(segment.type_, 40)
        | bit(segment.s, 44)
        | bit(segment.present, 47)
        | bit(segment.l, 53)
        | bit(segment.db, 54)
        | bit(segment.g, 55)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::GuestMemoryMmap;

    fn entry(protocol: Protocol) -> Entry {
        Entry {
            protocol,
            address: 0x123_4567,
        }
    }

    fn tables(protocol: Protocol) -> GuestMemoryMmap {
        let guest = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        write_tables(&guest, &entry(protocol)).unwrap();
        guest
    }

    /// What the processor would find for `address`, by the rules of 4-level paging with 2 MiB pages.
    fn translate(guest: &GuestMemoryMmap, address: u64) -> u64 {
        let follow = |table: u64, shift: u32| {
            let entry: u64 = guest
                .read_obj(GuestAddress(table + (address >> shift & 0x1ff) * 8))
                .unwrap();
            assert_eq!(
                entry & PRESENT_WRITABLE,
                PRESENT_WRITABLE,
                "{address:#x} at level {shift}"
            );
            entry & !0xfff
        };
        let page = follow(follow(follow(layout::PML4.0, 39), 30), 21);
        page + address % LARGE_PAGE_BYTES
    }

    #[test]
    fn the_first_4_gib_are_mapped_to_themselves() {
        let guest = tables(Protocol::Linux64);

        for address in [0, 0x7000, 0x10_0200, 0x3fff_ffff, 0x4000_0000, 0xbfff_fff8, 0xffff_ffff] {
            assert_eq!(translate(&guest, address), address);
        }
    }

    #[test]
    fn the_tables_end_below_the_command_line() {
        let guest = tables(Protocol::Linux64);

        let end = layout::PML4.unchecked_add((2 + DIRECTORIES) * TABLE_BYTES);

        assert!(end < layout::CMDLINE);
        assert_eq!(guest.read_obj::<u64>(end).unwrap(), 0);
    }

    #[test]
    fn descriptors_say_what_the_segment_registers_say() {
        for (protocol, code) in [
            (Protocol::Linux64, 0x00af_9b00_0000_ffff),
            (Protocol::Pvh32, 0x00cf_9b00_0000_ffff),
        ] {
            let gdt: [u64; 6] = tables(protocol).read_obj(layout::GDT).unwrap();

            assert_eq!(gdt, [0, 0, code, 0x00cf_9300_0000_ffff, 0x0000_8b00_0000_0067, 0]);
        }
    }

    #[test]
    fn linux_begins_in_long_mode_with_its_zero_page() {
        let entry = entry(Protocol::Linux64);

        let (general, special) = (general(&entry), special(&entry, kvm_sregs::default()));

        assert_eq!(
            (general.rip, general.rsi, general.rflags),
            (entry.address, layout::ZERO_PAGE.0, 2)
        );
        assert_eq!(
            (special.cs.selector, special.cs.l, special.ds.selector),
            (0x10, 1, 0x18)
        );
        assert_eq!((special.cr0, special.cr4, special.efer), (0x8000_0011, 0x20, 0x500));
        assert_eq!(special.cr3, layout::PML4.0);
    }

    #[test]
    fn pvh_begins_in_protected_mode_without_paging_with_its_start_info() {
        let entry = entry(Protocol::Pvh32);

        let (general, special) = (general(&entry), special(&entry, kvm_sregs::default()));

        assert_eq!(
            (general.rip, general.rbx, general.rflags),
            (entry.address, layout::PVH_START_INFO.0, 2)
        );
        assert_eq!((special.cs.l, special.cs.db, special.cs.limit), (0, 1, u32::MAX));
        assert_eq!((special.cr0, special.cr4, special.efer), (0x11, 0, 0));
        assert_eq!((special.tr.limit, special.tr.type_), (0x67, 0b1011));
    }

    #[test]
    fn what_a_reset_left_elsewhere_stays() {
        let after_reset = kvm_sregs {
            apic_base: 0xfee0_0900,
            ..kvm_sregs::default()
        };

        let special = special(&entry(Protocol::Linux64), after_reset);

        assert_eq!(special.apic_base, after_reset.apic_base);
    }

    #[test]
    fn the_pin_of_the_legacy_interrupt_controller_is_masked() {
        let lapic = local_interrupts(kvm_lapic_state::default());

        let register =
            |at: usize| -> Vec<u8> { lapic.regs[at..at + 4].iter().map(|byte| byte.cast_unsigned()).collect() };

        assert_eq!(register(0x350), [0, 7, 1, 0]);
        assert_eq!(register(0x360), [0, 4, 0, 0]);
        assert!(lapic.regs[..0x350].iter().all(|byte| *byte == 0));
    }
}
