//! The words behind `mayfly ctl`. They have no effects; a user's name is looked up.

use super::code::Code;
use crate::supervisor::words::Size;
use clap::{Args, Subcommand, ValueEnum};
use nix::unistd::User;
use protocol::control::{AtLimit, LimitsChange, Rate};
use std::fmt::Write;
use std::path::PathBuf;
use std::str::FromStr;

/// A question or an order to a helper.
#[derive(Debug, Args)]
#[command(subcommand_precedence_over_arg = true, after_help = after_help())]
pub(crate) struct Ctl {
    /// The helper's control socket (mayfly run --disk IMAGE,control=SOCKET; blk-helper --control-path SOCKET)
    pub(crate) socket: PathBuf,

    /// Answer with lines of JSON, an object each
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// Talk to a helper that this user started, too; else only to one that you or root did. A name or a number
    #[arg(long, value_name = "USER", global = true)]
    pub(crate) trust_user: Option<Server>,

    #[command(subcommand)]
    pub(crate) order: Order,
}

/// Who may serve a socket, as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Server(pub(crate) u32);

impl FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(number) = text.parse() {
            return Ok(Self(number));
        }
        match User::from_name(text) {
            Ok(Some(user)) => Ok(Self(user.uid.as_raw())),
            Ok(None) => Err("there is no such user".into()),
            Err(errno) => Err(format!("cannot look for this user: {errno}")),
        }
    }
}

/// What is wanted.
#[derive(Debug, Subcommand)]
pub(crate) enum Order {
    /// How things are: the disk, its base, how full the overlay is, limits, a save, what confines the helper
    Status,
    /// What was counted: requests, bytes, errors, latencies
    Stats {
        /// Every second what was done in that second, until interrupted (with --json: all that was counted)
        #[arg(long)]
        watch: bool,
        /// As text for Prometheus, with the overlay's and the limits' numbers
        #[arg(long, conflicts_with_all = ["watch", "json"])]
        prometheus: bool,
    },
    /// Print a line for each thing that happens, until interrupted
    Events,
    /// Write the disk, as it is at this moment, to a new file, while the guest runs on. OUT appears when it is whole
    Save(Save),
    /// Make the disk, as it is at this moment, the new base: beside the old one, then in its place. The helper goes on with
    /// the old one; other guests on it notice nothing
    Commit {
        /// The file that the disk was started from
        #[arg(long, value_name = "PATH")]
        base: PathBuf,
        /// Commit even if the new file cannot have the owner, mode or extended attributes of the old one: it is yours then
        #[arg(long)]
        new_owner: bool,
    },
    /// Forget everything that the guest wrote; only while no guest uses the disk
    Reset,
    /// Change limits; what is not named stays as it is
    SetLimits(Limits),
    /// Make the disk larger; a guest that is told of it sees that at once, others when they start
    Resize {
        /// The new size
        size: Size,
    },
    /// Burn the disk and end the helper
    Stop,
}

/// A save.
#[derive(Debug, Args)]
pub(crate) struct Save {
    /// The file, which must not be there
    pub(crate) out: PathBuf,
    /// raw: the whole disk. qcow2: with --delta, only what the guest changed
    #[arg(long, value_enum, default_value = "raw")]
    pub(crate) format: Format,
    /// Save what the guest changed, over the base, which QEMU then needs too
    #[arg(long, requires = "backing")]
    pub(crate) delta: bool,
    /// The name of the base that is written into a delta: a path that QEMU can open, absolute or relative to OUT
    #[arg(long, value_name = "NAME", requires = "delta")]
    pub(crate) backing: Option<String>,
}

/// A format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Raw,
    Qcow2,
}

/// Limits to be changed.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub(crate) struct Limits {
    /// Most bytes of the overlay
    #[arg(long, value_name = "SIZE")]
    overlay_limit: Option<Size>,
    /// Most requests a second, and how many at once after a pause; 0 for no limit
    #[arg(long, value_name = "N[:BURST]", value_parser = Rate::parse_requests)]
    iops: Option<Rate>,
    /// Most bytes a second, and how many at once after a pause; 0 for no limit
    #[arg(long, value_name = "SIZE[:BURST]", value_parser = Rate::parse_bytes)]
    bandwidth: Option<Rate>,
    /// Bytes that the overlay's file system keeps free; 0 for none
    #[arg(long, value_name = "SIZE")]
    keep_free: Option<Size>,
    /// What happens to a write for which there is no space: it fails (error), or its queue waits until there is some (hold)
    #[arg(long, value_name = "error|hold")]
    at_limit: Option<AtLimit>,
}

