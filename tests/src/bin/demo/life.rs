//! One life of a burning disk: a `mayfly run` and its guest, which boots, tells what it sees, and writes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tests::guest::{Guest, System};

use crate::crew::Crew;
use crate::failure::Failure;
use crate::space::{self, MIB};
use crate::stage::Stage;
use crate::workshop::Workshop;

/// How long a guest may take to boot: ten times what it takes on two idle processors.
const BOOT: Duration = Duration::from_secs(240);

/// How long anything else in the guest may take.
const ACT: Duration = Duration::from_secs(240);

/// What the guest writes at a time.
pub(crate) const PIECE_MIB: u64 = 16;

/// What the guest says after each piece, and when it cannot go on.
const WRITTEN: &str = "piece-is-written";
const STUCK: &str = "cannot-write";

/// A run with its guest.
pub(crate) struct Life {
    pub(crate) crew: Crew,
    pub(crate) guest: Guest,
    /// What was typed, so to speak, to start it.
    pub(crate) command_line: String,
    report: PathBuf,
    /// How many pieces of what it was told to write are written.
    written: u64,
}

impl Life {
    /// Starts `mayfly run` for a guest with this system, and waits until its processes are ready.
    pub(crate) fn start(workshop: &Workshop, system: System) -> Result<Self, Failure> {
        let (words, report) = (words(workshop, system), workshop.report());
        // That of the life before is not ours; the first has none before it.
        let _ = fs::remove_file(&report);
        let mayfly = program()?;
        // It becomes mayfly, which ends, and takes everything with it, when the thread ends that started it.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(mayfly).args(&words);
        let mut guest = Guest::of(command, system, None).map_err(Failure::Guest)?;
        let crew = Crew::ready(&mut guest, &report)?;
        Ok(Self {
            crew,
            guest,
            command_line: format!(
                "mayfly {}",
                words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
            ),
            report,
            written: 0,
        })
    }

    /// Waits until the guest takes commands.
    pub(crate) fn boot(&mut self, stage: &Stage) -> Result<(), Failure> {
        let what = if self.crew.vmm.is_ours() {
            "booting"
        } else {
            "booting (QEMU emulates the processor, so this takes a while)"
        };
        stage
            .wait(what, || self.guest.wait_for_shell(BOOT))
            .map_err(Failure::Guest)
    }

    /// Restarts the guest from inside, and looks again who its processes are.
    pub(crate) fn reboot(&mut self, stage: &Stage) -> Result<(), Failure> {
        let rebooted = stage.wait("rebooting", || self.guest.reboot(BOOT));
        rebooted.map_err(Failure::Guest)?;
        self.crew = Crew::ready(&mut self.guest, &self.report)?;
        Ok(())
    }

    /// What mayfly itself said until now.
    pub(crate) fn told(&self) -> Vec<String> {
        let transcript = self.guest.transcript().0;
        let told = transcript.lines().filter(|line| line.starts_with("mayfly: "));
        told.map(str::to_owned).collect()
    }

    /// Runs a command in the guest; returns what it said.
    pub(crate) fn sh(&mut self, command: &str) -> Result<String, Failure> {
        let output = self.guest.sh(command, ACT).map_err(Failure::Guest)?;
        if output.status == 0 {
            Ok(output.text.trim_end().to_owned())
        } else {
            Err(Failure::InGuest {
                command: command.to_owned(),
                said: output.text,
            })
        }
    }

    /// Shows a command in the guest and what it says; returns that.
    pub(crate) fn show(&mut self, stage: &Stage, command: &str) -> Result<String, Failure> {
        let said = self.sh(command)?;
        stage.guest_command(command);
        stage.show(&said);
        Ok(said)
    }

    /// Lets the guest begin to write `mib` of noise, in pieces that [`Life::follow`] awaits. The script gets each
    /// piece's number in `$i` and the noise in `$noise`.
    pub(crate) fn begin_to_write(&mut self, mib: u64, piece: &str) -> Result<(), Failure> {
        let pieces = mib / PIECE_MIB;
        let script = format!(
            "noise=/run/noise; head -c {bytes} /dev/urandom >$noise || exit; \
             {{ for i in $(seq 0 {last}); do {{ {piece}; }} || {{ echo {STUCK}; break; }}; echo {WRITTEN}; done; }} &",
            bytes = PIECE_MIB * MIB,
            last = pieces.saturating_sub(1)
        );
        // The first pieces may be written before the command that began it has ended.
        let said = self.sh(&script)?;
        self.written = said.lines().map(|line| u64::from(line == WRITTEN)).sum();
        Ok(())
    }

