//! What a processor says about itself (CPUID): KVM's answer for this host, made true for this machine.
//!
//! Three kinds of change. *Who am I*: APIC ids, and one socket with so many cores and one thread each. *What is not here*: nested
//! virtualisation, performance counters, MWAIT, encrypted memory and enclaves. A guest could use some of these if they were left
//! in, because KVM can do them; but nobody who burns a disk after use needs them, and each is a large piece of the host's kernel
//! that a hostile guest would talk to (nested virtualisation most of all). *What KVM leaves to us*: the hypervisor bit, and the
//! local APIC's TSC deadline timer. KVM's own leaves (kvm-clock) pass through.
//!
//! A leaf that KVM does not give is not invented. Knows no file and no device.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::{Cap, Kvm};

/// A bit of a register.
const fn bit(number: u32) -> u32 {
    1 << number
}

/// Leaf 1, ECX.
const DEBUG_STORE_64: u32 = bit(2);
const MONITOR: u32 = bit(3);
const DEBUG_STORE_CPL: u32 = bit(4);
const VMX: u32 = bit(5);
const PERFORMANCE_CAPABILITIES: u32 = bit(15);
const TSC_DEADLINE: u32 = bit(24);
const HYPERVISOR: u32 = bit(31);
/// Leaf 1, EDX.
const DEBUG_STORE: u32 = bit(21);
const HYPER_THREADING: u32 = bit(28);
/// Leaf 7, subleaf 0: EBX and ECX.
const SGX: u32 = bit(2);
const SGX_LAUNCH_CONTROL: u32 = bit(30);
/// Leaf 0x8000_0001, ECX.
const CORES_AS_THREADS: u32 = bit(1);
const SVM: u32 = bit(2);
const PERFORMANCE_COUNTERS: u32 = bit(23) | bit(24) | bit(28);

/// Leaf 0, EBX: how the names of AMD and of Hygon, who make the same, begin.
const AMD: [u32; 2] = [u32::from_le_bytes(*b"Auth"), u32::from_le_bytes(*b"Hygo")];

/// Leaves that are left out. What a processor does not list reads as zeros.
const ABSENT: [u32; 7] = [
    0x5,         // MONITOR and MWAIT
    0xa,         // performance counters (Intel)
    0x12,        // SGX enclaves
    0x8000_000a, // nested virtualisation (AMD)
    0x8000_001f, // encrypted memory, which this machine's is not
    0x8000_0022, // performance counters (AMD)
    0x8000_0026, // AMD's topology; 0xb says the same
];

/// Topology by levels, in Intel's first and second format. AMD's processors have the first, too.
const LEVELS: [u32; 2] = [0xb, 0x1f];

/// The kinds of level in them.
const LEVEL_THREADS: u32 = 1;
/// See above.
const LEVEL_CORES: u32 = 2;

/// What KVM can do on this host, with the timer that it tells elsewhere.
///
/// # Errors
/// KVM refuses.
pub(crate) fn supported(kvm: &Kvm) -> Result<CpuId, kvm_ioctls::Error> {
    let mut cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?;
    if kvm.check_extension(Cap::TscDeadlineTimer) {
        for entry in cpuid.as_mut_slice().iter_mut().filter(|entry| entry.function == 1) {
            entry.ecx |= TSC_DEADLINE;
        }
    }
    Ok(cpuid)
}

/// The answers of processor `index` of `count`, whose APIC id is its index.
pub(crate) fn of_processor(supported: &CpuId, index: u8, count: u8) -> CpuId {
    let mut makers = supported.as_slice().iter().filter(|entry| entry.function == 0);
    let place = Place {
        id: index.into(),
        count: count.max(1).into(),
        is_amd: makers.any(|maker| AMD.contains(&maker.ebx)),
    };
    let mut entries: Vec<_> = supported
        .as_slice()
        .iter()
        .filter(|entry| !ABSENT.contains(&entry.function) && !LEVELS.contains(&entry.function))
        .map(|entry| place.adapt(*entry))
        .collect();
    for leaf in LEVELS {
        if supported.as_slice().iter().any(|entry| entry.function == leaf) {
            entries.extend(place.levels(leaf));
        }
    }
    CpuId::from_entries(&entries).expect("KVM has some fifty answers and takes 256; at most four were added")
}

/// One processor among those of the machine.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Its APIC id.
    id: u32,
    /// How many there are.
    count: u32,
    /// Whether the host's are AMD's, who give other leaves a meaning.
    is_amd: bool,
}

impl Place {
    /// Bits of an APIC id that tell the cores of the socket apart.
    fn id_bits(self) -> u32 {
        self.count.next_power_of_two().trailing_zeros()
    }

