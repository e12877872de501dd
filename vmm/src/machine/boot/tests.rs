//! What `load` leaves in memory, for kernels made here: real enough to be loaded, and small. That real kernels boot from it is
//! shown under KVM, by the tests that start a guest.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};

use linux_loader::loader::bootparam::boot_params;
use linux_loader::loader::elf::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::*;

const MIB: u64 = 1 << 20;
/// What the bzImage here needs: 4 MiB from 16 MiB on.
const KERNEL_END: u64 = 20 * MIB;

fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    image[at..at + bytes.len()].copy_from_slice(bytes);
}

/// A bzImage: two sectors of header, a page of kernel.
fn bzimage() -> Vec<u8> {
    let mut image = vec![0; 1024 + 4096];
    image[1024..].fill(0xcc);
    put(&mut image, 0x1f1, &[1]);
    put(&mut image, 0x1f4, &256u32.to_le_bytes());
    put(&mut image, 0x1fe, b"\x55\xaa\xeb\x66HdrS\x0f\x02");
    put(&mut image, 0x211, &[1]);
    put(&mut image, 0x22c, &0x7fff_ffffu32.to_le_bytes());
    put(&mut image, 0x230, &0x20_0000u32.to_le_bytes());
    put(&mut image, 0x236, &[1]);
    put(&mut image, 0x238, &1000u32.to_le_bytes());
    put(&mut image, 0x258, &(16 * MIB).to_le_bytes());
    put(&mut image, 0x260, &0x40_0000u32.to_le_bytes());
    image
}

/// An ELF kernel: a page at 16 MiB, which is entered at its beginning, and the note for PVH in it, which enters 16 bytes later.
fn elf(has_note: bool) -> Vec<u8> {
    let mut image = vec![0; 8192];
    put(&mut image, 0, b"\x7fELF\x02\x01\x01");
    put(&mut image, 16, &[2, 0, 62, 0]);
    put(&mut image, 24, &(16 * MIB).to_le_bytes());
    put(&mut image, 32, &64u64.to_le_bytes());
    put(&mut image, 54, &[56, 0, 2, 0]);
    segment(&mut image, 64, 1, [4096, 16 * MIB, 4096, 8192]);
    if has_note {
        segment(&mut image, 64 + 56, 4, [8000, 0, 20, 20]);
        put(&mut image, 8000, &[4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0]);
        put(&mut image, 8012, b"Xen\0");
        put(&mut image, 8016, &(16 * 0x10_0000u32 + 16).to_le_bytes());
    }
    image
}

fn segment(image: &mut [u8], at: usize, kind: u8, [offset, address, in_file, in_memory]: [u64; 4]) {
    put(image, at, &[kind]);
    for (field, value) in [(8, offset), (24, address), (32, in_file), (40, in_memory)] {
        put(image, at + field, &value.to_le_bytes());
    }
}

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// A file of `bytes` zeros that begins and ends with a one.
fn initrd(bytes: u64) -> File {
    let mut file = file(&[1]);
    file.seek(SeekFrom::Start(bytes - 1)).unwrap();
    file.write_all(&[1]).unwrap();
    file
}

fn load_bytes(ram: &Ram, kernel: &[u8]) -> Result<Entry, BootError> {
    load(ram, &mut file(kernel), None, "console=ttyS0")
}

fn unfit(ram: &Ram, kernel: &[u8]) -> String {
    load_bytes(ram, kernel).unwrap_err().to_string()
}

