//! The answers of every processor of every size of machine, from what hosts of both makers say.

use super::*;
use proptest::prelude::*;

fn leaf(function: u32, index: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 {
        function,
        index,
        eax,
        ebx,
        ecx,
        edx,
        ..kvm_cpuid_entry2::default()
    }
}

const ALL: u32 = u32::MAX;

/// KVM's answers that do not depend on the maker, with every bit set that could be.
fn both() -> Vec<kvm_cpuid_entry2> {
    vec![
        leaf(0x1, 0, [0x0083_0f10, 0x0708_0811, ALL, ALL]),
        leaf(0x5, 0, [64, 64, 3, 0]),
        leaf(0x7, 0, [0, ALL, ALL, ALL]),
        leaf(0xb, 0, [1, 2, 0x100, 7]),
        leaf(0xd, 0, [7, 0x340, 0x340, 0]),
        leaf(0x4000_0000, 0, [0x4000_0001, 0x4b4d_564b, 0x564b_4d56, 0x4d]),
        leaf(0x4000_0001, 0, [0x0100_7efb, 0, 0, 0]),
    ]
}

fn intel() -> CpuId {
    let mut entries = both();
    entries.extend([
        leaf(0x0, 0, [0xd, 0x756e_6547, 0x6c65_746e, 0x4965_6e69]),
        leaf(0x8000_0008, 0, [0x3027, 0, 0, 0]),
        leaf(0x4, 0, [0x1c00_4121, 0x01c0_003f, 0x3f, 0]),
        leaf(0x4, 1, [0x1c00_4122, 0x01c0_003f, 0x3f, 0]),
        leaf(0x4, 2, [0x1c00_4143, 0x01c0_003f, 0x3ff, 0]),
        leaf(0x4, 3, [0x1c03_c163, 0x02c0_003f, 0x2fff, 6]),
        leaf(0x4, 4, [0, 0, 0, 0]),
        leaf(0xa, 0, [ALL, ALL, 0, ALL]),
        leaf(0x12, 0, [ALL, ALL, 0, ALL]),
        leaf(0x1f, 0, [1, 2, 0x100, 7]),
    ]);
    CpuId::from_entries(&entries).unwrap()
}

fn amd() -> CpuId {
    let mut entries = both();
    entries.extend([
        leaf(0x0, 0, [0xd, 0x6874_7541, 0x444d_4163, 0x6974_6e65]),
        leaf(0x8000_0001, 0, [0x0083_0f10, 0, ALL, ALL]),
        leaf(0x8000_0008, 0, [0x3030, 0, 0x7_703f, 0]),
        leaf(0x8000_000a, 0, [1, 16, 0, ALL]),
        leaf(0x8000_001d, 0, [0x4121, 0x01c0_003f, 0x3f, 1]),
        leaf(0x8000_001d, 3, [0x1_c163, 0x03c0_003f, 0x3fff, 6]),
        leaf(0x8000_001e, 0, [7, 0x103, 0x301, 0]),
        leaf(0x8000_001f, 0, [ALL, ALL, 0, 0]),
        leaf(0x8000_0022, 0, [ALL, ALL, 0, 0]),
    ]);
    CpuId::from_entries(&entries).unwrap()
}

/// The answer to one question; zeros where there is none, as a processor does.
fn ask(cpuid: &CpuId, function: u32, index: u32) -> kvm_cpuid_entry2 {
    let mut found = cpuid
        .as_slice()
        .iter()
        .filter(|entry| (entry.function, entry.index) == (function, index));
    let answer = found.next().copied().unwrap_or_default();
    assert!(found.next().is_none(), "two answers for {function:#x}.{index}");
    answer
}

#[test]
fn four_cores_are_one_socket_with_four_cores_on_intel() {
    let third = of_processor(&intel(), 2, 4);

    assert_eq!(ask(&third, 0x1, 0).ebx, 0x0204_0811);
    // The first two levels are a core's own, the third is everybody's; there may be four cores.
    assert_eq!(ask(&third, 0x4, 0).eax, 3 << 26 | 0x121);
    assert_eq!(ask(&third, 0x4, 2).eax, 3 << 26 | 0x143);
    assert_eq!(ask(&third, 0x4, 3).eax, 3 << 26 | 3 << 14 | 0x163);
    assert_eq!(ask(&third, 0x4, 4).eax, 0);
    assert_eq!(ask(&third, 0x8000_0008, 0).ecx, 0, "a meaning that only AMD gives it");
    for function in [0xb, 0x1f] {
        let (threads, cores, end) = (
            ask(&third, function, 0),
            ask(&third, function, 1),
            ask(&third, function, 2),
        );
        assert_eq!((threads.eax, threads.ebx, threads.ecx, threads.edx), (0, 1, 0x100, 2));
        assert_eq!((cores.eax, cores.ebx, cores.ecx, cores.edx), (2, 4, 0x201, 2));
        assert_eq!((end.eax, end.ebx, end.ecx, end.edx), (0, 0, 2, 2));
    }
}

