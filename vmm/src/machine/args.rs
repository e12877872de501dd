//! The VMM's command line, which the supervisor writes ([`MachineSpec::to_args`]) and nobody else: a [`MachineSpec`] in words.
//!
//! Has no effects, and does not look whether a descriptor is open.

use crate::contract::{MachineSpec, NetSpec, PAGE, user};
use clap::{ArgGroup, Args, Parser};
use std::os::fd::RawFd;

/// One run of one guest on KVM. Started by `mayfly run`, which opens everything that is named here by the number of its
/// descriptor; there is no reason to start it by hand, but for --check-confinement.
#[derive(Debug, Parser)]
#[command(name = "mayfly-vmm", version, max_term_width = 100)]
#[command(group(ArgGroup::new("errand").args(["check_confinement", "attempt"])))]
pub(crate) struct Config {
    #[command(flatten)]
    machine: Option<Machine>,

    /// Whom to become when started by root; never root
    #[arg(long, value_name = "UID:GID", default_value = "65534:65534", value_parser = user)]
    pub(crate) user: (u32, u32),

    /// Also log what the guest does wrong
    #[arg(short, long)]
    pub(crate) verbose: bool,

    /// Confine a process as for a guest, show what the kernel says of it, attempt what must be impossible, and exit
    #[arg(long)]
    pub(crate) check_confinement: bool,

    /// Confine this process and attempt one forbidden act in one of its threads (used by --check-confinement)
    #[arg(long, value_name = "THREAD:ACT", hide = true, conflicts_with = "check_confinement")]
    pub(crate) attempt: Option<String>,
}

/// What is needed for a guest, all of it or nothing.
#[derive(Clone, Debug, Args)]
#[group(id = "machine", conflicts_with = "errand")]
struct Machine {
    /// /dev/kvm
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(RawFd).range(3..))]
    kvm: RawFd,

    /// The kernel's file
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(RawFd).range(3..))]
    kernel: RawFd,

    /// The initramfs
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(RawFd).range(3..))]
    initrd: Option<RawFd>,

    /// The kernel's command line
    #[arg(long, value_name = "TEXT")]
    cmdline: String,

    /// Virtual processors
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    cpus: u8,

    /// Guest memory, a multiple of 4096
    #[arg(long, value_name = "BYTES", value_parser = memory)]
    memory: u64,

    /// A connected socket to a disk's backend; once for each disk
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(RawFd).range(3..))]
    disk: Vec<RawFd>,

    /// A tap and the card's address; once for each card
    #[arg(long, value_name = "N,MAC", value_parser = net)]
    net: Vec<NetSpec>,

    /// The pipe with what is typed at the console
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(RawFd).range(3..))]
    console_in: RawFd,

    /// The pipe for what the guest prints
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(RawFd).range(3..))]
    console_out: RawFd,
}

impl Config {
    /// Reads the command line; where it makes no sense, says so and ends the process as clap does (exit code 2).
    pub(crate) fn from_command_line() -> Self {
        <Self as Parser>::parse()
    }

    /// The machine to run; none on an errand.
    pub(crate) fn spec(&self) -> Option<MachineSpec> {
        let machine = self.machine.clone()?;
        Some(MachineSpec {
            kvm: machine.kvm,
            kernel: machine.kernel,
            initrd: machine.initrd,
            cmdline: machine.cmdline,
            cpus: machine.cpus,
            memory_bytes: machine.memory,
            disks: machine.disk,
            nets: machine.net,
            console_in: machine.console_in,
            console_out: machine.console_out,
            user: self.user,
            verbose: self.verbose,
        })
    }
}

fn memory(text: &str) -> Result<u64, &'static str> {
    match text.parse() {
        Ok(bytes) if bytes > 0 && bytes % PAGE == 0 => Ok(bytes),
        Ok(_) | Err(_) => Err("give a number of bytes, a multiple of 4096"),
    }
}

fn net(text: &str) -> Result<NetSpec, &'static str> {
    let (tap, mac) = text
        .split_once(',')
        .ok_or("give the tap's descriptor, a comma and the address")?;
    match tap.parse() {
        Ok(tap) if tap > 2 => Ok(NetSpec { tap, mac: mac.parse()? }),
        Ok(_) | Err(_) => Err("give the number of a descriptor above 2"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::Mac;
    use proptest::prelude::*;

    fn parse(args: &[&str]) -> Result<Config, clap::Error> {
        Config::try_parse_from(std::iter::once("mayfly-vmm").chain(args.iter().copied()))
    }

    #[test]
    fn the_command_line_is_consistent() {
        <Config as clap::CommandFactory>::command().debug_assert();
    }

    const WHOLE: [&str; 7] = [
        "--kvm=3",
        "--kernel=4",
        "--cmdline=",
        "--cpus=1",
        "--memory=4096",
        "--console-in=5",
        "--console-out=6",
    ];

    /// The name of an option with its value.
    fn name(option: &str) -> Option<&str> {
        option.split_once('=').map(|(name, _)| name)
    }

    #[test]
    fn a_machine_is_whole_or_an_errand() {
        assert!(parse(&WHOLE).unwrap().spec().is_some());
        parse(&[]).unwrap_err();
        for left_out in WHOLE {
            let args: Vec<_> = WHOLE.into_iter().filter(|arg| *arg != left_out).collect();
            parse(&args).expect_err(left_out);
        }
        assert!(parse(&["--check-confinement"]).unwrap().spec().is_none());
        assert!(parse(&["--attempt", "vcpu:open"]).unwrap().spec().is_none());
        parse(&[&WHOLE[..], &["--check-confinement"]].concat()).unwrap_err();
    }

    #[test]
    fn nonsense_is_refused() {
        for wrong in [
            "--kvm=2",
            "--console-in=-1",
            "--cpus=0",
            "--cpus=256",
            "--memory=0",
            "--memory=1000",
            "--net=9",
            "--net=2,52:54:00:00:00:01",
            "--net=9,52:54:00:00:00",
            "--net=9,52:54:00:00:00:1",
            "--net=9,52:54:00:00:00:+1",
            "--user=0:1",
            "--user=1",
            "--user=1:4294967295",
        ] {
            let others = WHOLE.into_iter().filter(|arg| name(arg) != name(wrong));
            let args: Vec<_> = others.chain([wrong]).collect();
            parse(&args).expect_err(wrong);
        }
    }

    fn descriptors() -> impl Strategy<Value = RawFd> {
        3..RawFd::MAX
    }

    prop_compose! {
        fn specs()(
            [kvm, kernel, console_in, console_out] in [descriptors(), descriptors(), descriptors(), descriptors()],
            initrd in prop::option::of(descriptors()),
            cmdline in "\\PC*",
            cpus in 1..=u8::MAX,
            pages in 1..1u64 << 40,
            disks in prop::collection::vec(descriptors(), 0..5),
            nets in prop::collection::vec((descriptors(), any::<[u8; 6]>()), 0..5),
            user in (1..u32::MAX, 1..u32::MAX),
            verbose: bool,
        ) -> MachineSpec {
            let nets = nets.into_iter().map(|(tap, mac)| NetSpec { tap, mac: Mac(mac) }).collect();
            MachineSpec {
                kvm, kernel, initrd, cmdline, cpus, memory_bytes: pages * 4096, disks, nets, console_in, console_out,
                user, verbose,
            }
        }
    }

    proptest! {
        #[test]
        fn what_the_supervisor_writes_is_what_is_read(spec in specs()) {
            let args = spec.to_args();
            let read = parse(&args.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();

            prop_assert_eq!(read.spec(), Some(spec));
        }
    }
}
