//! The command line, turned into a [`Config`] that cannot be wrong in itself.
//!
//! Follows the conventions for vhost-user backend programs (`--socket-path`, `--fd`, `--print-capabilities`, and for disks
//! `--blk-file`, `--read-only`). Has no effects: what is named here is opened later.

use clap::{ArgGroup, Parser, ValueEnum};
use protocol::blk::ID_BYTES;
use protocol::control::{AtLimit, Rate};
use protocol::launch::ExitCode;
use protocol::size;
use std::fmt::Write;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Serve one disk to one virtual machine over vhost-user-blk. The disk begins with the contents of the base image.
/// EVERYTHING THE GUEST WRITES IS LOST WHEN blk-helper EXITS, whatever the reason, unless
/// its operator has it saved before (mayfly ctl, over --control-path; docs/control.md).
///
/// Guest writes go to a nameless file (the overlay) that only this process can reach, encrypted under a key that ends with
/// the process: what is left of it on the storage medium cannot be read later. The base is never written.
/// The process confines itself before it serves, and does not start if it cannot.
#[derive(Debug, Parser)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of its own on the command line"
)]
#[command(name = "blk-helper", version, max_term_width = 100, after_help = after_help())]
#[command(group(ArgGroup::new("door").args(["socket_path", "fd"])))]
#[command(group(ArgGroup::new("errand").args(["print_capabilities", "check_confinement", "attempt"])))]
pub(crate) struct Config {
    /// The base image: a raw file or a block device, or fd:N for an inherited descriptor that can only read
    #[arg(long, value_name = "PATH", required_unless_present = "errand")]
    pub(crate) blk_file: Option<BaseName>,

    /// Listen on a Unix socket at this path (mode 0600). A dead socket there is replaced, a live one is not
    #[arg(long, value_name = "PATH")]
    pub(crate) socket_path: Option<PathBuf>,

