//! The backends: ours and the peers, started with a socket and an overlay each, killed at the end.
//!
//! All get their socket by descriptor, so nobody waits for anybody's path to appear. It knows command lines, not rings.

use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::disk::{Disk, Guest};
use crate::failure::Failure;

/// What the backend that runs now writes to standard error.
const LOG: &str = "log";

/// Who serves the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `blk-helper` as a user starts it.
    Mayfly,
    /// `blk-helper --no-encrypt`.
    MayflyPlain,
    /// `qemu-storage-daemon`, aio=threads.
    QsdThreads,
    /// `qemu-storage-daemon`, aio=io_uring.
    QsdUring,
    /// `qemu-storage-daemon` without any overlay, writing into the image: what copy-on-write costs.
    QsdRaw,
    /// `nbdkit --filter=cow`, behind `qemu-storage-daemon` that speaks NBD to it: the same client can then drive it.
    Nbdkit,
}

impl Kind {
    /// All of them.
    pub(crate) const ALL: [Self; 6] = [
        Self::Mayfly,
        Self::MayflyPlain,
        Self::QsdThreads,
        Self::QsdUring,
        Self::QsdRaw,
        Self::Nbdkit,
    ];

    /// As results name it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Mayfly => "mayfly",
            Self::MayflyPlain => "mayfly-plain",
            Self::QsdThreads => "qsd-threads",
            Self::QsdUring => "qsd-io_uring",
            Self::QsdRaw => "qsd-raw",
            Self::Nbdkit => "nbdkit-cow",
        }
    }

    /// Those that this machine can run: io_uring may be forbidden.
    pub(crate) fn here() -> Vec<Self> {
        let forbidden = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_else(|_| "0".to_owned());
        let runs = |kind: &Self| *kind != Self::QsdUring || forbidden.trim() == "0";
        Self::ALL.into_iter().filter(runs).collect()
    }

    /// Whether it is one of those we measure ourselves against.
    pub(crate) const fn is_peer(self) -> bool {
        matches!(self, Self::QsdThreads | Self::QsdUring)
    }

    /// Whether it does something else than we, and is measured once, to know what that costs.
    pub(crate) const fn is_for_orientation(self) -> bool {
        matches!(self, Self::QsdRaw | Self::Nbdkit)
    }
}

/// A backend that runs, and its disk.
#[derive(Debug)]
pub(crate) struct Backend {
    process: Process,
    /// What serves it in turn.
    below: Option<Process>,
    /// The disk.
    pub(crate) disk: Disk,
    /// How long it took from the program's start until a read was answered.
    pub(crate) spawned: Duration,
    /// The same with whatever its overlay needed before.
    pub(crate) prepared: Duration,
}

impl Backend {
    /// Starts one over `base`, with its overlay in `dir`, and waits until it has answered a read. Whatever becomes of us, the
    /// kernel ends it.
    pub(crate) fn start(kind: Kind, base: &Path, dir: &Path) -> Result<Self, Failure> {
        Self::launch(kind, base, dir, &["setpriv", "--pdeathsig", "KILL"])
    }

    /// As [`Self::start`], but a peer is started by nothing else than its command line: for who measures how long that takes.
    pub(crate) fn start_bare(kind: Kind, base: &Path, dir: &Path) -> Result<Self, Failure> {
        Self::launch(kind, base, dir, &[])
    }

    fn launch(kind: Kind, base: &Path, dir: &Path, leash: &[&str]) -> Result<Self, Failure> {
        let guest = Guest::new()?;
        let begun = Instant::now();
        let Started {
            process,
            below,
            stream,
            overlay,
            begun: started,
        } = match kind {
            Kind::Mayfly => mayfly(base, dir, &[])?,
            Kind::MayflyPlain => mayfly(base, dir, &["--no-encrypt"])?,
            Kind::QsdThreads => qsd(base, dir, "threads", leash)?,
            Kind::QsdUring => qsd(base, dir, "io_uring", leash)?,
            Kind::QsdRaw => raw(base, dir, leash)?,
            Kind::Nbdkit => nbdkit(base, dir, leash)?,
        };
        let connected = guest.connect(stream).and_then(|mut disk| {
            disk.read_first()?;
            Ok(disk)
        });
        let (spawned, prepared) = (started.elapsed(), begun.elapsed());
        if let Some(overlay) = overlay {
            fs::remove_file(&overlay).map_err(Failure::while_doing(format!("remove {}", overlay.display())))?;
        }
        let disk = connected.map_err(|failure| process.explain(failure, dir))?;
        Ok(Self {
            process,
            below,
            disk,
            spawned,
            prepared,
        })
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.child.id()
    }