    fn adapt(self, entry: kvm_cpuid_entry2) -> kvm_cpuid_entry2 {
        match entry.function {
            0x1 => self.features(entry),
            0x4 => self.intel_cache(entry),
            0x7 if entry.index == 0 => kvm_cpuid_entry2 {
                ebx: entry.ebx & !SGX,
                ecx: entry.ecx & !SGX_LAUNCH_CONTROL,
                ..entry
            },
            0x8000_0001 => self.extended_features(entry),
            0x8000_0008 if self.is_amd => self.amd_cores(entry),
            0x8000_001d => sharing(entry, self.sharers(entry)),
            0x8000_001e => kvm_cpuid_entry2 {
                eax: self.id,
                // One thread for each core; all in node 0.
                ebx: self.id,
                ecx: 0,
                ..entry
            },
            _ => entry,
        }
    }

    /// Leaf 1.
    fn features(self, entry: kvm_cpuid_entry2) -> kvm_cpuid_entry2 {
        let absent = DEBUG_STORE_64 | MONITOR | DEBUG_STORE_CPL | VMX | PERFORMANCE_CAPABILITIES;
        let ids = self.count.next_power_of_two();
        let threads = if self.count > 1 { HYPER_THREADING } else { 0 };
        kvm_cpuid_entry2 {
            // The second byte has the size of a cache line; a machine of more than 128 processors has no room for the number of
            // its ids here, and needs leaf 0xb.
            ebx: self.id << 24 | ids.min(0xff) << 16 | entry.ebx & 0xffff,
            ecx: entry.ecx & !absent | HYPERVISOR,
            edx: entry.edx & !(DEBUG_STORE | HYPER_THREADING) | threads,
            ..entry
        }
    }

    /// Leaf 4: one cache.
    fn intel_cache(self, entry: kvm_cpuid_entry2) -> kvm_cpuid_entry2 {
        if cache_level(entry) == 0 {
            return entry;
        }
        let cores = (self.count.next_power_of_two() - 1).min(0x3f);
        let entry = sharing(entry, self.sharers(entry));
        kvm_cpuid_entry2 {
            eax: entry.eax & 0x03ff_ffff | cores << 26,
            ..entry
        }
    }

    /// How many processors share a cache: all of them the last level, a core's own two are its own.
    fn sharers(self, entry: kvm_cpuid_entry2) -> u32 {
        if cache_level(entry) < 3 {
            1
        } else {
            self.count.next_power_of_two()
        }
    }

    /// Leaf 0x8000_0001. "Cores, not threads" is said where there are any, by processors that can say it.
    fn extended_features(self, entry: kvm_cpuid_entry2) -> kvm_cpuid_entry2 {
        let alone = if self.count > 1 { 0 } else { CORES_AS_THREADS };
        kvm_cpuid_entry2 {
            ecx: entry.ecx & !(SVM | PERFORMANCE_COUNTERS | alone),
            ..entry
        }
    }

    /// Leaf 0x8000_0008: ECX has the number of cores, less one, and the number of bits that tell them apart.
    fn amd_cores(self, entry: kvm_cpuid_entry2) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            ecx: entry.ecx & !0xf0ff | self.id_bits() << 12 | (self.count - 1),
            ..entry
        }
    }

    /// Threads, of which a core has one; cores, which are all there is; the end.
    fn levels(self, leaf: u32) -> [kvm_cpuid_entry2; 3] {
        let level = |index, id_bits, processors, kind: u32| kvm_cpuid_entry2 {
            function: leaf,
            index,
            flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            eax: id_bits,
            ebx: processors,
            ecx: kind << 8 | index,
            edx: self.id,
            ..kvm_cpuid_entry2::default()
        };
        [
            level(0, 0, 1, LEVEL_THREADS),
            level(1, self.id_bits(), self.count, LEVEL_CORES),
            level(2, 0, 0, 0),
        ]
    }
}

/// The level of the cache that an entry of leaf 4 or 0x8000_001d describes; 0 for "no more caches".
fn cache_level(entry: kvm_cpuid_entry2) -> u32 {
    if entry.eax & 0x1f == 0 {
        0
    } else {
        entry.eax >> 5 & 0b111
    }
}

/// The entry, with so many processors that share the cache.
fn sharing(entry: kvm_cpuid_entry2, sharers: u32) -> kvm_cpuid_entry2 {
    if cache_level(entry) == 0 {
        return entry;
    }
    kvm_cpuid_entry2 {
        eax: entry.eax & !(0xfff << 14) | (sharers - 1) << 14,
        ..entry
    }
}

#[cfg(test)]
mod tests;
