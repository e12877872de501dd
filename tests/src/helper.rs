//! Starts a real `blk-helper` and waits until it says READY.
//!
//! READY is the line of JSON that `--report json` prints once everything is confined and the socket listens. This
//! file knows the command line, nothing of what goes over the socket; [`crate::process`] knows how it goes on.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use crate::faults::Faults;
use crate::place::Place;
use crate::process::{Process, START};
use crate::require::private_mount_command;

pub use crate::process::{END, Ended, Helper};

/// Guards the moments in which a descriptor of ours is inheritable, so that no other child gets it too.
static SPAWN: Mutex<()> = Mutex::new(());

/// How a frontend reaches the helper.
#[derive(Debug)]
enum Channel {
    Path(PathBuf),
    Connected(UnixStream),
    Closed,
    Activated(UnixListener),
}

/// A helper that is not started yet.
#[derive(Debug)]
pub struct HelperBuilder<'place> {
    place: &'place Place,
    channel: Channel,
    overlay_dir: Option<PathBuf>,
    base: OsString,
    tmpfs: Option<String>,
    inherited: Vec<OwnedFd>,
    variables: Vec<(OsString, OsString)>,
    options: Vec<OsString>,
    unheard: bool,
    behind: Vec<OsString>,
}

impl<'place> HelperBuilder<'place> {
    pub(crate) fn new(place: &'place Place) -> Self {
        Self {
            place,
            channel: Channel::Path(place.socket()),
            overlay_dir: Some(place.overlay_dir()),
            base: place.base().into(),
            tmpfs: None,
            inherited: Vec::new(),
            variables: Vec::new(),
            options: Vec::new(),
            unheard: false,
            behind: Vec::new(),
        }
    }

    /// Under these faults.
    #[must_use]
    pub fn faulty(self, faults: &Faults) -> Self {
        self.behind(faults.words())
    }

    /// What it prints, READY above all, cannot be written.
    #[must_use]
    pub fn unheard(mut self) -> Self {
        self.unheard = true;
        self
    }

    /// It is started by another program (these words, then its own command line), which becomes it.
    #[must_use]
    pub fn behind<W: Into<OsString>>(mut self, words: impl IntoIterator<Item = W>) -> Self {
        self.behind = words.into_iter().map(Into::into).collect();
        self
    }

    /// Adds an option that stands alone.
    #[must_use]
    pub fn option(mut self, option: impl AsRef<OsStr>) -> Self {
        self.options.push(option.as_ref().to_owned());
        self
    }

    /// Adds an option and its value.
    #[must_use]
    pub fn value(self, option: &str, value: impl AsRef<OsStr>) -> Self {
        self.option(option).option(value)
    }

    /// An open descriptor, inherited, instead of the path of the place's base.
    #[must_use]
    pub fn base_descriptor(mut self, file: File) -> Self {
        self.base = format!("fd:{}", file.as_raw_fd()).into();
        self.inherited.push(file.into());
        self
    }

    /// Another path instead of the place's base.
    #[must_use]
    pub fn base(mut self, base: impl AsRef<OsStr>) -> Self {
        self.base = base.as_ref().to_owned();
        self
    }

    /// A variable of its environment.
    #[must_use]
    pub fn variable(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.variables.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// Another overlay directory than the place's.
    #[must_use]
    pub fn overlay_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.overlay_dir = Some(dir.into());
        self
    }

    /// No `--overlay-dir` on the command line.
    #[must_use]
    pub fn no_overlay_dir(mut self) -> Self {
        self.overlay_dir = None;
        self
    }

    /// `--read-only`, which takes no overlay directory.
    #[must_use]
    pub fn read_only(self) -> Self {
        self.no_overlay_dir().option("--read-only")
    }

    /// Lets the overlay directory be a tmpfs of `size` (as mount's option), in a mount namespace of the helper's own.
    #[must_use]
    pub fn on_small_tmpfs(mut self, size: &str) -> Self {
        self.tmpfs = Some(size.to_owned());
        self
    }

    /// Serves one connected socket (`--fd`) and nobody else.
    #[must_use]
    pub fn connected(mut self, stream: UnixStream) -> Self {
        self.channel = Channel::Connected(stream);
        self
    }

    /// Serves nobody but whom its operator attaches. Goes with [`Self::operated`].
    #[must_use]
    pub fn closed(mut self) -> Self {
        self.channel = Channel::Closed;
        self
    }

    /// Takes orders from an operator: this is the helper's end of the channel (`--control-fd`).
    #[must_use]
    pub fn operated(mut self, channel: OwnedFd) -> Self {
        let number = channel.as_raw_fd().to_string();
        self.inherited.push(channel);
        self.value("--control-fd", number)
    }