    /// Serve one connected Unix socket, this inherited descriptor; end when the peer closes it or the parent dies
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(RawFd).range(3..))]
    pub(crate) fd: Option<RawFd>,

    /// Take orders from this inherited descriptor, a socket pair's end of type SOCK_SEQPACKET (docs/control.md): further
    /// frontends, also after that of --fd; end when it is closed or the parent dies
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(RawFd).range(3..))]
    pub(crate) control_fd: Option<RawFd>,

    /// Take orders on a Unix socket of type SOCK_SEQPACKET at this path (mode 0600; docs/control.md), from up to eight clients at a
    /// time; their leaving ends nothing
    #[arg(long, value_name = "PATH")]
    pub(crate) control_path: Option<PathBuf>,

    /// Directory for the overlay [default: $TMPDIR, else /var/tmp]. A tmpfs is used only if named here
    #[arg(long, value_name = "DIR", conflicts_with = "read_only")]
    pub(crate) overlay_dir: Option<PathBuf>,

    /// Leave the overlay in the clear: its content can be read from the storage medium later, until it is overwritten or trimmed
    #[arg(long, conflicts_with = "read_only")]
    pub(crate) no_encrypt: bool,

    /// Most bytes of overlay; beyond it guest writes fail until something is discarded [default: size of the disk]
    #[arg(long, value_name = "SIZE", value_parser = size::parse, conflicts_with = "read_only")]
    pub(crate) overlay_limit: Option<u64>,

    /// Most memory for the map of clusters; beyond it writes and discards in untouched parts of the disk fail, for good
    /// [default: what the disk can need, a thousandth of its size]
    #[arg(long, value_name = "SIZE", value_parser = size::parse, conflicts_with = "read_only")]
    pub(crate) map_limit: Option<u64>,

    /// Keep so much free on the file system of the overlay, whoever uses it up; 0 means that nobody looks
    #[arg(long, value_name = "SIZE", value_parser = size::parse, default_value = "0", conflicts_with = "read_only")]
    pub(crate) keep_free: u64,

    /// What happens to writes for which there is no space, at --overlay-limit, at --keep-free, or on a full disk. error: they
    /// fail, the guest sees an I/O error. hold: they wait, and with them all that comes behind them in their queue
    #[arg(
        long,
        value_name = "error|hold",
        default_value = "error",
        conflicts_with = "read_only"
    )]
    pub(crate) at_limit: AtLimit,

    /// Most requests a second, all queues together; after a pause BURST at once [default: no limit; a second's worth]
    #[arg(long, value_name = "N[:BURST]", value_parser = Rate::parse_requests, default_value = "0", hide_default_value = true)]
    pub(crate) iops: Rate,

    /// Most bytes a second, read and written together; after a pause BURST at once [default: no limit; a second's worth]
    #[arg(long, value_name = "SIZE[:BURST]", value_parser = Rate::parse_bytes, default_value = "0", hide_default_value = true)]
    pub(crate) bandwidth: Rate,

    /// Queues to offer; a frontend uses as many as it likes
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) num_queues: u16,

    /// Worker threads, shared by the queues [default: one for each CPU, at most one for each queue]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) threads: Option<u16>,

    /// How long a worker that has answered a request looks for more before it sleeps, if that pays, and up to five times as
    /// long after many at once; 0 for never. It saves kicks and wake-ups, and takes processor time that the guest's own
    /// processors may need
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 20, value_parser = clap::value_parser!(u16).range(0..=1000))]
    pub(crate) poll: u16,

    /// Largest ring a frontend may set up, a power of two
    #[arg(long, value_name = "N", default_value = "32768", value_parser = queue_size)]
    pub(crate) queue_size: u16,

    /// Serial number of the disk, up to 20 bytes
    #[arg(long, value_name = "ID", default_value = "mayfly")]
    pub(crate) serial: Serial,

    /// Serve the base as it is, read-only, without any overlay
    #[arg(long)]
    pub(crate) read_only: bool,

    /// Serve the base's bytes even if they look like an image of another format
    #[arg(long)]
    pub(crate) raw_anyway: bool,

    /// Whom to become when started by root; never root
    #[arg(long, value_name = "UID[:GID]", default_value = "65534:65534")]
    pub(crate) user: UserName,

    /// Accept only guest memory that its owner cannot shrink (F_SEAL_SHRINK)
    #[arg(long)]
    pub(crate) require_seals: bool,

    /// End when the frontend disconnects, or when none has come back SECS seconds later
    #[arg(long, value_name = "SECS", num_args = 0..=1, require_equals = true, default_missing_value = "0",
          value_parser = seconds, conflicts_with = "fd")]
    pub(crate) exit_on_disconnect: Option<Duration>,

    /// End when the parent dies (always so with --fd and --control-fd): to the kernel that is the thread which started this process
    #[arg(long)]
    pub(crate) die_with_parent: bool,

    /// When ready, print on standard output what confines the process
    #[arg(long, value_name = "FORMAT")]
    pub(crate) report: Option<ReportFormat>,

    /// Also log what guests and frontends do wrong
    #[arg(short, long)]
    pub(crate) verbose: bool,

    /// Print this backend's capabilities as JSON, and exit
    #[arg(long)]
    pub(crate) print_capabilities: bool,

    /// Confine this process, show what the kernel says of it, attempt what must be impossible, and exit
    #[arg(long)]
    pub(crate) check_confinement: bool,

    /// Confine this process and attempt one forbidden act (used by --check-confinement)
    #[arg(long, value_name = "ACT", hide = true)]
    pub(crate) attempt: Option<String>,
}

impl Config {
    /// Reads the command line; where it makes no sense, says so and ends the process as clap does (exit code 2).
    pub(crate) fn from_command_line() -> Self {
        <Self as Parser>::parse()
    }

    /// The same from other words.
    #[cfg(fuzzing)]
    pub(crate) fn from_words(words: &[&str]) -> Self {
        <Self as Parser>::parse_from(words)
    }

    /// The worker threads to start, on a machine of `cpus` processors.
    pub(crate) fn workers(&self, cpus: usize) -> usize {
        let queues = usize::from(self.num_queues);
        let wanted = self.threads.map_or(cpus, usize::from);
        wanted.clamp(1, queues)
    }
}

/// The base as it is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BaseName {
    Path(PathBuf),
    Descriptor(RawFd),
}

impl FromStr for BaseName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("fd:") {
            None => Ok(Self::Path(text.into())),
            Some(number) => match number.parse() {
                Ok(number) if number > 2 => Ok(Self::Descriptor(number)),
                Ok(_) | Err(_) => Err("give fd:N with the number of a descriptor above 2".into()),
            },
        }
    }
}

/// A serial number, as GET_ID answers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Serial(pub(crate) [u8; ID_BYTES]);

impl FromStr for Serial {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut id = [0; ID_BYTES];
        let place = id
            .get_mut(..text.len())
            .ok_or_else(|| format!("a serial number has at most {ID_BYTES} bytes"))?;
        place.copy_from_slice(text.as_bytes());
        Ok(Self(id))
    }
}

