//! Which processes a run consists of, each with its arguments and its exact table of descriptors. Pure data, made from the
//! settings and a few facts about the host; `--dry-run` prints it, [`super::spawn`] carries it out.
//!
//! A process gets standard error as a pipe to the supervisor, standard input and output as its table says (nothing, and a pipe
//! for the line that says READY, if it does not), and from 3 on what is listed here. There is nothing else that it inherits.

use super::args::DiskSource;
use super::host::Engine;
use super::qemu;
use super::settings::Settings;
use super::words::{Disk, User};
use crate::contract::{Mac, MachineSpec, NetSpec};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

/// Queues that a helper offers at least: its own default.
const QUEUES_MIN: u16 = 16;

/// What a descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    /// /dev/kvm.
    Kvm,
    /// The kernel, read-only.
    Kernel,
    /// The initramfs, read-only.
    Initrd,
    /// What is typed at the console.
    ConsoleIn,
    /// What the guest prints.
    ConsoleOut,
    /// The VMM's connection to a disk's backend.
    Disk(usize),
    /// A network card's tap.
    Tap(usize),
    /// A helper's connection to the VMM.
    Frontend(usize),
    /// A helper's control channel to the supervisor.
    Control(usize),
    /// A helper's base image, read-only.
    Base(usize),
    /// An image to import, read-only.
    Image(usize),
    /// What it is imported into.
    Output,
    /// How far that is.
    Progress,
}

/// A process to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Job {
    /// What the operator knows it by.
    pub(crate) name: String,
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
    /// Which descriptors it has, under which numbers.
    pub(crate) table: Vec<(RawFd, Role)>,
    /// Whom it becomes before it starts; programs that see to that themselves do not need it.
    pub(crate) user: Option<User>,
}

/// A disk of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PlannedDisk {
    /// "vda (debian.raw)".
    pub(crate) name: String,
    /// "vda".
    pub(crate) device: String,
    /// Whether a helper of ours keeps what the guest writes to it.
    pub(crate) is_overlaid: bool,
    /// Whether its image is one that was imported, and kept for other runs.
    pub(crate) is_imported: bool,
    /// Where its helper takes orders, besides from us.
    pub(crate) control: Option<PathBuf>,
    pub(crate) backend: Backend,
}

/// Who serves a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    /// A helper of ours, from this image.
    Helper { image: PathBuf, job: Job },
    /// Somebody at this socket.
    Socket(PathBuf),
}

/// The programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Programs {
    pub(crate) helper: PathBuf,
    pub(crate) vmm: PathBuf,
    pub(crate) import: PathBuf,
    pub(crate) qemu: PathBuf,
}

/// What a plan needs to know besides the settings.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) engine: Engine,
    pub(crate) programs: Programs,
    /// Whether the first disk has a partition table.
    pub(crate) partitioned: bool,
    /// Whether this process is root, whose processes become somebody else.
    pub(crate) root: bool,
    /// An address for each network card.
    pub(crate) macs: Vec<Mac>,
}

/// Everything that a run consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) engine: Engine,
    /// The guest's disks, in its order.
    pub(crate) disks: Vec<PlannedDisk>,
    /// What runs the guest.
    pub(crate) machine: Job,
}

/// A machine's descriptors, as numbers.
#[derive(Debug, Default)]
pub(super) struct Table(Vec<(RawFd, Role)>);

impl Table {
    /// The next number above standard error.
    pub(super) fn add(&mut self, role: Role) -> RawFd {
        let next = self.0.iter().map(|(number, _)| *number).fold(2, RawFd::max);
        self.put(next.saturating_add(1), role)
    }

    /// This number.
    pub(super) fn put(&mut self, number: RawFd, role: Role) -> RawFd {
        self.0.push((number, role));
        number
    }

    pub(super) fn done(self) -> Vec<(RawFd, Role)> {
        self.0
    }
}

impl Plan {
    /// Plans a run.
    pub(crate) fn new(settings: &Settings, facts: &Facts) -> Self {
        let disks = settings
            .disks
            .iter()
            .enumerate()
            .map(|(index, source)| planned_disk(index, source, settings, facts))
            .collect();
        let machine = match facts.engine {
            Engine::Kvm => kvm(settings, facts),
            Engine::Qemu => qemu::job(settings, facts),
        };
        Self {
            engine: facts.engine,
            disks,
            machine,
        }
    }
}

fn planned_disk(index: usize, source: &DiskSource, settings: &Settings, facts: &Facts) -> PlannedDisk {
    // There are fewer disks than letters: `Settings` has seen to that.
    let letter = ('a'..='z').nth(index).unwrap_or('?');
    let device = format!("vd{letter}");
    let named = |path: &Path| {
        let file = path
            .file_name()
            .map_or_else(|| path.to_string_lossy(), |name| name.to_string_lossy());
        format!("{device} ({file})")
    };
    match source {
        DiskSource::Socket(path) => PlannedDisk {
            name: named(path),
            device,
            is_overlaid: false,
            is_imported: false,
            control: None,
            backend: Backend::Socket(path.clone()),
        },
        DiskSource::Image(disk) => {
            let name = named(disk.imported_from.as_ref().unwrap_or(&disk.image));
            let serial = disk.serial.clone().unwrap_or_else(|| format!("mayfly-{device}"));
            let job = helper(index, &name, &serial, disk, settings, facts);
            PlannedDisk {
                name,
                device,
                is_overlaid: !disk.read_only,
                is_imported: disk.imported_from.is_some(),
                control: disk.control.clone(),
                backend: Backend::Helper {
                    image: disk.image.clone(),
                    job,
                },
            }
        }
    }
}

