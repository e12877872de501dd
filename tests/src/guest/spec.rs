//! What a guest is made of, and the command line that makes it.
//!
//! QEMU gets nothing that it was not told: no default devices, no configuration of the user's, no monitor, no
//! network, its own seccomp filter on. Guest memory is a shared memfd, which a vhost-user backend needs.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::Sender;

use super::{Assets, GuestError};

/// What runs in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum System {
    /// A busybox shell in memory; disks are only there to be played with.
    Busybox,
    /// Debian with systemd, on the first disk.
    Debian,
}

impl System {
    /// What the console shows, in this order, before there is a shell.
    pub(super) const fn signs_of_a_shell(self) -> &'static [&'static str] {
        match self {
            Self::Busybox => &["mayfly-guest: a shell on ttyS0"],
            Self::Debian => &["mayfly-guest: starting", "(automatic login)"],
        }
    }

    pub(super) const fn reboot_command(self) -> &'static str {
        match self {
            Self::Busybox => "reboot -f",
            Self::Debian => "systemctl reboot",
        }
    }

    pub(super) const fn poweroff_command(self) -> &'static str {
        match self {
            Self::Busybox => "poweroff -f",
            Self::Debian => "systemctl poweroff",
        }
    }

    /// Without mitigations, which protect nobody here and cost a quarter of a boot under emulation.
    const fn kernel_arguments(self) -> &'static str {
        match self {
            Self::Busybox => "console=ttyS0 loglevel=3 mitigations=off",
            Self::Debian => "console=ttyS0 loglevel=3 mitigations=off root=/dev/vda",
        }
    }
}

/// A disk of the guest: the first is `/dev/vda`.
#[derive(Debug, Clone)]
pub enum Disk {
    /// Served by a vhost-user-blk backend.
    VhostUser {
        /// Where the backend listens.
        socket: PathBuf,
        /// How many queues the device has.
        queues: u16,
        /// After how many seconds QEMU connects again to a backend that went away; by default it does not.
        reconnect: Option<u32>,
    },
    /// A raw file served by QEMU itself, without Mayfly: what a backend is compared with.
    QemuRaw(PathBuf),
    /// A qcow2 file, likewise.
    QemuQcow2(PathBuf),
}

/// A guest that is not started yet.
#[derive(Debug)]
pub struct Spec {
    pub(super) system: System,
    pub(super) watcher: Option<Sender<String>>,
    kernel: PathBuf,
    initramfs: PathBuf,
    cpus: u32,
    memory_mib: u32,
    kernel_arguments: String,
    disks: Vec<Disk>,
    extra: Vec<OsString>,
}

impl Spec {
    /// A guest with two processors, 512 MiB and no disk, booting what `make images` made.
    ///
    /// # Errors
    ///
    /// If an image is missing.
    pub fn new(system: System) -> Result<Self, GuestError> {
        let assets = Assets::find()?;
        Ok(Self {
            system,
            watcher: None,
            kernel: assets.kernel,
            initramfs: assets.initramfs,
            cpus: 2,
            memory_mib: 512,
            kernel_arguments: system.kernel_arguments().to_owned(),
            disks: Vec::new(),
            extra: Vec::new(),
        })
    }

    /// Adds a disk.
    #[must_use]
    pub fn disk(mut self, disk: Disk) -> Self {
        self.disks.push(disk);
        self
    }

    /// Adds a disk served by the vhost-user-blk backend at `socket`.
    #[must_use]
    pub fn vhost_user_disk(self, socket: &Path, queues: u16) -> Self {
        self.disk(Disk::VhostUser {
            socket: socket.to_owned(),
            queues,
            reconnect: None,
        })
    }

    /// Another number of processors.
    #[must_use]
    pub const fn cpus(mut self, cpus: u32) -> Self {
        self.cpus = cpus;
        self
    }

    /// Another amount of memory.
    #[must_use]
    pub const fn memory_mib(mut self, mib: u32) -> Self {
        self.memory_mib = mib;
        self
    }

    /// Adds to the kernel's command line.
    #[must_use]
    pub fn append(mut self, arguments: &str) -> Self {
        self.kernel_arguments.push(' ');
        self.kernel_arguments.push_str(arguments);
        self
    }

    /// Another kernel, for instance one of another distribution.
    #[must_use]
    pub fn kernel(mut self, kernel: &Path) -> Self {
        kernel.clone_into(&mut self.kernel);
        self
    }

    /// Another initramfs.
    #[must_use]
    pub fn initramfs(mut self, initramfs: &Path) -> Self {
        initramfs.clone_into(&mut self.initramfs);
        self
    }

    /// Adds arguments to QEMU's command line.
    #[must_use]
    pub fn extra<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.extra.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sends the console there, piece by piece as it comes, for somebody who watches.
    #[must_use]
    pub fn watched_by(mut self, watcher: Sender<String>) -> Self {
        self.watcher = Some(watcher);
        self
    }

    /// QEMU's command line, behind `setpriv`, which lets QEMU die with the thread that started it and becomes QEMU.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
        command.args(["-nodefaults", "-no-user-config", "-display", "none"]);
        command.args([
            "-sandbox",
            "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        ]);
        command.args(["-accel", "tcg,thread=multi", "-machine", "q35,memory-backend=mem"]);
        command.arg("-object").arg(format!(
            "memory-backend-memfd,id=mem,share=on,size={}M",
            self.memory_mib
        ));
        command
            .arg("-m")
            .arg(format!("{}M", self.memory_mib))
            .arg("-smp")
            .arg(self.cpus.to_string());
        command.args(["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]);
        command
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(&self.initramfs);
        command.arg("-append").arg(&self.kernel_arguments);
        for (number, disk) in self.disks.iter().enumerate() {
            add_disk(&mut command, number, disk);
        }
        command.args(&self.extra);
        command
    }
}

fn add_disk(command: &mut Command, number: usize, disk: &Disk) {
    match disk {
        Disk::VhostUser {
            socket,
            queues,
            reconnect,
        } => {
            let again = reconnect
                .map(|seconds| format!(",reconnect={seconds}"))
                .unwrap_or_default();
            command
                .arg("-chardev")
                .arg(format!("socket,id=vhost{number},path={}{again}", quoted(socket)));
            command
                .arg("-device")
                .arg(format!("vhost-user-blk-pci,chardev=vhost{number},num-queues={queues}"));
        }
        Disk::QemuRaw(path) => add_file(command, number, "raw", path),
        Disk::QemuQcow2(path) => add_file(command, number, "qcow2", path),
    }
}

fn add_file(command: &mut Command, number: usize, format: &str, path: &Path) {
    let file = quoted(path);
    command.arg("-blockdev").arg(format!(
        "{format},node-name=disk{number},file.driver=file,file.filename={file}"
    ));
    command.arg("-device").arg(format!("virtio-blk-pci,drive=disk{number}"));
}

/// A path as a value in QEMU's option lists, where a comma is doubled.
pub(crate) fn quoted(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}
