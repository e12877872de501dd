//! What the guest is told about its memory, for both protocols.

use crate::contract::PAGE;
use crate::machine::layout;

/// A stretch of addresses that the guest must know of. Whatever is in no stretch is not memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Area {
    pub(super) start: u64,
    pub(super) bytes: u64,
    pub(super) kind: Kind,
}

/// What the guest may do there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Usable,
    Reserved,
}

impl Kind {
    /// As the protocols write it: the numbers of the BIOS call E820, which Xen took over.
    pub(super) fn number(self) -> u32 {
        match self {
            Self::Usable => 1,
            Self::Reserved => 2,
        }
    }
}

/// The map of a machine with `bytes` of memory, sorted, without overlaps.
pub(super) fn of(bytes: u64) -> Vec<Area> {
    let area = |start, end, kind| Area {
        start,
        bytes: end - start,
        kind,
    };
    let mut areas = vec![
        // What `layout` places here is read before the kernel uses it for anything else.
        area(0, layout::LOW_MEMORY_END, Kind::Usable),
        // Not "ACPI data", which a kernel may overwrite once it has read it: one that it starts by kexec reads it again.
        area(layout::RSDP.0, layout::KERNEL.0, Kind::Reserved),
        // KVM has pages of its own here on Intel's processors; nothing else may be put there.
        area(
            layout::KVM_IDENTITY_MAP,
            layout::KVM_IDENTITY_MAP + 4 * PAGE,
            Kind::Reserved,
        ),
    ];
    areas.extend(layout::ram_ranges(bytes).into_iter().map(|(start, length)| {
        let above_tables = start.max(layout::KERNEL.0);
        area(above_tables, start + length, Kind::Usable)
    }));
    areas.sort_by_key(|area| area.start);
    areas
}