/// The ranges of the memory map in the zero page: where, how long, of which kind.
fn e820(params: boot_params) -> Vec<(u64, u64, u32)> {
    let table = params.e820_table;
    table[..usize::from(params.e820_entries)]
        .iter()
        .map(|entry| (entry.addr, entry.size, entry.r#type))
        .collect()
}

fn zero_page(ram: &Ram) -> boot_params {
    ram.guest().read_obj(layout::ZERO_PAGE).unwrap()
}

#[test]
fn a_bzimage_is_entered_at_its_64_bit_entry_and_finds_what_its_protocol_promises() {
    let ram = Ram::new(64 * MIB).unwrap();

    let entry = load(&ram, &mut file(&bzimage()), Some(&mut initrd(5000)), "console=ttyS0").unwrap();

    assert_eq!(entry.protocol, Protocol::Linux64);
    assert_eq!(entry.address, layout::KERNEL.0 + 0x200);
    assert_eq!(
        ram.guest().read_obj::<u64>(layout::KERNEL).unwrap(),
        0xcccc_cccc_cccc_cccc
    );
    let params = zero_page(&ram);
    let header = params.hdr;
    assert_eq!({ header.header }, 0x5372_6448);
    assert_eq!(header.type_of_loader, 0xff);
    assert_eq!({ params.acpi_rsdp_addr }, layout::RSDP.0);
    assert_eq!(u64::from(header.cmd_line_ptr), layout::CMDLINE.0);
    let mut cmdline = [0xff; 14];
    ram.guest().read_slice(&mut cmdline, layout::CMDLINE).unwrap();
    assert_eq!(&cmdline, b"console=ttyS0\0");
    assert_eq!(
        (u64::from(header.ramdisk_image), header.ramdisk_size),
        (64 * MIB - 8192, 5000)
    );
    assert_eq!(ram.guest().read_obj::<u8>(GuestAddress(64 * MIB - 8192)).unwrap(), 1);
    assert_eq!(
        ram.guest()
            .read_obj::<u8>(GuestAddress(64 * MIB - 8192 + 4999))
            .unwrap(),
        1
    );
}

#[test]
fn what_an_older_kernel_has_behind_its_header_is_not_taken_for_header() {
    let ram = Ram::new(64 * MIB).unwrap();
    let mut kernel = bzimage();
    put(&mut kernel, 0x268, &[0xee; 4]);

    load_bytes(&ram, &kernel).unwrap();

    assert_eq!({ zero_page(&ram).hdr.kernel_info_offset }, 0);
}

#[test]
fn an_elf_kernel_with_the_note_is_entered_by_pvh() {
    let ram = Ram::new(64 * MIB).unwrap();

    let entry = load(&ram, &mut file(&elf(true)), Some(&mut initrd(5000)), "quiet").unwrap();

    assert_eq!(entry.protocol, Protocol::Pvh32);
    assert_eq!(entry.address, 16 * MIB + 16);
    let info: hvm_start_info = ram.guest().read_obj(layout::PVH_START_INFO).unwrap();
    assert_eq!((info.magic, info.version, info.nr_modules), (0x336e_c578, 1, 1));
    assert_eq!(info.rsdp_paddr, layout::RSDP.0);
    let module: hvm_modlist_entry = ram.guest().read_obj(GuestAddress(info.modlist_paddr)).unwrap();
    assert_eq!((module.paddr, module.size), (64 * MIB - 8192, 5000));
    let first: hvm_memmap_table_entry = ram.guest().read_obj(GuestAddress(info.memmap_paddr)).unwrap();
    assert_eq!((first.addr, first.size, first.type_), (0, layout::LOW_MEMORY_END, 1));
}

#[test]
fn an_elf_kernel_without_the_note_is_entered_as_linux() {
    let ram = Ram::new(64 * MIB).unwrap();

    let entry = load_bytes(&ram, &elf(false)).unwrap();

    assert_eq!((entry.protocol, entry.address), (Protocol::Linux64, 16 * MIB));
    assert_eq!({ zero_page(&ram).hdr.header }, 0x5372_6448);
}

#[test]
fn a_kernel_that_cannot_run_here_is_refused_with_the_reason() {
    let ram = Ram::new(64 * MIB).unwrap();
    let change = |at, bytes: &[u8]| {
        let mut kernel = bzimage();
        put(&mut kernel, at, bytes);
        kernel
    };
    let mut other_processor = elf(true);
    put(&mut other_processor, 18, &[183, 0]);
    let mut low = elf(true);
    segment(&mut low, 64, 1, [4096, 0x1000, 4096, 4096]);
    let mut high = elf(true);
    segment(&mut high, 64, 1, [4096, layout::HOLE_START, 4096, 4096]);
    let mut empty = elf(true);
    put(&mut empty, 64, &[6]);
    let mut astray = elf(false);
    put(&mut astray, 24, &(32 * MIB).to_le_bytes());

    for (kernel, reason) in [
        (change(0x206, &[0x0b, 0x02]), "2.11"),
        (change(0x236, &[0]), "no 64-bit entry"),
        (change(0x211, &[0]), "zImage"),
        (other_processor, "another processor"),
        (low, "not a kernel"),
        (high, "where devices begin"),
        (empty, "nothing to load"),
        (astray, "entry point 0x2000000"),
        (std::fs::read("/proc/self/exe").unwrap(), "not a kernel"),
        (b"\x1f\x8b\x08 and so on".to_vec(), "gzip"),
    ] {
        let error = unfit(&ram, &kernel);
        assert!(error.contains(reason), "{reason}: {error}");
    }
}

#[test]
fn a_kernel_that_is_cut_short_is_refused_with_both_lengths() {
    let ram = Ram::new(64 * MIB).unwrap();

    for (kernel, lengths) in [
        (&bzimage()[..5000], ["5000", "5120"]),
        (&bzimage()[..0x210], ["528", "620"]),
        (&elf(true)[..8190], ["8190", "8192"]),
    ] {
        let error = unfit(&ram, kernel);
        assert!(lengths.iter().all(|length| error.contains(length)), "{error}");
    }
}

#[test]
fn too_little_memory_is_refused_with_both_sizes() {
    let ram = Ram::new(20 * MIB).unwrap();
    let small = Ram::new(8 * MIB).unwrap();

    let with_initrd = load(&ram, &mut file(&bzimage()), Some(&mut initrd(3 * MIB)), "").unwrap_err();
    let kernel_alone = load_bytes(&small, &bzimage()).unwrap_err();
    let elf_alone = load_bytes(&small, &elf(true)).unwrap_err();

    assert!(with_initrd.to_string().contains("need 23 MiB"), "{with_initrd}");
    assert!(with_initrd.to_string().contains("has 20 MiB"), "{with_initrd}");
    assert!(kernel_alone.to_string().contains("need 20 MiB"), "{kernel_alone}");
    assert!(elf_alone.to_string().contains("need 17 MiB"), "{elf_alone}");
}

#[test]
fn an_initramfs_that_the_kernel_would_not_find_is_refused() {
    let ram = Ram::new(4096 * MIB).unwrap();
    let mut kernel = bzimage();
    put(&mut kernel, 0x22c, &0x01ff_ffffu32.to_le_bytes());

    let error = load(&ram, &mut file(&kernel), Some(&mut initrd(13 * MIB)), "").unwrap_err();

    assert!(error.to_string().contains(&format!("at most {}", 12 * MIB)), "{error}");
}

#[test]
fn a_command_line_that_is_too_long_is_refused_and_the_longest_is_not() {
    let ram = Ram::new(64 * MIB).unwrap();
    let boot = |kernel: &[u8], bytes| load(&ram, &mut file(kernel), None, &"x".repeat(bytes));

    boot(&bzimage(), 1000).unwrap();
    let error = boot(&bzimage(), 1001).unwrap_err();
    boot(&elf(true), 2047).unwrap();
    let longer = boot(&elf(true), 2048).unwrap_err();

    assert!(
        error.to_string().contains("1001 bytes") && error.to_string().contains("at most 1000"),
        "{error}"
    );
    assert!(longer.to_string().contains("at most 2047"), "{longer}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn memory_is_described_once_and_the_initramfs_lies_in_it_beside_the_kernel(
        pages in (32 * MIB / 4096)..(64 << 30) / 4096,
        initrd_bytes in 1..8 * MIB,
    ) {
        let ram = Ram::new(pages * 4096).unwrap();

        load(&ram, &mut file(&bzimage()), Some(&mut initrd(initrd_bytes)), "").unwrap();

        let params = zero_page(&ram);
        let map = e820(params);
        prop_assert!(map.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0), "{map:x?}");
        let usable: Vec<_> = map.iter().filter(|area| area.2 == 1).map(|area| (area.0, area.0 + area.1)).collect();
        for &(start, end) in &usable {
            let inside = |&(base, length): &(u64, u64)| start >= base && end <= base + length;
            prop_assert!(layout::ram_ranges(ram.bytes()).iter().any(inside), "{start:x} to {end:x}");
        }
        let left_out = layout::KERNEL.0 - layout::LOW_MEMORY_END;
        prop_assert_eq!(usable.iter().map(|(start, end)| end - start).sum::<u64>(), ram.bytes() - left_out);

        let header = params.hdr;
        let (start, end) = (u64::from(header.ramdisk_image), u64::from(header.ramdisk_image) + initrd_bytes);
        prop_assert_eq!(u64::from(header.ramdisk_size), initrd_bytes);
        prop_assert!(start % 4096 == 0 && start >= KERNEL_END && end <= 0x8000_0000);
        prop_assert!(usable.iter().any(|&(base, limit)| start >= base && end <= limit), "{start:x} to {end:x}");
    }

    #[test]
    fn random_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        let ram = Ram::new(32 * MIB).unwrap();

        prop_assert!(load_bytes(&ram, &bytes).is_err());
    }
}

