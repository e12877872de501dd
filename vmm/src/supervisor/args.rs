//! The command line. Has no effects: what is named here is opened later.
//!
//! [`Options`] is read twice, from here and from the configuration file ([`super::config`]), and says nothing of defaults:
//! those come when both are known ([`super::settings`]).

use super::end::{Code, ImportCode};
use super::fate::OnExit;
use super::words::{Backing, Disk, Net, Size, User};
use crate::ctl::args::Ctl;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use serde::Deserialize;
use std::ffi::OsString;
use std::fmt::Write;
use std::path::PathBuf;

/// Boot a virtual machine from disks that burn after use. EVERYTHING THE GUEST WRITES IS LOST WHEN THE RUN ENDS,
/// whatever the reason, unless you have it saved or committed before (C-a s, mayfly ctl) or then (--on-exit).
///
/// Each disk is served by a process of its own (blk-helper), which alone holds the image and the overlay; the guest runs in
/// another (mayfly-vmm), which has no disk, no file and no terminal. Both confine themselves before the guest starts.
#[derive(Debug, Parser)]
#[command(
    name = "mayfly",
    version,
    max_term_width = 100,
    arg_required_else_help = true,
    args_conflicts_with_subcommands = true
)]
pub(crate) struct Cli {
    /// Confine a process of each kind, show what the kernel says of it, attempt what must be impossible, and exit
    #[arg(long)]
    pub(crate) check_confinement: bool,

    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Boot a guest; its serial console is this terminal (C-a h shows the keys, C-a x quits)
    #[command(after_help = after_help())]
    Run(Box<Run>),
    /// Ask or tell a disk's helper something while it serves: status, statistics, save, commit, reset, limits
    Ctl(Box<Ctl>),
    /// Make a raw image of a qcow2 image, in a confined process that opens nothing
    #[command(after_help = import_after_help())]
    Import(Import),
}

/// One import of an image.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Import {
    /// The qcow2 image: version 2 or 3, compressed or not. Of its internal snapshots nothing is taken
    #[arg(value_name = "IN")]
    pub(crate) image: PathBuf,

    /// The raw image to make; sparse, and never over an existing file [default: IN with the extension .raw]
    #[arg(value_name = "OUT")]
    pub(crate) output: Option<PathBuf>,

    /// What IN is based on; given again, what that is based on, and so on. No file is opened because an image names it. Without
    /// format= it is what the image above it records
    #[arg(long, value_name = "FILE[,format=qcow2|raw]")]
    pub(crate) backing: Vec<Backing>,

    /// The largest disk to make [default: 16T]
    #[arg(long, value_name = "SIZE")]
    pub(crate) max_size: Option<Size>,

    /// Whom the process becomes when started by root; never root [default: a user that no other run has]
    #[arg(long, value_name = "UID[:GID]")]
    pub(crate) user: Option<User>,

    /// Show also what the process says in normal operation
    #[arg(short, long)]
    pub(crate) verbose: bool,
}

/// One run of a guest.
#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    /// A TOML file with options as keys, such as: memory = "2G". The command line wins; paths are relative to the file
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Print each process that would be started, with its arguments and descriptors, and exit
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Write to FILE, as lines of JSON, what each process reports when it is ready: its descriptors, what confines it. FILE is new
    /// or empty, or no file: nothing is overwritten
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) options: Options,
}

