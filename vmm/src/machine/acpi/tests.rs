//! The tables against ACPI's own rules, and against the compiler of those who wrote them.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use super::*;
use proptest::prelude::*;
use vm_memory::GuestAddress;

/// The tables of an image by signature, found as a kernel finds them, each with its sum checked.
fn find(image: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let at = |address: u64| usize::try_from(address - layout::RSDP.0).unwrap();
    assert_eq!(&image[..8], b"RSD PTR ");
    assert_eq!((sum(&image[..20]), sum(&image[..36])), (0, 0));
    let mut tables = BTreeMap::new();
    let mut waiting = vec![number(image, 24)];
    while let Some(address) = waiting.pop() {
        let rest = &image[at(address)..];
        let length = usize::try_from(u32::from_le_bytes(rest[4..8].try_into().unwrap())).unwrap();
        let table = &rest[..length];
        let signature = String::from_utf8(table[..4].to_vec()).unwrap();
        assert_eq!(sum(table), 0, "{signature}");
        if signature == "XSDT" {
            waiting.extend((36..length).step_by(8).map(|entry| number(table, entry)));
        }
        if signature == "FACP" {
            waiting.push(number(table, 140));
        }
        tables.insert(signature, table.to_vec());
    }
    tables
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// Devices at every place there is.
fn all_slots() -> Vec<VirtioSlot> {
    layout::virtio_slots(layout::VIRTIO_DEVICES).unwrap()
}

#[test]
fn the_largest_machine_fits_into_the_room_for_tables() {
    let image = tables(u8::MAX, &all_slots());

    let end = layout::RSDP.0 + u64::try_from(image.len()).unwrap();
    assert!(end <= layout::RESET_VECTOR.0, "{end:#x}");
}

#[test]
fn they_lie_where_they_are_searched_for() {
    let ram = Ram::new(16 << 20).unwrap();

    write(&ram, 2, &[]).unwrap();

    let mut image = vec![0; tables(2, &[]).len()];
    ram.guest().read_slice(&mut image, GuestAddress(0xe_0000)).unwrap();
    assert_eq!(image, tables(2, &[]));
}

proptest! {
    #[test]
    fn every_table_is_found_and_adds_up(cpus in 1..=u8::MAX, devices in 0..=layout::VIRTIO_DEVICES) {
        let tables = find(&tables(cpus, &layout::virtio_slots(devices).unwrap()));

        prop_assert_eq!(tables.keys().map(String::as_str).collect::<Vec<_>>(), ["APIC", "DSDT", "FACP", "XSDT"]);
        let in_namespace = tables["DSDT"].windows(9).filter(|name| name == b"ACPI0007\0").count();
        prop_assert_eq!(in_namespace, usize::from(cpus));
        // Header and fixed part, eight bytes for each processor, twelve for the IOAPIC.
        prop_assert_eq!(tables["APIC"].len(), 44 + 8 * usize::from(cpus) + 12);
        let virtio = tables["DSDT"].windows(9).filter(|name| name == b"LNRO0005\0").count();
        prop_assert_eq!(virtio, devices);
    }
}

#[test]
fn registers_are_where_the_layout_has_them() {
    let fadt = &find(&tables(1, &[]))["FACP"];

    // In each: I/O space, 8 bits from bit 0, byte access, the port.
    let port = |number: u16| [&[1, 8, 0, 1][..], &u64::from(number).to_le_bytes()].concat();
    assert_eq!(fadt[116..128], port(layout::RESET));
    assert_eq!(fadt[128], layout::RESET_VALUE);
    assert_eq!(fadt[244..256], port(layout::SLEEP_CONTROL));
    assert_eq!(fadt[256..268], port(layout::SLEEP_STATUS));
    let flags = u32::from_le_bytes(fadt[112..116].try_into().unwrap());
    assert_eq!(
        flags & (1 << 20 | 1 << 10),
        1 << 20 | 1 << 10,
        "hardware-reduced, with a reset register"
    );
}

/// Runs iasl in `directory`; what it says.
fn iasl(directory: &Path, arguments: &[&str]) -> String {
    let output = Command::new("iasl")
        .args(arguments)
        .current_dir(directory)
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "iasl {arguments:?}: {said}");
    said
}

/// Records that the running test did not take place, as the whole-program tests do.
fn skip(missing: &str) {
    let line = format!("SKIPPED {}: {missing}\n", std::thread::current().name().unwrap());
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(path) = std::env::var_os("MAYFLY_SKIPS") {
        let mut skips = OpenOptions::new().create(true).append(true).open(path).unwrap();
        skips.write_all(line.as_bytes()).unwrap();
    }
}

#[test]
fn acpicas_compiler_reads_them_and_finds_the_devices() {
    let version = Command::new("iasl").arg("-v").stdout(Stdio::null()).status();
    if version.is_err() {
        skip("needs iasl, of Debian's acpica-tools");
        return;
    }
    let directory = tempfile::tempdir().unwrap();

    for (signature, table) in find(&tables(3, &all_slots())) {
        std::fs::write(directory.path().join(format!("{signature}.aml")), table).unwrap();
        let said = iasl(directory.path(), &["-d", &format!("{signature}.aml")]);
        let source = std::fs::read_to_string(directory.path().join(format!("{signature}.dsl"))).unwrap();
        for text in [said, source] {
            let text = text.to_lowercase();
            assert!(
                !text.contains("error") && !text.contains("warning"),
                "{signature}: {text}"
            );
            assert!(
                !text.contains("invalid") && !text.contains("incorrect"),
                "{signature}: {text}"
            );
        }
    }

    let compiled = iasl(directory.path(), &["-p", "again", "DSDT.dsl"]);
    assert!(compiled.contains("0 Errors, 0 Warnings"), "{compiled}");
    let devices = std::fs::read_to_string(directory.path().join("DSDT.dsl")).unwrap();
    let words: String = devices.split_whitespace().collect::<Vec<_>>().join(" ");
    for expected in [
        "Device (COM1) { Name (_HID, EisaId (\"PNP0501\")",
        "Memory32Fixed (ReadWrite, 0xD0002000, // Address Base 0x00001000, // Address Length )",
        "Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive, ,, ) { 0x00000007, }",
        "Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive, ,, ) { 0x00000004, }",
        "Name (\\_S5, Package (0x04)",
    ] {
        assert!(words.contains(expected), "{expected}:\n{devices}");
    }
}
