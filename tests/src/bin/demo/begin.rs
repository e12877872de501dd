//! The steps in which a disk's life begins: `mayfly run`, the confinement of its processes, a system that boots.

use serde_json::Value;
use tests::guest::System;

use crate::crew::{Crew, Process};
use crate::failure::Failure;
use crate::life::{Life, is_kvm_forbidden};
use crate::stage::Stage;
use crate::workshop::Workshop;

/// The layers that a watcher is shown; the others are counted.
const SHOWN_LAYERS: [&str; 8] = [
    "user",
    "no capabilities",
    "no-new-privs",
    "not dumpable",
    "landlock",
    "seccomp",
    "network namespace",
    "empty root",
];

/// Starts `mayfly run` and shows its processes.
pub(crate) fn start(stage: &mut Stage, workshop: &Workshop) -> Result<Life, Failure> {
    stage.step("One command, three processes");
    if is_kvm_forbidden() {
        stage.say("You may not open /dev/kvm, so this demo says --accel qemu: slower, and less confined.");
    }
    let life = Life::start(workshop, System::Debian)?;
    stage.command(&life.command_line);
    stage.show_wrapped(&life.told());
    stage.gap();
    processes(stage, &life.crew)?;
    stage.gap();
    let apart = stage.check(
        life.crew.helper.owner()?.uid != 0 && life.crew.vmm.owner()?.uid != 0,
        "what a guest can reach does not run as root",
    );
    let confined = confinement(stage, &life.crew)?;
    stage.promise(
        "What a guest can reach is locked in",
        apart & confined.kept,
        confined.seen,
    );
    Ok(life)
}

/// Who they are.
fn processes(stage: &Stage, crew: &Crew) -> Result<(), Failure> {
    stage.show("    pid    uid  program          what it is there for");
    for (process, purpose) in crew.all().into_iter().zip([
        "starts and ends the others, has the terminal",
        "the disk: image and overlay",
        "the guest's processors, memory and devices",
    ]) {
        stage.show(&format!(
            "{:>7} {:>6}  {:16} {purpose}",
            process.pid,
            process.owner()?.uid,
            process.program
        ));
    }
    Ok(())
}

/// What the summary says of it.
struct Confined {
    kept: bool,
    seen: String,
}

fn confinement(stage: &mut Stage, crew: &Crew) -> Result<Confined, Failure> {
    stage.gap();
    stage.say(&format!(
        "{} (pid {}) locked itself in before the guest began. What the kernel says of it then:",
        crew.helper.program, crew.helper.pid
    ));
    stage.gap();
    for layer in crew.helper.confinement("layers")? {
        let name = text(layer, "name");
        if SHOWN_LAYERS.contains(&name) {
            let mark = if is(layer, "achieved") { "" } else { "not in force: " };
            stage.show_named(name, &format!("{mark}{}", text(layer, "evidence")));
        }
    }
    stage.gap();
    let mut confined = required(stage, &crew.helper)?;
    if crew.vmm.is_ours() {
        let vmm = required(stage, &crew.vmm)?;
        confined.kept &= vmm.kept;
        confined.seen = format!("{}; {}", confined.seen, vmm.seen);
    } else {
        stage.say(
            "(QEMU, which is the VMM where KVM cannot be, has its own seccomp filter and no more. That is why it gets \
             nothing worth taking.)",
        );
    }
    Ok(confined)
}

/// Whether every layer that must be in force is.
fn required(stage: &mut Stage, process: &Process) -> Result<Confined, Failure> {
    let layers = process.confinement("layers")?;
    let achieved = layers.iter().filter(|layer| is(layer, "achieved")).count();
    let missing = layers
        .iter()
        .filter(|layer| is(layer, "required") && !is(layer, "achieved"));
    let kept = stage.check(
        missing.count() == 0 && !layers.is_empty(),
        &format!(
            "every layer that {} requires is in force ({achieved} of {} in all)",
            process.program,
            layers.len()
        ),
    );
    let seen = format!("{}: {achieved} of {} layers", process.program, layers.len());
    Ok(Confined { kept, seen })
}

/// Waits for the system, and lets it say hello.
pub(crate) fn boot(stage: &mut Stage, workshop: &Workshop, life: &mut Life) -> Result<(), Failure> {
    stage.step("A stock Debian boots from it");
    life.boot(stage)?;
    stage.say("The guest says hello:");
    life.show(stage, "uname -srm; grep PRETTY /etc/os-release; systemd-detect-virt")?;
    life.show(stage, "lsblk --output NAME,SIZE,TYPE,FSTYPE,MOUNTPOINTS")?;
    let sectors: u64 = life.sh("cat /sys/block/vda/size")?.parse().unwrap_or(0);
    let (length, _) = workshop.base_size()?;
    stage.gap();
    stage.check(
        sectors * 512 == length,
        "its disk vda is exactly as large as the base image",
    );
    Ok(())
}

fn text<'value>(value: &'value Value, field: &str) -> &'value str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn is(value: &Value, field: &str) -> bool {
    value.get(field).and_then(Value::as_bool) == Some(true)
}
