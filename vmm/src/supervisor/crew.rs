//! The processes of a run: a helper for each disk that is ours to serve, and the VMM of the moment. How each is started and
//! connected; what happens to them is for [`super::run`].

use super::child::{Child, unblock};
use super::console::Console;
use super::control::Control;
use super::host::Engine;
use super::kit::{Kit, KitError, open_image};
use super::plan::{Backend, Job, Plan, Role};
use super::socket_identity::SocketIdentity;
use super::spawn::{SpawnError, spawn};
use crate::channel::ChannelError;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr, socket, socketpair};
use nix::unistd::pipe2;
use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why a process is not there.
#[derive(Debug, Error)]
pub(crate) enum CrewError {
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    #[error(transparent)]
    Kit(#[from] KitError),
    #[error("nobody serves disk {disk}: cannot connect to {}", path.display())]
    Connect {
        disk: String,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the helper of disk {disk} is not ready for the guest's next boot")]
    Attach {
        disk: String,
        #[source]
        source: ChannelError,
    },
    #[error("cannot open /dev/kvm")]
    Kvm(#[source] io::Error),
    #[error("cannot prepare what a process shall inherit")]
    Descriptor(#[source] io::Error),
}

impl CrewError {
    /// Whether a helper would do later what it does not do now.
    pub(crate) fn is_busy(&self) -> bool {
        matches!(self, Self::Attach { source, .. } if source.is_busy())
    }
}

impl From<Errno> for CrewError {
    fn from(errno: Errno) -> Self {
        Self::Descriptor(errno.into())
    }
}

/// A helper and the channel to it. Closing the channel lets it burn its disk and end.
#[derive(Debug)]
pub(crate) struct Helper {
    pub(crate) child: Child,
    pub(crate) control: Control,
    /// What it listens at besides, as it was when it was ready.
    pub(crate) socket: Option<SocketIdentity>,
    /// What was there before it started.
    pub(crate) before: Option<SocketIdentity>,
}

/// The processes.
#[derive(Debug, Default)]
pub(crate) struct Crew {
    /// For each disk, who serves it, if that is one of ours.
    pub(crate) helpers: Vec<Option<Helper>>,
    pub(crate) machine: Option<Child>,
}

/// The open descriptors of a job, by role.
type Handed = HashMap<Role, OwnedFd>;

impl Crew {
    /// Starts the helpers; the VMM's ends of the connections, in the order of the disks.
    ///
    /// # Errors
    /// [`CrewError`].
    pub(crate) fn start_helpers(&mut self, plan: &Plan) -> Result<Vec<OwnedFd>, CrewError> {
        let mut connections = Vec::new();
        for (index, disk) in plan.disks.iter().enumerate() {
            match &disk.backend {
                Backend::Socket(path) => {
                    connections.push(connect(&disk.name, path)?);
                    self.helpers.push(None);
                }
                Backend::Helper { image, job } => {
                    let before = disk.control.as_deref().and_then(SocketIdentity::at);
                    let (connection, helper) = start_helper(index, image, job, before)?;
                    connections.push(connection);
                    self.helpers.push(Some(helper));
                }
            }
        }
        Ok(connections)
    }

    /// Connects each disk's backend anew, for another VMM; a helper has still to accept that ([`Self::accepted`]).
    ///
    /// # Errors
    /// [`CrewError`].
    pub(crate) fn connect_again(&mut self, plan: &Plan) -> Result<Vec<OwnedFd>, CrewError> {
        let disks = plan.disks.iter().zip(&mut self.helpers);
        disks
            .map(|(disk, helper)| match (&disk.backend, helper) {
                (Backend::Helper { .. }, Some(helper)) => {
                    let (connection, frontend) = pair()?;
                    helper.control.offer(&frontend).map_err(|source| CrewError::Attach {
                        disk: disk.name.clone(),
                        source,
                    })?;
                    Ok(connection)
                }
                (Backend::Socket(path), _) => connect(&disk.name, path),
                (Backend::Helper { .. }, None) => Err(CrewError::Attach {
                    disk: disk.name.clone(),
                    source: ChannelError::Closed,
                }),
            })
            .collect()
    }

    /// Lets the helpers forget what the guest wrote; they have still to do so ([`Self::accepted`]).
    ///
    /// # Errors
    /// [`CrewError`].
    pub(crate) fn reset(&mut self, plan: &Plan) -> Result<(), CrewError> {
        for (disk, helper) in plan.disks.iter().zip(&mut self.helpers) {
            if let Some(helper) = helper.as_mut().filter(|_| disk.is_overlaid) {
                helper.control.reset().map_err(|source| CrewError::Attach {
                    disk: disk.name.clone(),
                    source,
                })?;
            }
        }
        Ok(())
    }

    /// Whether a helper has not yet said whether it did what it was asked to.
    pub(crate) fn is_asked(&self) -> bool {
        let mut helpers = self.helpers.iter().flatten();
        helpers.any(|helper| helper.control.is_open())
    }

    /// Whether the helpers did what they were asked to.
    ///
    /// # Errors
    /// One did not.
    pub(crate) fn accepted(&mut self, plan: &Plan) -> Result<(), CrewError> {
        for (disk, helper) in plan.disks.iter().zip(&mut self.helpers) {
            if let Some(helper) = helper {
                helper.control.accepted().map_err(|source| CrewError::Attach {
                    disk: disk.name.clone(),
                    source,
                })?;
            }
        }
        Ok(())
    }

    /// Wants to hear from every helper what happens, once each.
    pub(crate) fn subscribe(&mut self) {
        for helper in self.helpers.iter_mut().flatten() {
            // One that cannot be told is one that ended, which shows.
            let _ = helper.control.subscribe();
        }
    }

    /// Starts a VMM on these connections, and connects the console to it.
    ///
    /// # Errors
    /// [`CrewError`].
    pub(crate) fn start_machine(
        &mut self,
        plan: &Plan,
        kit: &mut Kit,
        connections: Vec<OwnedFd>,
        console: &mut Console,
    ) -> Result<(), CrewError> {
        let mut handed = Handed::new();
        if plan.engine == Engine::Kvm {
            let kvm = OpenOptions::new().read(true).write(true).open("/dev/kvm");
            handed.insert(Role::Kvm, kvm.map_err(CrewError::Kvm)?.into());
        }
        handed.insert(Role::Kernel, kit.kernel().map_err(CrewError::Descriptor)?);
        if let Some(initrd) = kit.initrd().map_err(CrewError::Descriptor)? {
            handed.insert(Role::Initrd, initrd);
        }
        handed.extend(numbered(connections, Role::Disk));
        handed.extend(numbered(kit.taps().map_err(CrewError::Descriptor)?, Role::Tap));

        let (typed_out, typed_in) = pipe2(OFlag::O_CLOEXEC)?;
        let (printed_out, printed_in) = pipe2(OFlag::O_CLOEXEC)?;
        unblock(&typed_in)?;
        unblock(&printed_out)?;
        handed.insert(Role::ConsoleIn, typed_out);
        handed.insert(Role::ConsoleOut, printed_in);
        self.machine = Some(start(&plan.machine, handed)?);
        console.connect(typed_in, printed_out);
        Ok(())
    }

    /// Every process, helpers first.
    pub(crate) fn processes(&self) -> impl Iterator<Item = &Child> {
        let helpers = self.helpers.iter().flatten().map(|helper| &helper.child);
        helpers.chain(&self.machine)
    }
}

/// Starts one; `before` is what was at the place of its control socket.
fn start_helper(
    index: usize,
    image: &Path,
    job: &Job,
    before: Option<SocketIdentity>,
) -> Result<(OwnedFd, Helper), CrewError> {
    let base = open_image(image)?;
    let (connection, frontend) = pair()?;
    let (control, order) = Control::pair()?;
    let handed = Handed::from([
        (Role::Frontend(index), frontend),
        (Role::Control(index), order),
        (Role::Base(index), base.into()),
    ]);
    let child = start(job, handed)?;
    let helper = Helper {
        child,
        control,
        socket: None,
        before,
    };
    Ok((connection, helper))
}

fn start(job: &Job, mut handed: Handed) -> Result<Child, CrewError> {
    let take = |role| {
        handed
            .remove(&role)
            .expect("what a plan lists is opened above, role by role")
    };
    Ok(spawn(job, take)?)
}

fn numbered(descriptors: Vec<OwnedFd>, role: fn(usize) -> Role) -> impl Iterator<Item = (Role, OwnedFd)> {
    descriptors
        .into_iter()
        .enumerate()
        .map(move |(index, descriptor)| (role(index), descriptor))
}

/// Two ends of a connection without a name.
fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)
}

fn connect(disk: &str, path: &Path) -> Result<OwnedFd, CrewError> {
    connect_at_once(path).map_err(|errno| CrewError::Connect {
        disk: disk.to_owned(),
        path: path.to_owned(),
        source: errno.into(),
    })
}

/// Connects, or fails if the backend has more connections waiting than it wants: who waited here would hear no signal.
fn connect_at_once(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let connection = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    socket::connect(connection.as_raw_fd(), &UnixAddr::new(path)?)?;
    // The VMM may wait for answers.
    fcntl(&connection, FcntlArg::F_SETFL(OFlag::empty()))?;
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{Backlog, bind, listen};
    use policy::logging::chain;

    #[test]
    fn a_backend_that_takes_no_more_connections_keeps_nobody_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.sock");
        let listener = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(listener.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        listen(&listener, Backlog::new(1).unwrap()).unwrap();

        let mut waiting = Vec::new();
        let refused = loop {
            match connect("vda", &path) {
                Ok(connection) => waiting.push(connection),
                Err(error) => break error,
            }
        };

        assert!(!waiting.is_empty());
        assert!(
            chain(&refused).contains("disk.sock: Resource temporarily unavailable"),
            "{refused}"
        );
    }
}