/// What describes a run. The long names are the keys of the configuration file.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub(crate) struct Options {
    /// A raw image or block device that the guest sees as a disk and never changes; the first is /dev/vda. Options:
    /// ro, overlay-dir=DIR, overlay-limit=SIZE, serial=ID, raw-anyway, no-encrypt, control=SOCKET (where its helper takes
    /// the orders of mayfly ctl); more limits, as blk-helper --help describes them: map-limit=SIZE, keep-free=SIZE,
    /// at-limit=error|hold, iops=N or N:BURST, bandwidth likewise. May be given more than once
    #[arg(long, value_name = "IMAGE[,OPTION...]")]
    pub(crate) disk: Vec<Disk>,

    /// A disk that a vhost-user-blk backend serves already at this socket, in the order given (in a file: after `disk`)
    #[arg(long, value_name = "PATH")]
    pub(crate) disk_socket: Vec<PathBuf>,

    /// Both of the above, in the guest's order.
    #[arg(skip)]
    #[serde(skip)]
    pub(crate) disks: Vec<DiskSource>,

    /// The kernel: a bzImage, or an ELF file with a PVH entry or Linux's 64-bit one
    #[arg(long, value_name = "FILE")]
    pub(crate) kernel: Option<PathBuf>,

    /// The initial RAM disk
    #[arg(long, value_name = "FILE")]
    pub(crate) initrd: Option<PathBuf>,

    /// The kernel's command line [default: console=ttyS0 panic=-1 root=/dev/vda rw; /dev/vda1 where the first disk has a
    /// partition table (its first KiB is looked at for that), ro where it is read-only, no root without disks]
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) cmdline: Option<String>,

    /// More for the kernel's command line, behind the default or --cmdline
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) append: Option<String>,

    /// Virtual processors [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    pub(crate) cpus: Option<u8>,

    /// Guest memory [default: 1G]
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<Size>,

    /// Directory for the overlays [default: $TMPDIR, else /var/tmp]. A tmpfs is used only if named here
    #[arg(long, value_name = "DIR")]
    pub(crate) overlay_dir: Option<PathBuf>,

    /// Most bytes of each overlay; beyond it guest writes fail [default: size of the disk]
    #[arg(long, value_name = "SIZE")]
    pub(crate) overlay_limit: Option<Size>,

    /// A network card on a tap: an interface by its name, or an open descriptor. Without mac= each run has another address
    #[arg(long, value_name = "tap=NAME|fd=N[,mac=ADDRESS]")]
    pub(crate) net: Vec<Net>,

    /// What runs the guest. auto: kvm where the processor has virtualisation, else qemu, which emulates it: slower, and less
    /// confined. Where only the right to open /dev/kvm is missing, auto refuses
    #[arg(long, value_name = "HOW", value_enum)]
    pub(crate) accel: Option<Accel>,

    /// Import disks that are qcow2 images first, as mayfly import does, into ~/.cache/mayfly/import (or below XDG_CACHE_HOME),
    /// where the next run finds them
    #[arg(long)]
    pub(crate) import: bool,

    /// Whom the processes become when started by root; never root [default: a user that no other run has]
    #[arg(long, value_name = "UID[:GID]")]
    pub(crate) user: Option<User>,

    /// What becomes of what the guest wrote when the run ends. burn: it is lost. commit: each disk that was changed becomes
    /// its new base, unless the run failed. save=OUT: a new file; OUT may be a directory, and with several disks gets their
    /// names (OUT-vda). ask: on the terminal [default: burn]
    #[arg(long, value_name = "ask|burn|commit|save=OUT")]
    pub(crate) on_exit: Option<OnExit>,

    /// A guest that reboots finds its disks as they were at the start of the run. Not with qemu, where a reboot stays inside
    #[arg(long)]
    pub(crate) reset_on_reboot: bool,

    /// Show also what the processes say in normal operation, and what guests do wrong
    #[arg(short, long)]
    pub(crate) verbose: bool,
}

/// Where a disk comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "a machine has a few disks, and most of them are images"
)]
pub(crate) enum DiskSource {
    /// A helper is started for it.
    Image(Disk),
    /// Somebody serves it already.
    Socket(PathBuf),
}

/// What runs the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Accel {
    Auto,
    Kvm,
    Qemu,
}

impl Cli {
    /// Reads the command line.
    ///
    /// # Errors
    /// There is nothing to do but to tell something; help and version count as that.
    pub(crate) fn read(words: impl IntoIterator<Item = OsString>) -> Result<Self, Refusal> {
        let matches = Self::command().try_get_matches_from(words).map_err(Refusal)?;
        let mut cli = Self::from_arg_matches(&matches).map_err(Refusal)?;
        if let (Some(Command::Run(run)), Some(matches)) = (&mut cli.command, matches.subcommand_matches("run")) {
            run.options.settle_order(matches);
        }
        Ok(cli)
    }
}

/// What to tell somebody who asked for help, or for nothing that makes sense.
#[derive(Debug)]
pub(crate) struct Refusal(clap::Error);

impl Refusal {
    /// Tells it; what to exit with.
    pub(crate) fn tell(&self) -> Code {
        // Nobody else could be told that it cannot be told.
        let _ = self.0.print();
        if self.0.use_stderr() { Code::Usage } else { Code::Done }
    }
}

