//! What follows from what the host has.

use super::*;
use crate::supervisor::args::Options;
use crate::supervisor::words::User;

fn host(kvm: KvmState) -> Host {
    Host {
        kvm,
        way_to_kvm: way_to_kvm(Some(103), "root:x:0:\nkvm:x:103:libvirt\n"),
        memory_bytes: 8 << 30,
        available_bytes: 2 << 30,
        cpus: 2,
    }
}

#[test]
fn auto_takes_kvm_only_where_the_processor_virtualises() {
    let engine = |kvm| host(kvm).choose(Accel::Auto).unwrap();

    assert_eq!(engine(KvmState::Hardware), (Engine::Kvm, None));
    for kvm in [
        KvmState::Software,
        KvmState::Refused(Errno::ENOENT),
        KvmState::Refused(Errno::EACCES),
    ] {
        let (engine, notice) = engine(kvm);
        assert_eq!(engine, Engine::Qemu);
        assert!(notice.unwrap().contains("less confined"));
    }
}

#[test]
fn auto_does_not_take_less_than_the_user_could_have() {
    for errno in [Errno::EACCES, Errno::EPERM] {
        let state = |cpuinfo| kvm_state(Err(errno.into()), cpuinfo);
        assert_eq!(state("flags\t\t: fpu vmx\n"), KvmState::Forbidden);
        assert_eq!(state("flags\t\t: fpu svm\n"), KvmState::Forbidden);
        assert_eq!(state("flags\t\t: fpu\n"), KvmState::Refused(errno));
    }
    let gone = kvm_state(Err(Errno::ENOENT.into()), "flags\t\t: fpu vmx\n");
    assert_eq!(gone, KvmState::Refused(Errno::ENOENT));

    for accel in [Accel::Auto, Accel::Kvm] {
        let refused = host(KvmState::Forbidden).choose(accel).unwrap_err().to_string();
        assert!(refused.contains("sudo adduser $USER kvm"), "{refused}");
        assert!(refused.contains("--accel qemu"), "{refused}");
    }
    let chosen = host(KvmState::Forbidden).choose(Accel::Qemu);
    assert_eq!(chosen, Ok((Engine::Qemu, None)));
}

#[test]
fn the_group_that_owns_kvm_is_named_if_it_has_a_name() {
    let groups = "root:x:0:\nmine:x:10:a,b\n:x:7:\nodd\n";
    assert!(way_to_kvm(Some(10), groups).contains("owns it, mine (sudo adduser $USER mine,"));
    for gid in [1, 7] {
        let way = way_to_kvm(Some(gid), groups);
        assert!(way.contains(&format!("number {gid}, which has no name")), "{way}");
    }
    assert!(way_to_kvm(None, groups).contains("usually kvm"));
    // That would be too much.
    assert!(!way_to_kvm(Some(0), groups).contains("$USER root"));
}

#[test]
fn kvm_that_is_asked_for_is_used_or_missed() {
    let chosen = |kvm| host(kvm).choose(Accel::Kvm);

    assert_eq!(chosen(KvmState::Hardware), Ok((Engine::Kvm, None)));
    assert!(
        chosen(KvmState::Software)
            .unwrap()
            .1
            .unwrap()
            .contains("stock kernels do not run")
    );
    assert_eq!(chosen(KvmState::Refused(Errno::ENOENT)), Err(HostError::NoKvm));
    assert!(matches!(
        chosen(KvmState::Refused(Errno::EACCES)),
        Err(HostError::KvmDenied { .. })
    ));
    assert_eq!(
        chosen(KvmState::Refused(Errno::EBUSY)),
        Err(HostError::Kvm(Errno::EBUSY))
    );
}

#[test]
fn a_processor_virtualises_if_its_flags_say_so() {
    let state = |cpuinfo| kvm_state(Ok(()), cpuinfo);

    assert_eq!(state("flags\t\t: fpu svm sse\n"), KvmState::Hardware);
    assert_eq!(state("flags\t\t: fpu vmx\n"), KvmState::Hardware);
    assert_eq!(state("flags\t\t: fpu svmx\nbugs : vmx\n"), KvmState::Software);
}

#[test]
fn a_guest_too_large_is_refused_and_a_large_one_warned_of() {
    let carries = |memory_bytes, cpus| {
        let options = Options {
            kernel: Some("k".into()),
            ..Options::default()
        };
        let settings = Settings {
            memory_bytes,
            cpus,
            ..Settings::new(options, || User::NOBODY).unwrap()
        };
        host(KvmState::Hardware).carries(&settings)
    };

    assert_eq!(carries(1 << 30, 2), Ok(vec![]));
    assert_eq!(carries(4 << 30, 4).unwrap().len(), 2);
    assert!(matches!(carries(16 << 30, 1), Err(HostError::Memory { .. })));
}

#[test]
fn memory_is_read_in_kibibytes() {
    let text = "MemTotal:       24684084 kB\nMemFree:  1 kB\n";
    assert_eq!(kibibytes(text, "MemTotal:"), Some(24_684_084 << 10));
    assert_eq!(kibibytes(text, "MemAvailable:"), None);
}

fn head(marks: &[(usize, &[u8])]) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    for (at, bytes) in marks {
        head[*at..at + bytes.len()].copy_from_slice(bytes);
    }
    head
}

#[test]
fn partition_tables_are_told_from_boot_sectors() {
    let entry = [0x80, 1, 1, 0, 0x83, 2, 2, 2, 0, 8, 0, 0, 0, 0, 1, 0];
    let signature: (usize, &[u8]) = (510, &[0x55, 0xaa]);

    assert!(has_partition_table(&head(&[(446, &entry), signature])));
    assert!(has_partition_table(&head(&[(512, b"EFI PART")])));
    assert!(!has_partition_table(&head(&[])), "ext4 without a boot sector");
    assert!(!has_partition_table(&head(&[signature])), "no entry");
    assert!(!has_partition_table(&head(&[(446, &entry)])), "no signature");
    assert!(
        !has_partition_table(&head(&[(446, b"not a system disk"), signature])),
        "FAT's message"
    );
}