#[test]
fn three_cores_are_one_socket_with_three_cores_on_amd() {
    let last = of_processor(&amd(), 2, 3);

    assert_eq!(ask(&last, 0x8000_0008, 0).ecx, 0x7_2002);
    let place = ask(&last, 0x8000_001e, 0);
    assert_eq!((place.eax, place.ebx, place.ecx), (2, 2, 0));
    assert_eq!(ask(&last, 0x8000_001d, 0).eax, 0x121);
    assert_eq!(ask(&last, 0x8000_001d, 3).eax, 3 << 14 | 0x163);
    assert_eq!(ask(&last, 0xb, 1).ebx, 3);
}

#[test]
fn a_single_processor_has_no_siblings() {
    let only = of_processor(&amd(), 0, 1);

    assert_eq!(ask(&only, 0x1, 0).edx & HYPER_THREADING, 0);
    assert_eq!(ask(&only, 0x1, 0).ebx >> 16, 1);
    assert_eq!(ask(&only, 0x8000_0001, 0).ecx & CORES_AS_THREADS, 0);
    assert_eq!(ask(&only, 0x8000_0008, 0).ecx & 0xf0ff, 0);
}

#[test]
fn what_this_machine_does_not_have_is_not_there() {
    for supported in [intel(), amd()] {
        let cpuid = of_processor(&supported, 1, 2);

        let features = ask(&cpuid, 0x1, 0);
        assert_eq!(features.ecx & (MONITOR | VMX | PERFORMANCE_CAPABILITIES), 0);
        assert_eq!(ask(&cpuid, 0x7, 0).ebx & SGX, 0);
        assert_eq!(ask(&cpuid, 0x8000_0001, 0).ecx & (SVM | PERFORMANCE_COUNTERS), 0);
        for function in ABSENT {
            assert_eq!(ask(&cpuid, function, 0), kvm_cpuid_entry2::default(), "{function:#x}");
        }
    }
}

#[test]
fn a_leaf_that_kvm_does_not_give_is_not_invented() {
    let minimal = CpuId::from_entries(&[leaf(0x1, 0, [0; 4])]).unwrap();

    let cpuid = of_processor(&minimal, 0, 4);

    assert_eq!(cpuid.as_slice().len(), 1);
}

#[test]
fn the_hypervisor_shows_itself_and_its_leaves_pass_through() {
    let cpuid = of_processor(&intel(), 0, 1);

    assert_ne!(ask(&cpuid, 0x1, 0).ecx & HYPERVISOR, 0);
    for function in [0x4000_0000, 0x4000_0001, 0xd] {
        assert_eq!(ask(&cpuid, function, 0), ask(&intel(), function, 0));
    }
}

proptest! {
    #[test]
    fn every_processor_has_its_own_id_and_all_agree_on_the_rest(count in 1..=254u8, index in 0..254u8) {
        let index = index % count;
        for supported in [intel(), amd()] {
            let (this, first) = (of_processor(&supported, index, count), of_processor(&supported, 0, count));

            let id = u32::from(index);
            prop_assert_eq!(ask(&this, 0x1, 0).ebx >> 24, id);
            prop_assert_eq!(ask(&this, 0xb, 0).edx, id);
            prop_assert!(id >> ask(&this, 0xb, 1).eax == 0, "the socket's ids have room for it");
            let without_ids = |cpuid: &CpuId| {
                let mut entries = cpuid.as_slice().to_vec();
                for entry in &mut entries {
                    match entry.function {
                        0x1 => entry.ebx &= 0x00ff_ffff,
                        0xb | 0x1f => entry.edx = 0,
                        0x8000_001e => (entry.eax, entry.ebx) = (0, 0),
                        _ => {}
                    }
                }
                entries
            };
            prop_assert_eq!(without_ids(&this), without_ids(&first));
        }
    }
}
