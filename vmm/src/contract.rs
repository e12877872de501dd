//! What the supervisor and the VMM agree on (and, in [`import`], the supervisor and `mayfly-import`): the VMM's command line, its
//! descriptors, and how it says why it ended.
//!
//! The VMM opens nothing itself. Everything arrives as a descriptor whose number stands on its command line; standard input is
//! nothing, standard output takes one line of JSON when the machine is ready (`version`, `pid`, and its
//! [`Report`](policy::Report) as `confinement`), standard error takes log lines. All three are pipes of the supervisor's, never
//! a terminal.

pub mod import;

use std::fmt;
use std::os::fd::RawFd;
use std::str::FromStr;

/// Disks and network cards that a machine has room for. (`machine::layout` has 19 places, and entropy takes one.)
pub const DEVICES_MAX: usize = 18;

/// Guest memory comes in pages of so many bytes.
pub const PAGE: u64 = 4096;

/// The least memory that a guest gets: room for what `machine::layout` places below the kernel, and a little of the kernel.
/// (Debian's kernels want far more, and say so themselves.)
pub const MEMORY_MIN: u64 = 2 << 20;

/// One network card: a tap that is open, and the address the guest sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetSpec {
    /// An open tap with a 12-byte virtio-net header (TUNSETVNETHDRSZ), non-blocking.
    pub tap: RawFd,
    /// The card's address.
    pub mac: Mac,
}

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(to, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl FromStr for Mac {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const SHAPE: &str = "an address is six pairs of hexadecimal digits: 02:00:00:00:00:01";
        let bytes: Vec<u8> = text
            .split(':')
            .map(|pair| {
                // `from_str_radix` would also take a sign.
                let digits = pair.len() == 2 && pair.chars().all(|c| c.is_ascii_hexdigit());
                digits.then(|| u8::from_str_radix(pair, 16).ok()).flatten()
            })
            .collect::<Option<_>>()
            .ok_or(SHAPE)?;
        bytes.try_into().map(Self).map_err(|_| SHAPE)
    }
}

/// A machine, as the supervisor orders it. Descriptors are numbers because that is what a command line can say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineSpec {
    /// /dev/kvm, open.
    pub kvm: RawFd,
    /// The kernel's file, read-only.
    pub kernel: RawFd,
    /// The initramfs, read-only.
    pub initrd: Option<RawFd>,
    /// The kernel's command line.
    pub cmdline: String,
    /// Virtual processors.
    pub cpus: u8,
    /// Guest memory in bytes, a multiple of 4096.
    pub memory_bytes: u64,
    /// Connected vhost-user sockets, in the order in which the guest shall see the disks.
    pub disks: Vec<RawFd>,
    /// Network cards, in order.
    pub nets: Vec<NetSpec>,
    /// The read end of the pipe with what is typed at the console.
    pub console_in: RawFd,
    /// The write end of the pipe with what the guest prints.
    pub console_out: RawFd,
    /// Whom a VMM that was started by root becomes: uid and gid.
    pub user: (u32, u32),
    /// Log at debug level too.
    pub verbose: bool,
}

impl MachineSpec {
    /// The command line that says all this, as `machine::args` reads it.
    #[must_use]
    pub fn to_args(&self) -> Vec<String> {
        let mut args = Vec::new();
        // With "=", so that a value may begin with a dash.
        let mut option = |name: &str, value: String| args.push(format!("--{name}={value}"));
        option("kvm", self.kvm.to_string());
        option("kernel", self.kernel.to_string());
        if let Some(initrd) = self.initrd {
            option("initrd", initrd.to_string());
        }
        option("cmdline", self.cmdline.clone());
        option("cpus", self.cpus.to_string());
        option("memory", self.memory_bytes.to_string());
        for disk in &self.disks {
            option("disk", disk.to_string());
        }
        for net in &self.nets {
            option("net", format!("{},{}", net.tap, net.mac));
        }
        option("console-in", self.console_in.to_string());
        option("console-out", self.console_out.to_string());
        let (uid, gid) = self.user;
        option("user", format!("{uid}:{gid}"));
        if self.verbose {
            args.push("--verbose".to_owned());
        }
        args
    }

    /// Every descriptor that the machine inherits.
    #[must_use]
    pub fn descriptors(&self) -> Vec<RawFd> {
        [self.kvm, self.kernel, self.console_in, self.console_out]
            .into_iter()
            .chain(self.initrd)
            .chain(self.disks.iter().copied())
            .chain(self.nets.iter().map(|net| net.tap))
            .collect()
    }
}

protocol::exit_codes! {
    /// How a `mayfly-vmm` ended. The number is the process's exit code.
    pub enum MachineExit {
        /// The guest powered itself off.
        PoweredOff = 0 => "the guest powered itself off",
        /// It could not start: KVM, kernel, memory, a disk's backend.
        CannotStart = 1 => "could not start: KVM, kernel, memory, or a disk's backend",
        /// The command line made no sense.
        Usage = 2 => "wrong usage",
        /// A required layer of confinement could not be put in place or did not read back.
        NotConfined = 3 => "a required layer of confinement failed",
        /// A forbidden act was possible (`--check-confinement` only).
        ForbiddenActPossible = 4 => "--check-confinement: a forbidden act was possible",
        /// The supervisor was gone before the kernel could be asked for SIGKILL then.
        ParentGone = 8 => "the supervisor died during the start; later that is SIGKILL",
        /// A bug: the process panicked.
        Panicked = 9 => "a bug: the process panicked",
        /// KVM refused to run the guest, or the event loop failed.
        RunFailed = 10 => "KVM refused to run the guest, or the event loop failed",
        /// A disk's backend closed its connection or stopped answering.
        DiskGone = 12 => "a disk's backend closed its connection or stopped answering",
        /// The guest's processor gave up (a triple fault).
        GuestCrashed = 13 => "the guest's processor gave up (a triple fault)",
        /// Told to end (SIGTERM, SIGINT, SIGHUP).
        Told = 15 => "ended as asked, by a signal",
        /// The guest asked for a reboot: a new VMM on the same disks is wanted.
        Reboot = 16 => "the guest asked for a reboot",
    }
}

/// Whom a process becomes that root starts: "UID:GID", neither of them root's.
pub(crate) fn user(text: &str) -> Result<(u32, u32), &'static str> {
    let number = |text: &str| match text.parse() {
        Ok(0) => Err("this process never runs as root"),
        // The system calls take this value to mean "leave it as it is".
        Ok(u32::MAX) | Err(_) => Err("give UID:GID as numbers"),
        Ok(number) => Ok(number),
    };
    let (uid, gid) = text.split_once(':').ok_or("give UID:GID as numbers")?;
    Ok((number(uid)?, number(gid)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_has_every_exit_code() {
        let documentation = include_str!("../../docs/sandbox.md");
        let (_, table) = documentation.split_once("| what happens to a VMM |").unwrap();

        for exit in MachineExit::ALL {
            assert!(table.contains(&format!(" | {} |\n", exit.number())), "{exit:?}");
            assert_eq!(MachineExit::try_from(i32::from(exit.number())), Ok(*exit));
        }
        assert_eq!(MachineExit::try_from(77), Err(77));
    }
}