    /// Takes orders at the place's control path (`--control-path`).
    #[must_use]
    pub fn controlled(self) -> Self {
        let path = self.place.control();
        self.value("--control-path", path)
    }

    /// Serves a listener that somebody else bound (`LISTEN_FDS`).
    #[must_use]
    pub fn activated(mut self, listener: UnixListener) -> Self {
        self.channel = Channel::Activated(listener);
        self
    }

    /// Starts it and waits for READY.
    ///
    /// # Panics
    ///
    /// If it is not ready in time; the message has what it wrote to standard error.
    #[must_use]
    pub fn start(self) -> Helper {
        let socket = self.place.socket();
        let mut process = self.spawn();
        let Some(line) = process.first_line() else {
            let ended = process.kill();
            panic!("the helper did not become ready: {ended:?}");
        };
        let report = serde_json::from_str(&line).expect("the READY report is one line of JSON");
        Helper::new(process, report, socket)
    }

    /// Starts it and expects it to end without ever being ready.
    ///
    /// # Panics
    ///
    /// If it becomes ready.
    #[must_use]
    pub fn start_refused(self) -> Ended {
        let mut process = self.spawn();
        assert_eq!(process.first_line(), None, "the helper started");
        process.wait_within(START)
    }

    fn spawn(mut self) -> Process {
        let mut command = self.launcher();
        command.arg("--blk-file").arg(&self.base).args(["--report", "json"]);
        if let Some(dir) = &self.overlay_dir {
            command.arg("--overlay-dir").arg(dir);
        }
        command
            .args(&self.options)
            .envs(self.variables)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        match self.channel {
            Channel::Path(path) => {
                command.arg("--socket-path").arg(path);
            }
            Channel::Activated(listener) => {
                command.stdin(Stdio::from(OwnedFd::from(listener)));
            }
            Channel::Closed => {}
            Channel::Connected(stream) => {
                command.arg("--fd").arg(stream.as_raw_fd().to_string());
                self.inherited.push(stream.into());
            }
        }
        let child = spawn_with(&mut command, &self.inherited);
        Process::watch(child.expect("blk-helper is built (cargo build -p blk-helper)"))
    }

    /// The helper's program, behind what has to happen in its process first.
    fn launcher(&self) -> Command {
        if let Some((first, others)) = self.behind.split_first() {
            let mut command = Command::new(first);
            command.args(others).arg(program());
            return command;
        }
        if let Some(size) = &self.tmpfs {
            let mut command = private_mount_command();
            let script = r#"mount -t tmpfs -o "size=$1,mode=777" none "$2" && shift 2 && exec "$@""#;
            command
                .args(["sh", "-c", script, "sh", size])
                .arg(self.place.overlay_dir())
                .arg(program());
            return command;
        }
        if self.unheard {
            let mut command = Command::new("sh");
            command.args(["-c", r#"exec "$@" >/dev/full"#, "sh"]).arg(program());
            return command;
        }
        if matches!(self.channel, Channel::Activated(_)) {
            let script = r#"export LISTEN_PID=$$ LISTEN_FDS=1; exec "$@" 3<&0 0</dev/null"#;
            let mut command = Command::new("sh");
            command.args(["-c", script, "sh"]).arg(program());
            return command;
        }
        Command::new(program())
    }
}

/// The helper's executable: `MAYFLY_BLK_HELPER`, or the one that cargo built beside this test.
///
/// # Panics
///
/// If the test does not run from cargo's target directory.
#[must_use]
pub fn program() -> PathBuf {
    std::env::var_os("MAYFLY_BLK_HELPER").map_or_else(|| beside_this_test("blk-helper"), PathBuf::from)
}

/// A program that cargo built into the directory above this test's.
///
/// # Panics
///
/// If the test does not run from cargo's target directory.
#[must_use]
pub fn beside_this_test(name: &str) -> PathBuf {
    let this = std::env::current_exe().expect("/proc is mounted");
    let profile = this
        .parent()
        .and_then(Path::parent)
        .expect("tests run from target/PROFILE/deps");
    profile.join(name)
}

/// Spawns `command` with these descriptors of ours open in it, under the same numbers, and in no other child.
pub(crate) fn spawn_with(command: &mut Command, inherited: &[OwnedFd]) -> io::Result<Child> {
    // Taken over from whoever panicked before: the guarded state is the kernel's, and it is restored below.
    let _guard = SPAWN.lock().unwrap_or_else(PoisonError::into_inner);
    let set_all = |flags| {
        for fd in inherited {
            fcntl(fd, FcntlArg::F_SETFD(flags)).expect("the flags of an open descriptor can be set");
        }
    };
    set_all(FdFlag::empty());
    let child = command.spawn();
    set_all(FdFlag::FD_CLOEXEC);
    child
}