    /// All of its processes.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let below = self.below.iter().map(|below| below.child.id());
        below.chain([self.pid()]).collect()
    }
}

/// What runs now, for who must end it in a hurry.
static RUNNING: Mutex<Running> = Mutex::new(Running::Children(Vec::new()));

enum Running {
    /// These processes.
    Children(Vec<Pid>),
    /// All is over; nothing may be started any more.
    Over,
}

/// Ends the backend that runs now, if there is one, from any thread, and lets no other start.
pub(crate) fn end_for_good() {
    let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Running::Children(pids) = &*running {
        for pid in pids {
            let _ = kill(*pid, Signal::SIGKILL);
        }
    }
    *running = Running::Over;
}

/// A process that ends with this value.
#[derive(Debug)]
struct Process {
    name: &'static str,
    child: Child,
}

impl Process {
    /// The failure, with what the process said.
    fn explain(&self, failure: Failure, dir: &Path) -> Failure {
        let said = fs::read_to_string(dir.join(LOG)).unwrap_or_default();
        Failure::Program {
            program: self.name,
            said: format!("{}; it said: {}", tests::ending::chain(&failure), said.trim()),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Running::Children(pids) = &mut *running {
            let own = process_id(&self.child);
            pids.retain(|pid| *pid != own);
        }
    }
}

/// A process that may not be ready yet.
struct Started {
    process: Process,
    /// One that the other needs.
    below: Option<Process>,
    stream: UnixStream,
    /// A name to be removed.
    overlay: Option<PathBuf>,
    begun: Instant,
}

fn mayfly(base: &Path, dir: &Path, options: &[&str]) -> Result<Started, Failure> {
    let (ours, theirs) = UnixStream::pair().map_err(Failure::while_doing("make a socket pair"))?;
    let theirs = OwnedFd::from(theirs);
    let mut command = Command::new(program("blk-helper")?);
    command
        .arg("--blk-file")
        .arg(base)
        .arg("--overlay-dir")
        .arg(dir)
        .args(["--fd", &theirs.as_raw_fd().to_string()])
        .args(options);
    let begun = Instant::now();
    Ok(Started {
        process: spawn(command, &theirs, "blk-helper", dir)?,
        below: None,
        stream: ours,
        overlay: None,
        begun,
    })
}

fn qsd(base: &Path, dir: &Path, aio: &str, leash: &[&str]) -> Result<Started, Failure> {
    let overlay = dir.join("overlay.qcow2");
    let image = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
        .args([base, &overlay])
        .output()
        .map_err(Failure::while_doing("run qemu-img"))?;
    if !image.status.success() {
        let said = String::from_utf8_lossy(&image.stderr).trim().to_owned();
        return Err(Failure::Program {
            program: "qemu-img",
            said,
        });
    }
    let file = |node: &str, path: &Path| format!("driver=file,node-name={node},filename={},aio={aio}", path.display());
    let nodes = [
        file("base-file", base) + ",read-only=on",
        "driver=raw,node-name=base,file=base-file,read-only=on".to_owned(),
        file("overlay-file", &overlay) + ",discard=unmap,cache.no-flush=on",
        "driver=qcow2,node-name=disk,file=overlay-file,backing=base,discard=unmap,cache.no-flush=on".to_owned(),
    ];
    Ok(Started {
        overlay: Some(overlay),
        ..export(&nodes, dir, leash)?
    })
}

/// Whatever it writes goes into `base`, which is noise before and after.
fn raw(base: &Path, dir: &Path, leash: &[&str]) -> Result<Started, Failure> {
    let nodes = [
        format!("driver=file,node-name=file,filename={},aio=threads", base.display()),
        "driver=raw,node-name=disk,file=file".to_owned(),
    ];
    export(&nodes, dir, leash)
}

fn nbdkit(base: &Path, dir: &Path, leash: &[&str]) -> Result<Started, Failure> {
    let path = dir.join("nbd");
    let _ = fs::remove_file(&path);
    let listener = UnixListener::bind(&path).map_err(Failure::while_doing(format!("listen at {}", path.display())))?;
    let mut words = leash.iter().chain(&["sh", "-c"]);
    let mut command = Command::new(words.next().expect("the program's name at least"));
    // It takes its socket as services of systemd do: as descriptor 3, if it is told its own process number.
    command
        .args(words)
        .arg("exec 3<&\"$1\"; export LISTEN_FDS=1 LISTEN_PID=$$; exec nbdkit --foreground --filter=cow file \"$2\"")
        .args(["sh", &listener.as_raw_fd().to_string()])
        .arg(base)
        .env("TMPDIR", dir);
    let below = spawn(command, &OwnedFd::from(listener), "nbdkit", dir)?;
    let nodes = [format!(
        "driver=nbd,node-name=disk,server.type=unix,server.path={}",
        path.display()
    )];
    let started = export(&nodes, dir, leash)?;
    Ok(Started {
        below: Some(below),
        overlay: Some(path),
        ..started
    })
}

/// A `qemu-storage-daemon` that exports the last of `nodes`, whose name is `disk`.
fn export(nodes: &[String], dir: &Path, leash: &[&str]) -> Result<Started, Failure> {
    let path = dir.join("socket");
    let _ = fs::remove_file(&path);
    let listener = UnixListener::bind(&path).map_err(Failure::while_doing(format!("listen at {}", path.display())))?;
    let ours = UnixStream::connect(&path).map_err(Failure::while_doing(format!("connect to {}", path.display())))?;
    let _ = fs::remove_file(&path);
    let listener = OwnedFd::from(listener);
    let mut words = leash.iter().chain(&["qemu-storage-daemon"]);
    let mut command = Command::new(words.next().expect("the program's name at least"));
    command.args(words).args(["--object", "iothread,id=io0"]);
    for node in nodes {
        command.args(["--blockdev", node]);
    }
    command.args([
        "--export",
        &format!(
            "type=vhost-user-blk,id=export,node-name=disk,addr.type=fd,addr.str={},writable=on,iothread=io0,num-queues=1",
            listener.as_raw_fd()
        ),
    ]);
    let begun = Instant::now();
    Ok(Started {
        process: spawn(command, &listener, "qemu-storage-daemon", dir)?,
        below: None,
        stream: ours,
        overlay: None,
        begun,
    })
}

fn process_id(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("pid_max is below 2^22"))
}

