//! What the host has: KVM or not, memory, processors, what an image begins with. Looked at once; what follows from it is pure.

use super::args::Accel;
use super::settings::Settings;
use nix::errno::Errno;
use protocol::size::show;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use thiserror::Error;

/// What runs the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    /// `mayfly-vmm`.
    Kvm,
    /// `qemu-system-x86_64`, emulating.
    Qemu,
}

/// What /dev/kvm is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KvmState {
    /// Stock kernels run.
    Hardware,
    /// It opens, but the processor has no virtualisation: what is behind it runs no stock kernel.
    Software,
    /// The processor virtualises, and this user may not open it.
    Forbidden,
    /// It does not open, and nothing says that another user could run guests on it.
    Refused(Errno),
}

/// What the host has.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) kvm: KvmState,
    /// How a user gets to /dev/kvm who may not open it.
    pub(crate) way_to_kvm: String,
    pub(crate) memory_bytes: u64,
    pub(crate) available_bytes: u64,
    pub(crate) cpus: usize,
}

/// What the host lacks.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum HostError {
    #[error(
        "there is no /dev/kvm: this machine has no virtualisation, or it is switched off in the firmware, or (in a virtual \
         machine or container) not passed on; where it should be there, load kvm_intel or kvm_amd; --accel qemu does without"
    )]
    NoKvm,
    #[error(
        "/dev/kvm is there, but this user may not open it; {way}, or say --accel qemu, which emulates the processor: \
         slower, and less confined"
    )]
    KvmDenied { way: String },
    #[error("cannot open /dev/kvm ({0}); --accel qemu does without")]
    Kvm(Errno),
    #[error("--memory {asked} is more than this machine has ({has}); ask for less")]
    Memory { asked: String, has: String },
}

impl HostError {
    /// What it means that /dev/kvm does not open.
    fn of_kvm(errno: Errno, way: &str) -> Self {
        if matches!(errno, Errno::ENOENT | Errno::ENXIO | Errno::ENODEV) {
            Self::NoKvm
        } else if is_denial(errno) {
            Self::KvmDenied { way: way.to_owned() }
        } else {
            Self::Kvm(errno)
        }
    }
}

impl Host {
    /// Looks.
    pub(crate) fn look() -> Self {
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let opened = OpenOptions::new().read(true).write(true).open("/dev/kvm");
        Self {
            kvm: kvm_state(opened.map(drop), &cpuinfo),
            way_to_kvm: way_to_kvm(
                std::fs::metadata("/dev/kvm").ok().map(|info| info.gid()),
                &std::fs::read_to_string("/etc/group").unwrap_or_default(),
            ),
            // What cannot be known limits nothing.
            memory_bytes: kibibytes(&meminfo, "MemTotal:").unwrap_or(u64::MAX),
            available_bytes: kibibytes(&meminfo, "MemAvailable:").unwrap_or(u64::MAX),
            cpus: std::thread::available_parallelism().map_or(usize::MAX, usize::from),
        }
    }

    /// Chooses what runs the guest, and what the operator should know about that.
    ///
    /// # Errors
    /// [`HostError`]: what was asked for is not there.
    pub(crate) fn choose(&self, accel: Accel) -> Result<(Engine, Option<String>), HostError> {
        let why_not = match self.kvm {
            KvmState::Hardware | KvmState::Forbidden => None,
            KvmState::Software => {
                Some("/dev/kvm is there, but the processor shows no virtualisation (vmx or svm)".to_owned())
            }
            KvmState::Refused(Errno::ENOENT) => Some("there is no /dev/kvm".to_owned()),
            KvmState::Refused(errno) => Some(format!("/dev/kvm does not open ({errno})")),
        };
        match (accel, self.kvm, why_not) {
            (Accel::Kvm | Accel::Auto, KvmState::Hardware, _) => Ok((Engine::Kvm, None)),
            // QEMU would do, but this user can have what is faster and better confined.
            (Accel::Kvm | Accel::Auto, KvmState::Forbidden, _) => {
                Err(HostError::of_kvm(Errno::EACCES, &self.way_to_kvm))
            }
            (Accel::Kvm, KvmState::Refused(errno), _) => Err(HostError::of_kvm(errno, &self.way_to_kvm)),
            (Accel::Kvm, KvmState::Software, why) => {
                let why = why.unwrap_or_default();
                Ok((
                    Engine::Kvm,
                    Some(format!(
                        "{why}: stock kernels do not run on that; --accel qemu runs them"
                    )),
                ))
            }
            (Accel::Auto, _, why) => {
                let why = why.unwrap_or_default();
                Ok((
                    Engine::Qemu,
                    Some(format!(
                        "{why}: QEMU emulates the processor, which is slower, and is less confined"
                    )),
                ))
            }
            (Accel::Qemu, _, _) => Ok((Engine::Qemu, None)),
        }
    }

