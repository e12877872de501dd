//! What C-a c shows: the processes, what confines them, and how full the overlays are.

use super::child::Child;
use super::control::PATIENCE;
use super::crew::{Crew, Helper};
use super::host::Engine;
use super::plan::{Backend, Plan, PlannedDisk};
use super::qemu;
use crate::channel::ChannelError;
use policy::logging::chain;
use protocol::control::Status;
use protocol::size::show;
use serde::Deserialize;
use std::fmt::Write;
use std::time::{Duration, Instant};

/// The status, as lines for a terminal.
pub(crate) fn text(plan: &Plan, crew: &mut Crew, began: Instant, reboots: u32) -> String {
    let engine = match plan.engine {
        Engine::Kvm => "kvm",
        Engine::Qemu => "qemu",
    };
    let mut text = format!(
        "mayfly {}, process {}, up {}, {engine}, {reboots} reboots with a new VMM\n",
        env!("CARGO_PKG_VERSION"),
        std::process::id(),
        duration(began.elapsed())
    );
    if let Some(machine) = &crew.machine {
        let _ = writeln!(
            text,
            "  vmm: process {}, up {}; {}",
            machine.pid(),
            duration(machine.started().elapsed()),
            match plan.engine {
                Engine::Kvm => confinement(machine),
                Engine::Qemu => format!("weaker confinement: {}", qemu::CONFINEMENT),
            }
        );
    }
    // All are asked before one is waited for: those that are stuck cost one wait together.
    let ask = |helper: &mut Helper| helper.control.ask_status();
    let questions: Vec<_> = crew.helpers.iter_mut().map(|helper| helper.as_mut().map(ask)).collect();
    let end = Instant::now() + PATIENCE;
    for ((disk, helper), question) in plan.disks.iter().zip(&mut crew.helpers).zip(questions) {
        let served = helper.as_mut().zip(question);
        let served = served.map(|(helper, question)| {
            let status = question.and_then(|question| helper.control.status(question, end));
            (&helper.child, status)
        });
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {}", disk_line(disk, served));
    }
    text
}

fn disk_line(disk: &PlannedDisk, served: Option<(&Child, Result<Status, ChannelError>)>) -> String {
    let name = &disk.name;
    let Some((helper, status)) = served else {
        return match &disk.backend {
            Backend::Socket(path) => format!("disk {name}: served by others at {}", path.display()),
            Backend::Helper { .. } => format!("disk {name}: not served"),
        };
    };
    let confinement = confinement(helper);
    let state = match status {
        Err(error) => format!("no status: {}", chain(&error)),
        Ok(status) => match status.overlay {
            None => format!("{}, read-only", show(status.disk_bytes)),
            Some(overlay) => format!(
                "{}, overlay {} of {}",
                show(status.disk_bytes),
                show(overlay.used_bytes),
                show(overlay.limit_bytes)
            ),
        },
    };
    format!("disk {name}: process {}, {state}; {confinement}", helper.pid())
}

/// What is read of a report: the names of its layers.
#[derive(Deserialize)]
struct Layers {
    layers: Vec<Layer>,
}

/// One of them.
#[derive(Deserialize)]
struct Layer {
    name: String,
    achieved: bool,
}

/// What is read of what a process says at READY.
#[derive(Deserialize)]
struct Report {
    confinement: Layers,
}

/// In a few words what the process said at READY of its confinement; the whole of it shows `mayfly --check-confinement`.
fn confinement(child: &Child) -> String {
    child.report().map_or_else(|| "not confined yet".to_owned(), summary)
}

fn summary(report: &str) -> String {
    let Ok(Report { confinement }) = serde_json::from_str(report) else {
        return "its report makes no sense".to_owned();
    };
    let layers = confinement.layers;
    let (there, missing): (Vec<_>, Vec<_>) = layers.iter().partition(|layer| layer.achieved);
    let mut text = format!("{} layers of confinement", there.len());
    if !missing.is_empty() {
        // A name is one of our own program's; one that a guest put there instead must not steer the terminal.
        let names: Vec<_> = missing
            .iter()
            .map(|layer| layer.name.escape_debug().to_string())
            .collect();
        let _ = write!(text, ", not permitted here: {}", names.join(", "));
    }
    text
}

fn duration(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        seconds => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_summed_up() {
        let seccomp = r#"{"name":"seccomp","achieved":true,"required":true}"#;
        let namespace = r#"{"name":"user namespace","achieved":false}"#;
        let layers = format!(r#"{{"layers":[{seccomp},{namespace}],"threads":[]}}"#);
        let report = format!(r#"{{"version":"1","pid":7,"confinement":{layers}}}"#);

        let expected = "1 layers of confinement, not permitted here: user namespace";
        assert_eq!(summary(&report), expected);
        assert_eq!(summary("{"), "its report makes no sense");
    }

    #[test]
    fn times_are_shown_short() {
        assert_eq!(duration(Duration::from_secs(59)), "59 s");
        assert_eq!(duration(Duration::from_secs(61)), "1 min 1 s");
        assert_eq!(duration(Duration::from_secs(3725)), "1 h 2 min");
    }
}