/// Starts it with `inherited`, and nothing else of ours.
fn spawn(mut command: Command, inherited: &OwnedFd, name: &'static str, dir: &Path) -> Result<Process, Failure> {
    let inheritable =
        |flag| fcntl(inherited, FcntlArg::F_SETFD(flag)).map_err(Failure::while_doing("let a descriptor be inherited"));
    let log = File::create(dir.join(LOG)).map_err(Failure::while_doing("make a log"))?;
    let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    let Running::Children(pids) = &mut *running else {
        return Err(Failure::Unfit("all is over".to_owned()));
    };
    inheritable(FdFlag::empty())?;
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
    let child = child.map_err(Failure::while_doing(format!("start {name}")))?;
    pids.push(process_id(&child));
    drop(running);
    let process = Process { name, child };
    inheritable(FdFlag::FD_CLOEXEC)?;
    Ok(process)
}

/// One of ours: the neighbour of this program.
pub(crate) fn program(name: &str) -> Result<PathBuf, Failure> {
    let own = std::env::current_exe().map_err(Failure::while_doing("find this program"))?;
    let path = own.with_file_name(name);
    if path.exists() {
        Ok(path)
    } else {
        Err(Failure::Unfit(format!(
            "there is no {}: build it first",
            path.display()
        )))
    }
}
