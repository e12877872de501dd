//! The backends: ours and the peers, started with a socket and an overlay each, killed at the end.
//!
//! All get their socket by descriptor, so nobody waits for anybody's path to appear. It knows command lines, not rings.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use crate::disk::Disk;
use crate::failure::Failure;

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
}

impl Kind {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [Self::Mayfly, Self::MayflyPlain, Self::QsdThreads, Self::QsdUring];

    /// As results name it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Mayfly => "mayfly",
            Self::MayflyPlain => "mayfly-plain",
            Self::QsdThreads => "qsd-threads",
            Self::QsdUring => "qsd-io_uring",
        }
    }

    /// Whether it is one of those we measure ourselves against.
    pub(crate) const fn is_peer(self) -> bool {
        matches!(self, Self::QsdThreads | Self::QsdUring)
    }
}

/// A backend that runs, and its disk.
#[derive(Debug)]
pub(crate) struct Backend {
    child: Child,
    /// The disk. It goes before the process does.
    pub(crate) disk: Disk,
}

impl Backend {
    /// Starts one over `base`, with its overlay in `dir`, and waits until it has answered a read.
    pub(crate) fn start(kind: Kind, base: &Path, dir: &Path) -> Result<Self, Failure> {
        let (child, stream, overlay) = match kind {
            Kind::Mayfly => mayfly(base, dir, &[])?,
            Kind::MayflyPlain => mayfly(base, dir, &["--no-encrypt"])?,
            Kind::QsdThreads => qsd(base, dir, "threads")?,
            Kind::QsdUring => qsd(base, dir, "io_uring")?,
        };
        let mut child = Killed(Some(child));
        let mut disk = Disk::over(stream)?;
        disk.read_first()?;
        if let Some(overlay) = overlay {
            fs::remove_file(&overlay).map_err(Failure::while_doing(format!("remove {}", overlay.display())))?;
        }
        let child = child.0.take().expect("it was put there above");
        Ok(Self { child, disk })
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// A process that ends with this value.
struct Killed(Option<Child>);

impl Drop for Killed {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            end(child);
        }
    }
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

type Started = (Child, UnixStream, Option<PathBuf>);

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
    let child = spawn(command, &theirs, "blk-helper")?;
    Ok((child, ours, None))
}

fn qsd(base: &Path, dir: &Path, aio: &str) -> Result<Started, Failure> {
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
    let path = dir.join("socket");
    let _ = fs::remove_file(&path);
    let listener = UnixListener::bind(&path).map_err(Failure::while_doing(format!("listen at {}", path.display())))?;
    let ours = UnixStream::connect(&path).map_err(Failure::while_doing(format!("connect to {}", path.display())))?;
    let _ = fs::remove_file(&path);
    let listener = OwnedFd::from(listener);
    let mut command = Command::new("qemu-storage-daemon");
    let file = |node: &str, path: &Path| format!("driver=file,node-name={node},filename={},aio={aio}", path.display());
    command
        .args(["--object", "iothread,id=io0"])
        .args(["--blockdev", &(file("base-file", base) + ",read-only=on")])
        .args(["--blockdev", "driver=raw,node-name=base,file=base-file,read-only=on"])
        .args(["--blockdev", &(file("overlay-file", &overlay) + ",discard=unmap,cache.no-flush=on")])
        .args([
            "--blockdev",
            "driver=qcow2,node-name=disk,file=overlay-file,backing=base,discard=unmap,cache.no-flush=on",
        ])
        .args([
            "--export",
            &format!(
                "type=vhost-user-blk,id=export,node-name=disk,addr.type=fd,addr.str={},writable=on,iothread=io0,num-queues=1",
                listener.as_raw_fd()
            ),
        ]);
    let child = spawn(command, &listener, "qemu-storage-daemon")?;
    Ok((child, ours, Some(overlay)))
}

/// Starts it with `inherited`, and nothing else of ours.
fn spawn(mut command: Command, inherited: &OwnedFd, name: &str) -> Result<Child, Failure> {
    let inheritable =
        |flag| fcntl(inherited, FcntlArg::F_SETFD(flag)).map_err(Failure::while_doing("let a descriptor be inherited"));
    inheritable(FdFlag::empty())?;
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    inheritable(FdFlag::FD_CLOEXEC)?;
    child.map_err(Failure::while_doing(format!("start {name}")))
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