impl Options {
    /// Puts disks and sockets into the order in which they were named.
    fn settle_order(&mut self, matches: &ArgMatches) {
        let places = |id: &str| matches.indices_of(id).into_iter().flatten().collect::<Vec<_>>();
        let sources = self.take_sources();
        let mut placed: Vec<_> = places("disk")
            .into_iter()
            .chain(places("disk_socket"))
            .zip(sources)
            .collect();
        placed.sort_by_key(|(place, _)| *place);
        self.disks = placed.into_iter().map(|(_, source)| source).collect();
    }

    /// Where there is no order between them, disks come first.
    pub(crate) fn settle_order_of_file(&mut self) {
        self.disks = self.take_sources();
    }

    fn take_sources(&mut self) -> Vec<DiskSource> {
        let images = std::mem::take(&mut self.disk).into_iter().map(DiskSource::Image);
        let sockets = std::mem::take(&mut self.disk_socket)
            .into_iter()
            .map(DiskSource::Socket);
        images.chain(sockets).collect()
    }

    /// These, and what `file` says where these say nothing. Lists are taken whole from one of the two.
    pub(crate) fn or(self, file: Self) -> Self {
        Self {
            disk: Vec::new(),
            disk_socket: Vec::new(),
            disks: if self.disks.is_empty() { file.disks } else { self.disks },
            kernel: self.kernel.or(file.kernel),
            initrd: self.initrd.or(file.initrd),
            cmdline: self.cmdline.or(file.cmdline),
            append: self.append.or(file.append),
            cpus: self.cpus.or(file.cpus),
            memory: self.memory.or(file.memory),
            overlay_dir: self.overlay_dir.or(file.overlay_dir),
            overlay_limit: self.overlay_limit.or(file.overlay_limit),
            net: if self.net.is_empty() { file.net } else { self.net },
            accel: self.accel.or(file.accel),
            import: self.import || file.import,
            user: self.user.or(file.user),
            on_exit: self.on_exit.or(file.on_exit),
            reset_on_reboot: self.reset_on_reboot || file.reset_on_reboot,
            verbose: self.verbose || file.verbose,
        }
    }
}

fn import_after_help() -> String {
    let mut text = String::from(
        "Examples:\n  \
         mayfly import debian.qcow2\n  \
         mayfly import vm.qcow2 golden.raw --backing base.qcow2 --backing older.img,format=raw\n\n\
         The raw image appears whole or not at all. Who may read IN may read it.\n\n\
         Exit codes:\n",
    );
    for code in ImportCode::ALL {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {:>5}  {}", code.number(), code.meaning());
    }
    text.push_str("  128+N  ended by signal N\n");
    text
}

fn after_help() -> String {
    let mut text = String::from(
        "Examples:\n  \
         mayfly run --disk debian.raw --kernel vmlinuz --initrd initrd.img\n  \
         mayfly run --disk golden.raw,overlay-limit=10G --disk tools.raw,ro --kernel vmlinuz --cpus 4\n  \
         mayfly run --disk golden.raw,keep-free=5G,at-limit=hold,iops=500:2000,bandwidth=100M --kernel vmlinuz\n  \
         mayfly run --kernel vmlinuz --initrd tests.cpio --append quiet </dev/null >console.log\n  \
         mayfly run --config vm.toml --net tap=tap0,mac=02:00:00:00:00:01 --dry-run\n\n\
         vm.toml, for what would be typed again and again:\n  \
         kernel = \"vmlinuz\"\n  disk = [\"golden.raw,overlay-limit=10G\", \"tools.raw,ro\"]\n  \
         memory = \"4G\"\n  cpus = 4\n\n\
         A guest's reboot starts a new mayfly-vmm on the same disks, which keep what was written; with --accel qemu it \
         happens inside the same process. A guest that panics reboots (panic=-1), and one that reboots 10 times in a row \
         within a second of starting is stopped.\n\n\
         Without a terminal the console is standard input and output, byte for byte; the keys are a terminal's alone, \
         and the end of the input is only that.\n\n\
         At the end the guest is gone first, then disks are saved or committed, then all that is left burns. C-c or another \
         signal meanwhile calls that off, and what is not saved by then is lost (with --on-exit ask: calls off that one, and asks \
         again).\n\n\
         Exit codes:\n",
    );
    for code in Code::ALL {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {:>5}  {}", code.number(), code.meaning());
    }
    text.push_str(
        "  128+N  ended by signal N; 129 (SIGHUP) also for a terminal that is gone, 141 (SIGPIPE) for\n         \
         a console (standard output) that nobody reads\n",
    );
    text
}

#[cfg(test)]
mod tests;