    /// How many MiB are written, as far as the guest said until now.
    pub(crate) fn written_mib(&self) -> u64 {
        let transcript = self.guest.transcript().0;
        let lines: u64 = transcript.lines().map(|line| u64::from(line == WRITTEN)).sum();
        lines * PIECE_MIB
    }

    /// Shows how the writing comes along until `until` MiB of `mib` are written.
    pub(crate) fn follow(
        &mut self,
        stage: &mut Stage,
        workshop: &Workshop,
        until: u64,
        mib: u64,
    ) -> Result<(), Failure> {
        while self.written * PIECE_MIB < until {
            let line = self.guest.wait_for("\n", ACT).map_err(Failure::Guest)?;
            match line.trim_end() {
                WRITTEN => self.written += 1,
                STUCK => return Err(self.stuck()),
                _ => continue,
            }
            let free = space::available(&workshop.overlay_dir())?;
            stage.progress(self.written * PIECE_MIB, mib, &format!("df: {} MiB free", free / MIB));
        }
        stage.progress_ends();
        Ok(())
    }

    fn stuck(&mut self) -> Failure {
        let errors = self.guest.sh("dmesg | tail -n 5", ACT);
        errors.map_or_else(Failure::Guest, |output| Failure::InGuest {
            command: "writing to the disk".to_owned(),
            said: output.text,
        })
    }

    /// Switches the guest off from inside, and waits for the end of `mayfly run`, which must be a success.
    pub(crate) fn poweroff(&mut self, stage: &Stage) -> Result<(), Failure> {
        let off = stage.wait("switching off", || self.guest.poweroff(ACT));
        off.map_err(Failure::Guest)
    }
}

/// What follows `mayfly` on the command line.
fn words(workshop: &Workshop, system: System) -> Vec<String> {
    let assets = workshop.assets();
    let path = |path: &Path| path.display().to_string();
    let mut words = vec!["run".to_owned()];
    for (option, value) in [
        ("--disk", path(workshop.base())),
        ("--kernel", path(&assets.kernel)),
        ("--initrd", path(&assets.initramfs)),
        ("--overlay-dir", path(&workshop.overlay_dir())),
        ("--report", path(&workshop.report())),
        ("--memory", "512M".to_owned()),
        ("--cpus", "2".to_owned()),
    ] {
        words.extend([option.to_owned(), value]);
    }
    if system == System::Busybox {
        let golden = format!("{},control={}", path(&workshop.golden()), path(&workshop.control()));
        words.extend(["--disk".to_owned(), golden]);
    }
    let kernel = match system {
        System::Debian => ["--append", "loglevel=3"],
        // Without a root file system, which would be the disk.
        System::Busybox => ["--cmdline", "console=ttyS0 loglevel=3"],
    };
    words.extend(kernel.map(str::to_owned));
    if is_kvm_forbidden() {
        words.extend(["--accel", "qemu"].map(str::to_owned));
    }
    words
}

/// Whether KVM is there and not for this user, which `mayfly run` refuses to pass over by itself.
pub(crate) fn is_kvm_forbidden() -> bool {
    let opened = fs::File::options().read(true).write(true).open("/dev/kvm");
    opened.is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
}

/// `mayfly`: `MAYFLY`, or the one that cargo put beside this one.
pub(crate) fn program() -> Result<PathBuf, Failure> {
    let program = match std::env::var_os("MAYFLY") {
        Some(path) => PathBuf::from(path),
        None => {
            let this = std::env::current_exe().map_err(Failure::while_doing("find this program"))?;
            this.with_file_name("mayfly")
        }
    };
    let there = program.metadata();
    there.map_err(Failure::while_doing(format!("find {}", program.display())))?;
    Ok(program)
}

/// A word as a person would type it.
fn quoted(word: &str) -> String {
    if word.contains(' ') {
        format!("'{word}'")
    } else {
        word.to_owned()
    }
}
