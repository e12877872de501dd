//! What a run is made of, once command line, configuration file and defaults are put together. Pure; it looks at nothing.

use super::args::{Accel, DiskSource, Options};
use super::fate::{Fate, OnExit};
use super::words::{Disk, Net, Size, Tap, User};
use crate::contract::{DEVICES_MAX, MEMORY_MIN, PAGE};
use std::collections::HashSet;
use std::path::PathBuf;
use thiserror::Error;

/// Guest memory if nobody says.
const MEMORY: u64 = 1 << 30;

/// What a run is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) disks: Vec<DiskSource>,
    pub(crate) kernel: PathBuf,
    pub(crate) initrd: Option<PathBuf>,
    pub(crate) cmdline: Option<String>,
    pub(crate) append: Option<String>,
    pub(crate) cpus: u8,
    pub(crate) memory_bytes: u64,
    pub(crate) overlay_dir: Option<PathBuf>,
    pub(crate) overlay_limit: Option<Size>,
    pub(crate) nets: Vec<Net>,
    pub(crate) accel: Accel,
    /// Whether qcow2 images become raw ones first.
    pub(crate) import: bool,
    pub(crate) user: User,
    pub(crate) on_exit: OnExit,
    pub(crate) reset_on_reboot: bool,
    pub(crate) verbose: bool,
}

/// What contradicts itself, or is missing.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum SettingsError {
    #[error("there is no kernel: give --kernel FILE (a bzImage, such as Debian's /boot/vmlinuz-*)")]
    NoKernel,
    #[error("--memory must be a multiple of {PAGE} bytes, and at least {}M", MEMORY_MIN >> 20)]
    Memory,
    #[error("{0} disks and network cards are more than a machine has room for; {DEVICES_MAX} are")]
    ManyDevices(usize),
    #[error("the socket {} is named twice, but a backend serves one frontend", .0.display())]
    SocketTwice(PathBuf),
    #[error("the control socket {} is named twice, but each helper has its own", .0.display())]
    ControlTwice(PathBuf),
    #[error("{0} is named twice, but one network card cannot share a tap with another")]
    TapTwice(String),
    #[error("the kernel's command line has a zero byte in it")]
    Cmdline,
}

