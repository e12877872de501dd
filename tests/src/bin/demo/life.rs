//! A guest on a burning disk: it boots, tells what it sees, and writes.

use std::fs;
use std::time::Duration;

use tests::guest::{Guest, GuestError, Spec, System};

use crate::failure::Failure;
use crate::helper::Helper;
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

/// A helper and the guest that uses its disk.
pub(crate) struct Life {
    pub(crate) helper: Helper,
    pub(crate) guest: Guest,
    /// How many pieces of what it was told to write are written.
    written: u64,
}

impl Life {
    /// Boots a guest on the helper's disk.
    pub(crate) fn boot(stage: &Stage, workshop: &Workshop, helper: Helper, system: System) -> Result<Self, Failure> {
        let spec = Spec::new(system)
            .map_err(Failure::Guest)?
            .vhost_user_disk(&workshop.socket(), 2);
        let guest = stage.wait("booting (QEMU without KVM, so this takes a while)", || {
            Guest::boot(spec, BOOT)
        });
        Ok(Self {
            helper,
            guest: guest.map_err(Failure::Guest)?,
            written: 0,
        })
    }

    /// The part of QEMU's command line that is about the disk, as the kernel has it.
    pub(crate) fn command_line(&self) -> Result<String, Failure> {
        let line = fs::read(format!("/proc/{}/cmdline", self.guest.pid()));
        let line = line.map_err(Failure::while_doing("read QEMU's command line"))?;
        let line = String::from_utf8_lossy(&line);
        let arguments: Vec<&str> = line.split('\0').collect();
        let about = arguments
            .windows(2)
            .filter(|pair| pair[1].contains("vhost"))
            .map(|pair| pair.join(" "));
        Ok(format!(
            "qemu-system-x86_64 [...] {}",
            about.collect::<Vec<_>>().join(" ")
        ))
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
        let lines: u64 = self
            .guest
            .transcript()
            .0
            .lines()
            .map(|line| u64::from(line == WRITTEN))
            .sum();
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

    /// Switches the guest off from inside.
    pub(crate) fn poweroff(&mut self, stage: &Stage) -> Result<(), Failure> {
        let guest = &mut self.guest;
        let off: Result<(), GuestError> = stage.wait("switching off", || guest.poweroff(ACT));
        off.map_err(Failure::Guest)
    }
}