/// A user, by number: names would need the system's databases, which may run anybody's code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UserName {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl FromStr for UserName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (uid, gid) = text.split_once(':').unwrap_or((text, text));
        let number = |text: &str| match text.parse() {
            Ok(0) => Err("the helper never serves as root"),
            // The system calls take this value to mean "leave it as it is".
            Ok(u32::MAX) | Err(_) => Err("give UID or UID:GID as numbers"),
            Ok(number) => Ok(number),
        };
        Ok(Self {
            uid: number(uid)?,
            gid: number(gid)?,
        })
    }
}

/// How to write the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReportFormat {
    /// Tables for a person.
    Text,
    /// One line of JSON.
    Json,
}

fn queue_size(text: &str) -> Result<u16, String> {
    match text.parse::<u16>() {
        Ok(size) if size.is_power_of_two() && (2..=32768).contains(&size) => Ok(size),
        Ok(_) | Err(_) => Err("give a power of two from 2 to 32768".into()),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    // As many as fit into 32 bits, more than a century: what is added to a clock must not overflow it.
    text.parse()
        .map(|seconds: u32| Duration::from_secs(seconds.into()))
        .map_err(|_| "give a whole number of seconds".into())
}

fn after_help() -> String {
    let mut text = String::from(
        "Without --socket-path, --fd, --control-fd and --control-path, a listening socket is expected from the service \
         manager (LISTEN_FDS).\n\n\
         Examples:\n  \
         blk-helper --blk-file debian.raw --socket-path /run/user/1000/disk.sock --overlay-limit 10G\n  \
         qemu-system-x86_64 -object memory-backend-memfd,id=mem,size=2G,share=on -machine q35,memory-backend=mem \\\n    \
         -chardev socket,id=disk,path=/run/user/1000/disk.sock -device vhost-user-blk-pci,chardev=disk ...\n\n\
         Exit codes:\n",
    );
    for code in ExitCode::ALL {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {:>2}  {}", code.number(), code.meaning());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Config, clap::Error> {
        Config::try_parse_from(std::iter::once("blk-helper").chain(args.iter().copied()))
    }

    #[test]
    fn the_command_line_is_consistent() {
        <Config as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn a_base_is_needed_to_serve_and_for_nothing_else() {
        parse(&[]).unwrap_err();
        parse(&["--print-capabilities"]).unwrap();
        parse(&["--check-confinement"]).unwrap();
        parse(&["--blk-file", "x"]).unwrap();
    }

    #[test]
    fn a_base_may_be_a_descriptor() {
        let base = |text: &str| parse(&["--blk-file", text]).map(|config| config.blk_file.unwrap());
        assert_eq!(base("fd:7").unwrap(), BaseName::Descriptor(7));
        assert_eq!(base("./fd:7").unwrap(), BaseName::Path("./fd:7".into()));
        base("fd:2").unwrap_err();
        base("fd:x").unwrap_err();
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        for more in [
            &["--fd", "3", "--socket-path", "s"][..],
            &["--read-only", "--overlay-dir", "d"],
            &["--read-only", "--overlay-limit", "1G"],
            &["--read-only", "--no-encrypt"],
            &["--read-only", "--keep-free", "1G"],
            &["--read-only", "--at-limit", "hold"],
            &["--at-limit", "panic"],
            &["--iops", "1:2:3"],
            &["--fd", "2"],
            &["--control-fd", "2"],
            &["--user", "0"],
            &["--user", "1000:0"],
            &["--queue-size", "100"],
            &["--num-queues", "0"],
            &["--serial", "123456789012345678901"],
        ] {
            let args: Vec<_> = ["--blk-file", "x"].iter().chain(more).copied().collect();
            parse(&args).expect_err(&format!("{more:?}"));
        }
    }

    #[test]
    fn disconnecting_may_end_at_once_or_later() {
        let after = |text: &str| parse(&["--blk-file", "x", text]).unwrap().exit_on_disconnect;
        assert_eq!(after("--exit-on-disconnect"), Some(Duration::ZERO));
        assert_eq!(after("--exit-on-disconnect=5"), Some(Duration::from_secs(5)));
    }

    #[test]
    fn workers_are_never_more_than_queues_nor_none() {
        let workers = |args: &[&str]| {
            let args: Vec<_> = ["--blk-file", "x"].iter().chain(args).copied().collect();
            parse(&args).unwrap().workers(4)
        };
        assert_eq!(workers(&[]), 4);
        assert_eq!(workers(&["--num-queues", "2"]), 2);
        assert_eq!(workers(&["--threads", "8"]), 8);
        assert_eq!(workers(&["--threads", "32"]), 16);
    }
}