fn helper(index: usize, name: &str, serial: &str, disk: &Disk, settings: &Settings, facts: &Facts) -> Job {
    let mut table = Table::default();
    let frontend = table.add(Role::Frontend(index));
    let control = table.add(Role::Control(index));
    let base = table.add(Role::Base(index));
    let queues = QUEUES_MIN.max(settings.cpus.into());
    let mut args: Vec<OsString> = vec![
        format!("--blk-file=fd:{base}").into(),
        format!("--fd={frontend}").into(),
        format!("--control-fd={control}").into(),
        format!("--num-queues={queues}").into(),
        format!("--serial={serial}").into(),
        // The processors that a worker would look on are those that the guest runs on.
        "--poll=0".into(),
        format!("--user={}:{}", settings.user.uid, settings.user.gid).into(),
        "--report=json".into(),
    ];
    if disk.read_only {
        args.push("--read-only".into());
    } else {
        if let Some(dir) = disk.overlay_dir.as_ref().or(settings.overlay_dir.as_ref()) {
            let mut option = OsString::from("--overlay-dir=");
            option.push(dir);
            args.push(option);
        }
    }
    // An overlay's limits are in there only where the disk has one.
    let limit = settings.overlay_limit.filter(|_| !disk.read_only);
    args.extend(disk.limits.to_args(limit).into_iter().map(Into::into));
    if let Some(path) = &disk.control {
        let mut option = OsString::from("--control-path=");
        option.push(path);
        args.push(option);
    }
    let switches = [
        (disk.raw_anyway, "--raw-anyway"),
        (disk.no_encrypt, "--no-encrypt"),
        (settings.verbose, "--verbose"),
    ];
    args.extend(switches.into_iter().filter(|(on, _)| *on).map(|(_, name)| name.into()));
    Job {
        name: format!("disk {name}"),
        program: facts.programs.helper.clone(),
        args,
        table: table.done(),
        user: None,
    }
}

fn kvm(settings: &Settings, facts: &Facts) -> Job {
    let mut table = Table::default();
    let spec = MachineSpec {
        kvm: table.add(Role::Kvm),
        kernel: table.add(Role::Kernel),
        initrd: settings.initrd.is_some().then(|| table.add(Role::Initrd)),
        cmdline: settings.kernel_command_line(facts.partitioned),
        cpus: settings.cpus,
        memory_bytes: settings.memory_bytes,
        console_in: table.add(Role::ConsoleIn),
        console_out: table.add(Role::ConsoleOut),
        disks: (0..settings.disks.len())
            .map(|index| table.add(Role::Disk(index)))
            .collect(),
        nets: facts
            .macs
            .iter()
            .enumerate()
            .map(|(index, mac)| NetSpec {
                tap: table.add(Role::Tap(index)),
                mac: *mac,
            })
            .collect(),
        user: (settings.user.uid, settings.user.gid),
        verbose: settings.verbose,
    };
    Job {
        name: "vmm".into(),
        program: facts.programs.vmm.clone(),
        args: spec.to_args().into_iter().map(Into::into).collect(),
        table: table.done(),
        user: None,
    }
}

impl fmt::Display for Role {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kvm => write!(to, "/dev/kvm"),
            Self::Kernel => write!(to, "kernel, read-only"),
            Self::Initrd => write!(to, "initramfs, read-only"),
            Self::ConsoleIn => write!(to, "pipe: what is typed at the console"),
            Self::ConsoleOut => write!(to, "pipe: what the guest prints"),
            Self::Disk(index) => write!(to, "socket to the backend of disk {index}"),
            Self::Tap(index) => write!(to, "tap of network card {index}"),
            Self::Frontend(_) => write!(to, "socket to the VMM"),
            Self::Control(_) => write!(to, "control channel to the supervisor"),
            Self::Base(_) => write!(to, "base image, read-only"),
            Self::Image(_) => write!(to, "image, read-only"),
            Self::Output => write!(to, "output"),
            Self::Progress => write!(to, "pipe: progress"),
        }
    }
}

impl fmt::Display for Job {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{}:\n  {}", self.name, self.program.display())?;
        for arg in &self.args {
            write!(to, " {}", quoted(&arg.to_string_lossy()))?;
        }
        writeln!(to)?;
        if let Some(User { uid, gid }) = self.user {
            writeln!(to, "    as uid {uid}, gid {gid}")?;
        }
        let standard = ["/dev/null", "pipe: the line that says READY", "pipe: log lines"];
        let mut lines: BTreeMap<RawFd, String> = (0..).zip(standard.map(str::to_owned)).collect();
        lines.extend(self.table.iter().map(|(number, role)| (*number, role.to_string())));
        for (number, what) in lines {
            writeln!(to, "    {number:>3}  {what}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        for disk in &self.disks {
            match &disk.backend {
                Backend::Helper { image, job } => writeln!(to, "{job}         (base: {})", image.display())?,
                Backend::Socket(path) => writeln!(to, "disk {}:\n  served already at {}", disk.name, path.display())?,
            }
        }
        write!(to, "{}", self.machine)
    }
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests;
