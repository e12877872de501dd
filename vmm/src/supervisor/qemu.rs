//! `qemu-system-x86_64` as the VMM, where KVM runs no stock kernel: it emulates the processor (TCG). Same disks, same helpers,
//! same supervisor; what is weaker is the VMM's own confinement, which is QEMU's seccomp sandbox and no more.
//!
//! The guest's reboot stays inside the process, on the same connections; power-off ends it with 0. QEMU has no monitor here, so
//! the two could not be told apart if it were made to end at both.

use super::plan::{Facts, Job, Role, Table};
use super::settings::Settings;
use std::ffi::OsString;
use std::os::fd::RawFd;

/// How its confinement is called where a person reads of it.
pub(crate) const CONFINEMENT: &str =
    "QEMU's own seccomp filter only: it keeps its view of the file system and may open files and sockets";

/// What it is started with.
pub(super) fn job(settings: &Settings, facts: &Facts) -> Job {
    let mut table = Table::default();
    table.put(0, Role::ConsoleIn);
    table.put(1, Role::ConsoleOut);
    let mut args = machine(settings);
    add(&mut args, "-kernel", path_of(table.add(Role::Kernel)));
    if settings.initrd.is_some() {
        add(&mut args, "-initrd", path_of(table.add(Role::Initrd)));
    }
    add(&mut args, "-append", settings.kernel_command_line(facts.partitioned));
    for index in 0..settings.disks.len() {
        let number = table.add(Role::Disk(index));
        add(&mut args, "-chardev", format!("socket,id=disk{index},fd={number}"));
        let queues = settings.cpus;
        add(
            &mut args,
            "-device",
            format!("vhost-user-blk-pci,chardev=disk{index},num-queues={queues}"),
        );
    }
    for (index, mac) in facts.macs.iter().enumerate() {
        let number = table.add(Role::Tap(index));
        add(&mut args, "-netdev", format!("tap,id=net{index},fd={number},vhost=off"));
        // Without a ROM: there is nothing to boot from the network.
        add(
            &mut args,
            "-device",
            format!("virtio-net-pci,netdev=net{index},mac={mac},romfile="),
        );
    }
    add(&mut args, "-device", "virtio-rng-pci".into());
    Job {
        name: "vmm".into(),
        program: facts.programs.qemu.clone(),
        args,
        table: table.done(),
        // QEMU could change its user itself, but not under a sandbox that denies just that.
        user: facts.root.then_some(settings.user),
    }
}

/// The machine without what is plugged into it.
fn machine(settings: &Settings) -> Vec<OsString> {
    let memory = settings.memory_bytes;
    let mut args: Vec<OsString> = ["-nodefaults", "-no-user-config", "-display", "none"]
        .map(Into::into)
        .into();
    for (option, value) in [
        (
            "-sandbox",
            "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny".to_owned(),
        ),
        ("-accel", "tcg,thread=multi".to_owned()),
        ("-machine", "q35,memory-backend=memory".to_owned()),
        // A helper serves memory that is a shared memfd.
        (
            "-object",
            format!("memory-backend-memfd,id=memory,share=on,size={memory}"),
        ),
        ("-m", format!("{memory}B")),
        ("-smp", settings.cpus.to_string()),
        ("-chardev", "stdio,id=console,signal=off,mux=off".to_owned()),
        ("-serial", "chardev:console".to_owned()),
        ("-monitor", "none".to_owned()),
    ] {
        add(&mut args, option, value);
    }
    args
}

fn add(args: &mut Vec<OsString>, option: &str, value: String) {
    args.extend([option.into(), value.into()]);
}

/// A path by which the process finds what it inherited.
fn path_of(number: RawFd) -> String {
    format!("/dev/fd/{number}")
}