impl Limits {
    /// As the helper is told.
    pub(crate) fn change(&self) -> LimitsChange {
        LimitsChange {
            overlay_bytes: self.overlay_limit.map(|Size(bytes)| bytes),
            iops: self.iops,
            bandwidth: self.bandwidth,
            keep_free_bytes: self.keep_free.map(|Size(bytes)| bytes),
            at_limit: self.at_limit,
        }
    }
}

impl Save {
    /// What contradicts itself in a way that clap cannot say.
    pub(crate) fn contradiction(&self) -> Option<&'static str> {
        match (self.format, self.delta) {
            (Format::Raw, false) | (Format::Qcow2, true) => None,
            (Format::Raw, true) => Some("only a qcow2 file can be a delta: --format qcow2 --delta --backing NAME"),
            (Format::Qcow2, false) => Some(
                "a qcow2 file is saved as a delta over the base: --format qcow2 --delta --backing NAME; for a whole image save \
                 raw and convert it (qemu-img convert -O qcow2)",
            ),
        }
    }
}

fn after_help() -> String {
    let mut text = String::from(
        "Examples:\n  \
         mayfly ctl /run/vm/vda.ctl status\n  \
         mayfly ctl /run/vm/vda.ctl stats --watch\n  \
         mayfly ctl /run/vm/vda.ctl save tested.raw\n  \
         mayfly ctl /run/vm/vda.ctl save changes.qcow2 --format qcow2 --delta --backing /images/debian.raw\n  \
         mayfly ctl /run/vm/vda.ctl commit --base /images/debian.raw\n  \
         mayfly ctl /run/vm/vda.ctl set-limits --overlay-limit 20G --iops 500:2000 --bandwidth 100M\n\n\
         A save or commit that is interrupted (C-c) is called off, and what was written of it is removed.\n\n\
         Exit codes:\n",
    );
    for code in Code::ALL {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {:>5}  {}", code.number(), code.meaning());
    }
    text.push_str("  128+N  called off by signal N\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use protocol::control::LimitsChange;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        ctl: Ctl,
    }

    fn read(line: &str) -> Result<Ctl, String> {
        let words = ["ctl"].into_iter().chain(line.split_whitespace());
        Line::try_parse_from(words)
            .map(|line| line.ctl)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_socket_comes_first_and_json_anywhere() {
        for line in ["s status --json", "--json s status", "s --json status"] {
            let ctl = read(line).unwrap();
            assert!(ctl.json && ctl.socket.as_os_str() == "s", "{line}");
        }
        assert!(read("status").unwrap_err().contains("<SOCKET>"));
        read("./status status").unwrap();
    }

    /// A message says to add it to what was said.
    #[test]
    fn whom_to_trust_is_said_anywhere() {
        for line in [
            "s status --trust-user 7",
            "--trust-user 7 s status",
            "s --trust-user 7 status",
        ] {
            assert_eq!(read(line).unwrap().trust_user, Some(Server(7)), "{line}");
        }
    }

    #[test]
    fn limits_are_read_as_people_write_them() {
        let Order::SetLimits(limits) = read("s set-limits --iops 500:2000 --bandwidth 1M --at-limit hold")
            .unwrap()
            .order
        else {
            panic!("these are limits");
        };
        let expected = LimitsChange {
            iops: Some(Rate {
                per_second: 500,
                burst: 2000,
            }),
            bandwidth: Some(Rate {
                per_second: 1 << 20,
                burst: 0,
            }),
            at_limit: Some(AtLimit::Hold),
            ..LimitsChange::default()
        };
        assert_eq!(limits.change(), expected);
        read("s set-limits").unwrap_err();
        for nonsense in ["--iops many", "--iops 2K", "--bandwidth fast"] {
            read(&format!("s set-limits {nonsense}")).expect_err("as blk-helper reads it");
        }
    }

    #[test]
    fn a_delta_needs_the_name_of_its_base() {
        for (line, fine) in [
            ("s save x", true),
            ("s save x --format qcow2 --delta --backing b", true),
            ("s save x --format qcow2", false),
            ("s save x --delta --backing b", false),
        ] {
            let Order::Save(save) = read(line).unwrap().order else {
                panic!("{line}");
            };
            assert_eq!(save.contradiction().is_none(), fine, "{line}");
        }
        read("s save x --format qcow2 --delta").unwrap_err();
        read("s save x --backing b").unwrap_err();
    }
}
