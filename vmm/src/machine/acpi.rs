//! What the guest learns about its machine by ACPI 6.5: processors, the interrupt controller, the console, the virtio devices, and
//! how to switch off and to reset.
//!
//! The machine is "hardware-reduced": none of the fixed hardware of a PC (no power management timer, no legacy interrupt
//! controller, no system control interrupt), so there is nothing to emulate for it. Devices that cannot be found by asking a bus
//! are described, so no kernel needs them on its command line. All interrupts are edges, because nobody in this process sees a
//! device's interrupt and could take a level back.
//!
//! ```text
//! RSDP ─► XSDT ─┬─► FADT ─► DSDT     registers of sleep and reset; devices
//!               └─► MADT             local APICs and IOAPIC
//! ```
//!
//! Knows addresses and interrupt lines from `layout`, and nothing of what the devices do.

use acpi_tables::Aml;
use acpi_tables::aml::{Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package, ResourceTemplate, Scope};
use acpi_tables::fadt::{FADT, FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use vm_memory::Bytes;

use super::boot::BootError;
use super::layout::{self, VirtioSlot};
use super::memory::Ram;

/// Who made the tables, as six and eight bytes, and in which revision of them.
const OEM: [u8; 6] = *b"MAYFLY";
/// See above.
const OEM_TABLE: [u8; 8] = *b"MAYFLYVM";
/// See above.
const OEM_REVISION: u32 = 1;
/// A DSDT from revision 2 on calculates with 64 bits.
const DSDT_REVISION: u8 = 2;
/// Length of the header that a DSDT begins with.
const SDT_HEADER_BYTES: u32 = 36;
/// Tables begin at multiples of this; the specification asks for it where a root pointer may be searched for.
const ALIGNMENT: usize = 16;
/// FADT, boot architecture: there is no VGA; there is no CMOS clock. The bits not set: no ISA devices that a user would see, no
/// keyboard controller (only its reset line works).
const BOOT_ARCHITECTURE: u16 = 1 << 2 | 1 << 5;

/// Describes a machine with `cpus` processors, whose APIC ids are 0 and up, and virtio devices at `slots`.
///
/// # Errors
/// There is no memory where `layout` has the tables.
pub(crate) fn write(ram: &Ram, cpus: u8, slots: &[VirtioSlot]) -> Result<(), BootError> {
    ram.guest()
        .write_slice(&tables(cpus, slots), layout::RSDP)
        .map_err(BootError::memory("the ACPI tables"))
}

/// Everything, as it lies from `layout::RSDP` on.
fn tables(cpus: u8, slots: &[VirtioSlot]) -> Vec<u8> {
    let mut image = vec![0; Rsdp::len()];
    let dsdt = append(&mut image, &dsdt(cpus, slots));
    let fadt = append(&mut image, &fadt(dsdt));
    let madt = append(&mut image, &madt(cpus));
    let mut root = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    root.add_entry(fadt);
    root.add_entry(madt);
    let root = append(&mut image, &root);
    let mut pointer = Vec::new();
    Rsdp::new(OEM, root).to_aml_bytes(&mut pointer);
    image[..pointer.len()].copy_from_slice(&pointer);
    image
}

/// Puts `table` behind what is there; returns its address.
fn append(image: &mut Vec<u8>, table: &dyn Aml) -> u64 {
    image.resize(image.len().next_multiple_of(ALIGNMENT), 0);
    let offset = u64::try_from(image.len()).expect("a length fits into 64 bits");
    table.to_aml_bytes(image);
    layout::RSDP.0 + offset
}

fn fadt(dsdt: u64) -> FADT {
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION).dsdt_64(dsdt);
    let flags = [
        Flags::HwReducedAcpi,
        Flags::ResetRegSup,
        // WBINVD works; there are no buttons and no clock that would wake the machine through fixed registers; no screen.
        Flags::Wbinvd,
        Flags::PwrButton,
        Flags::SlpButton,
        Flags::FixRtc,
        Flags::Headless,
    ];
    for flag in flags {
        fadt = fadt.flag(flag);
    }
    fadt.iapc_boot_arch = BOOT_ARCHITECTURE.into();
    fadt.reset_reg = port(layout::RESET);
    fadt.reset_value = layout::RESET_VALUE;
    fadt.sleep_control_reg = port(layout::SLEEP_CONTROL);
    fadt.sleep_status_reg = port(layout::SLEEP_STATUS);
    fadt.finalize()
}