impl Settings {
    /// Puts defaults where `options` say nothing; who the processes become then is for `default_user` to say.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub(crate) fn new(options: Options, default_user: impl FnOnce() -> User) -> Result<Self, SettingsError> {
        let settings = Self {
            disks: options.disks,
            kernel: options.kernel.ok_or(SettingsError::NoKernel)?,
            initrd: options.initrd,
            cmdline: options.cmdline,
            append: options.append,
            cpus: options.cpus.unwrap_or(1),
            memory_bytes: options.memory.map_or(MEMORY, |Size(bytes)| bytes),
            overlay_dir: options.overlay_dir,
            overlay_limit: options.overlay_limit,
            nets: options.net,
            accel: options.accel.unwrap_or(Accel::Auto),
            import: options.import,
            user: options.user.unwrap_or_else(default_user),
            on_exit: options.on_exit.unwrap_or(OnExit::Decided(Fate::Burn)),
            reset_on_reboot: options.reset_on_reboot,
            verbose: options.verbose,
        };
        settings.check()?;
        Ok(settings)
    }

    fn check(&self) -> Result<(), SettingsError> {
        if !self.memory_bytes.is_multiple_of(PAGE) || self.memory_bytes < MEMORY_MIN {
            return Err(SettingsError::Memory);
        }
        let devices = self.disks.len().saturating_add(self.nets.len());
        if devices > DEVICES_MAX {
            return Err(SettingsError::ManyDevices(devices));
        }
        let mut sockets = HashSet::new();
        let mut controls = HashSet::new();
        for disk in &self.disks {
            // The same image twice is fine: nobody writes it.
            match disk {
                DiskSource::Socket(path) if !sockets.insert(path) => {
                    return Err(SettingsError::SocketTwice(path.clone()));
                }
                DiskSource::Image(Disk {
                    control: Some(path), ..
                }) if !controls.insert(path) => {
                    return Err(SettingsError::ControlTwice(path.clone()));
                }
                DiskSource::Socket(_) | DiskSource::Image(_) => {}
            }
        }
        let mut taps = HashSet::new();
        for net in &self.nets {
            let name = match &net.tap {
                Tap::Name(name) => format!("tap={name}"),
                Tap::Descriptor(number) => format!("fd={number}"),
            };
            if !taps.insert(name.clone()) {
                return Err(SettingsError::TapTwice(name));
            }
        }
        let text = [&self.cmdline, &self.append];
        if text.into_iter().flatten().any(|text| text.contains('\0')) {
            return Err(SettingsError::Cmdline);
        }
        Ok(())
    }

    /// The kernel's command line. `partitioned` says whether the first disk has a partition table.
    pub(crate) fn kernel_command_line(&self, partitioned: bool) -> String {
        let mut text = self.cmdline.clone().unwrap_or_else(|| {
            // A guest that panics reboots: nobody may be there to see it hang, and a loop ends by itself.
            let mut text = "console=ttyS0 panic=-1".to_owned();
            if let Some(disk) = self.disks.first() {
                let read_only = matches!(disk, DiskSource::Image(disk) if disk.read_only);
                text.push_str(if partitioned {
                    " root=/dev/vda1"
                } else {
                    " root=/dev/vda"
                });
                text.push_str(if read_only { " ro" } else { " rw" });
            }
            text
        });
        if let Some(more) = &self.append {
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(more);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::args::{Cli, Command};

    fn settings(line: &str) -> Result<Settings, SettingsError> {
        let words = ["mayfly", "run", "--kernel", "k"]
            .into_iter()
            .chain(line.split_whitespace());
        let cli = Cli::read(words.map(Into::into)).expect(line);
        let Some(Command::Run(run)) = cli.command else {
            panic!("{line}");
        };
        Settings::new(run.options, || User::NOBODY)
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        assert_eq!(settings("--memory 5000"), Err(SettingsError::Memory));
        assert_eq!(settings("--memory 0"), Err(SettingsError::Memory));
        assert_eq!(settings("--memory 1M"), Err(SettingsError::Memory));
        assert_eq!(
            settings("--disk-socket s --disk-socket s"),
            Err(SettingsError::SocketTwice("s".into()))
        );
        assert_eq!(
            settings("--disk a,control=c --disk b,control=c"),
            Err(SettingsError::ControlTwice("c".into()))
        );
        assert_eq!(
            settings("--net tap=a --net tap=a"),
            Err(SettingsError::TapTwice("tap=a".into()))
        );
        assert_eq!(settings(&"--disk a ".repeat(19)), Err(SettingsError::ManyDevices(19)));
        settings("--disk a --disk a").unwrap();
        assert_eq!(
            Settings::new(Options::default(), || User::NOBODY),
            Err(SettingsError::NoKernel)
        );
    }

    #[test]
    fn the_command_line_follows_from_the_first_disk() {
        let line = |words: &str, partitioned| settings(words).unwrap().kernel_command_line(partitioned);

        assert_eq!(line("", false), "console=ttyS0 panic=-1");
        assert_eq!(line("--disk a", false), "console=ttyS0 panic=-1 root=/dev/vda rw");
        assert_eq!(
            line("--disk a --disk b,ro", true),
            "console=ttyS0 panic=-1 root=/dev/vda1 rw"
        );
        assert_eq!(line("--disk a,ro", false), "console=ttyS0 panic=-1 root=/dev/vda ro");
        assert_eq!(
            line("--disk-socket s", false),
            "console=ttyS0 panic=-1 root=/dev/vda rw"
        );
        assert_eq!(line("--disk a --cmdline x --append y", true), "x y");
        assert_eq!(line("--append y", false), "console=ttyS0 panic=-1 y");
    }
}