    /// Whether the host can carry the guest: what to warn of.
    ///
    /// # Errors
    /// It cannot.
    pub(crate) fn carries(&self, settings: &Settings) -> Result<Vec<String>, HostError> {
        let asked = settings.memory_bytes;
        if asked > self.memory_bytes {
            return Err(HostError::Memory {
                asked: show(asked),
                has: show(self.memory_bytes),
            });
        }
        let mut warnings = Vec::new();
        if asked > self.available_bytes {
            warnings.push(format!(
                "the guest may use {}, and only {} are free on this machine now",
                show(asked),
                show(self.available_bytes)
            ));
        }
        if usize::from(settings.cpus) > self.cpus {
            warnings.push(format!(
                "the guest has {} processors and this machine {}: they will wait for each other",
                settings.cpus, self.cpus
            ));
        }
        Ok(warnings)
    }
}

fn kvm_state(opened: io::Result<()>, cpuinfo: &str) -> KvmState {
    let virtualises = || {
        cpuinfo
            .lines()
            .filter(|line| line.starts_with("flags"))
            .any(|line| line.split_whitespace().any(|flag| flag == "vmx" || flag == "svm"))
    };
    match opened {
        Ok(()) if virtualises() => KvmState::Hardware,
        Ok(()) => KvmState::Software,
        Err(error) => match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
            errno if is_denial(errno) && virtualises() => KvmState::Forbidden,
            errno => KvmState::Refused(errno),
        },
    }
}

/// Whether it is the user who is refused.
fn is_denial(errno: Errno) -> bool {
    matches!(errno, Errno::EACCES | Errno::EPERM)
}

/// What a user does to get to /dev/kvm, which group `gid` owns. `groups` are the lines of /etc/group; other databases would need
/// libraries that run anybody's code.
fn way_to_kvm(gid: Option<u32>, groups: &str) -> String {
    let Some(gid) = gid else {
        return "join the group that owns it, usually kvm (sudo adduser $USER kvm, then log in again)".to_owned();
    };
    if gid == 0 {
        return "have it given to a group that you then join (sudo groupadd --system kvm; sudo chgrp kvm /dev/kvm; \
                sudo chmod 660 /dev/kvm; sudo adduser $USER kvm; then log in again)"
            .to_owned();
    }
    let number = gid.to_string();
    let name = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == number && !name.is_empty()).then_some(name)
    });
    match name {
        Some(name) => {
            format!("join the group that owns it, {name} (sudo adduser $USER {name}, then log in again)")
        }
        None => format!(
            "join the group that owns it, number {gid}, which has no name in /etc/group (sudo groupadd --gid {gid} NAME, sudo \
             adduser $USER NAME, then log in again)"
        ),
    }
}

fn kibibytes(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
    let number: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    number.checked_mul(1024)
}

/// Where a partition table's marks are.
const HEAD_BYTES: usize = 1024;

/// Whether an image has a partition table: reads its first KiB and nothing else.
///
/// # Errors
/// It cannot be read.
pub(crate) fn is_partitioned(image: &File) -> io::Result<bool> {
    let mut head = [0; HEAD_BYTES];
    let mut filled = 0;
    while let Some(rest) = head.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match image.read_at(rest, u64::try_from(filled).unwrap_or(u64::MAX))? {
            0 => break,
            read => filled = filled.saturating_add(read),
        }
    }
    Ok(has_partition_table(&head))
}

/// A GPT's header, or an MBR whose four entries make sense. A boot sector of a file system carries an MBR's signature too,
/// with code or text where the entries would be.
fn has_partition_table(head: &[u8; HEAD_BYTES]) -> bool {
    if head[512..].starts_with(b"EFI PART") {
        return true;
    }
    let entries = head[446..510].chunks_exact(16);
    let is_empty = |entry: &[u8]| entry.iter().all(|byte| *byte == 0);
    let sensible =
        |entry: &[u8]| matches!(entry[0], 0 | 0x80) && (is_empty(entry) || (entry[4] != 0 && !is_empty(&entry[12..])));
    head[510..512] == [0x55, 0xaa] && entries.clone().all(sensible) && entries.clone().any(|entry| !is_empty(entry))
}

#[cfg(test)]
mod tests;