/// A kernel's file with some bytes of its first two KiB changed, and perhaps cut.
fn damaged(whole: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let length = whole.len();
    let changes = proptest::collection::vec((0..1024usize, any::<u8>()), 0..24);
    (changes, prop_oneof![3 => Just(length), 1 => 0..length]).prop_map(move |(changes, length)| {
        let mut image = whole.clone();
        for (at, byte) in changes {
            image[at] = byte;
        }
        image.truncate(length);
        image
    })
}

/// A header with whole fields that lie: the numbers where arithmetic goes wrong.
fn lying(whole: Vec<u8>, fields: &'static [usize]) -> impl Strategy<Value = Vec<u8>> {
    let number = prop_oneof![
        Just(0),
        Just(u64::MAX),
        Just(1 << 63),
        Just(1 << 32),
        Just(0xffff_ffff),
        any::<u64>()
    ];
    proptest::collection::vec((proptest::sample::select(fields), number), 1..6).prop_map(move |lies| {
        let mut image = whole.clone();
        for (at, number) in lies {
            put(&mut image, at, &number.to_le_bytes()[..4]);
            if at < 0x1f1 || at == 0x258 {
                put(&mut image, at, &number.to_le_bytes());
            }
        }
        image
    })
}

/// Fields of the bzImage header.
const BZIMAGE_FIELDS: &[usize] = &[0x1f4, 0x22c, 0x230, 0x238, 0x258, 0x260];
/// Fields of the ELF header and of its two program headers.
const ELF_FIELDS: &[usize] = &[24, 32, 72, 88, 96, 104, 128, 144, 152, 160];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_file_makes_it_panic_or_leave_the_memory(
        kernel in prop_oneof![
            damaged(bzimage()),
            damaged(elf(true)),
            lying(bzimage(), BZIMAGE_FIELDS),
            lying(elf(true), ELF_FIELDS),
        ],
    ) {
        let ram = Ram::new(32 * MIB).unwrap();

        if let Ok(entry) = load(&ram, &mut file(&kernel), Some(&mut initrd(5000)), "quiet") {
            prop_assert!(entry.address >= layout::KERNEL.0 && entry.address < ram.bytes());
        }
    }
}