/// A register of one byte at an I/O port.
fn port(number: u16) -> GAS {
    GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, number.into())
}

/// No interrupt source overrides: every line is the IOAPIC's pin of the same number, and the DSDT says how it is triggered.
fn madt(cpus: u8) -> MADT {
    let address = LocalInterruptController::Address(layout::LOCAL_APIC);
    let mut madt = MADT::new(OEM, OEM_TABLE, OEM_REVISION, address);
    for index in 0..cpus {
        madt.add_structure(ProcessorLocalApic::new(index, index, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, layout::IOAPIC, 0));
    madt
}

fn dsdt(cpus: u8, slots: &[VirtioSlot]) -> Sdt {
    let mut devices = Vec::new();
    for index in 0..cpus {
        processor(index, &mut devices);
    }
    console(&mut devices);
    for (index, slot) in (0..).zip(slots) {
        virtio(index, *slot, &mut devices);
    }
    let mut code = Scope::raw("\\_SB_".into(), devices);
    // "Soft off" has sleep type 5; the other three values are for hardware that is not reduced.
    let sleep_type = Package::new(vec![&layout::SLEEP_TYPE_OFF, &0u8, &0u8, &0u8]);
    Name::new("\\_S5_".into(), &sleep_type).to_aml_bytes(&mut code);
    let mut dsdt = Sdt::new(*b"DSDT", SDT_HEADER_BYTES, DSDT_REVISION, OEM, OEM_TABLE, OEM_REVISION);
    dsdt.append_slice(&code);
    dsdt
}

fn processor(index: u8, devices: &mut Vec<u8>) {
    let id = Name::new("_HID".into(), &"ACPI0007");
    let number = Name::new("_UID".into(), &index);
    device(&format!("C{index:03X}"), vec![&id, &number], devices);
}

fn console(devices: &mut Vec<u8>) {
    let id = Name::new("_HID".into(), &EISAName::new("PNP0501"));
    let number = Name::new("_UID".into(), &0u8);
    let count = u8::try_from(layout::COM1_PORTS).expect("a serial port has 8 ports");
    let ports = IO::new(layout::COM1, layout::COM1, 1, count);
    let interrupt = edge(layout::COM1_GSI);
    let resources = Name::new("_CRS".into(), &ResourceTemplate::new(vec![&ports, &interrupt]));
    device("COM1", vec![&id, &number, &resources], devices);
}

/// "LNRO0005" is what Linux's virtio_mmio is loaded for.
fn virtio(index: u8, slot: VirtioSlot, devices: &mut Vec<u8>) {
    let id = Name::new("_HID".into(), &"LNRO0005");
    let number = Name::new("_UID".into(), &index);
    let below_4_gib = |number| u32::try_from(number).expect("layout places devices in the hole below 4 GiB");
    let registers = Memory32Fixed::new(true, below_4_gib(slot.base), below_4_gib(layout::VIRTIO_STRIDE));
    let interrupt = edge(slot.gsi);
    let resources = Name::new("_CRS".into(), &ResourceTemplate::new(vec![&registers, &interrupt]));
    device(&format!("V{index:03X}"), vec![&id, &number, &resources], devices);
}

fn device(name: &str, children: Vec<&dyn Aml>, devices: &mut Vec<u8>) {
    Device::new(name.into(), children).to_aml_bytes(devices);
}

/// An interrupt that the device consumes: edge-triggered, active high, not shared.
fn edge(gsi: u32) -> Interrupt {
    Interrupt::new(true, true, false, false, gsi)
}

#[cfg(test)]
mod tests;
