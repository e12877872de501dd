//! Somebody who listens where a helper's control socket should be and answers as a test wants: a helper that fails, one that never
//! finishes, one that its guest has taken over.

use std::fs::{self, File};
use std::io::{IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, bind, listen, send, socket};
use protocol::control::{
    Answer, AtLimit, BaseStatus, Command, Confinement, Limits, MAX_BYTES, Rate, Reply, Request, SaveState, SaveStatus,
    Status,
};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, accept_with, recvmsg};

/// How it behaves.
#[derive(Clone, Debug)]
pub enum Manner {
    /// A save writes this, and then fails for this reason.
    Fails(Vec<u8>, &'static str),
    /// A save writes this and goes on for ever.
    Forever(Vec<u8>),
    /// Every reply is this packet.
    Says(Vec<u8>),
}

/// The pretender; gone when it is dropped.
#[derive(Debug)]
pub struct Pretender {
    over: Arc<AtomicBool>,
    saves: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Pretender {
    /// Listens at `path`, as a helper that serves `base`.
    ///
    /// # Panics
    ///
    /// If it cannot listen there, or there is no such base.
    #[must_use]
    pub fn at(path: &Path, base: &Path, manner: Manner) -> Self {
        let listener = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)
            .expect("sockets are to be had");
        let address = UnixAddr::new(path).expect("the path of a test is short");
        bind(listener.as_raw_fd(), &address).expect("the place can be written");
        listen(&listener, Backlog::new(8).expect("8 is few")).expect("it is bound");
        let info = fs::metadata(base).expect("the base is there");
        let base = BaseStatus {
            device: info.dev(),
            inode: info.ino(),
            bytes: info.len(),
        };
        let over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&over);
        let saves = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&saves);
        let thread = thread::spawn(move || {
            while await_input(&listener, &told) {
                let client = accept_with(&listener, SocketFlags::CLOEXEC).expect("a client is there");
                let conversation = Conversation {
                    client,
                    base,
                    manner: manner.clone(),
                    saves: Arc::clone(&counted),
                    output: None,
                    state: None,
                };
                conversation.hold(&told);
            }
        });
        Self {
            over,
            saves,
            thread: Some(thread),
        }
    }

    /// How many saves were begun: what they write by then is written.
    #[must_use]
    pub fn saves(&self) -> usize {
        self.saves.load(Ordering::SeqCst)
    }
}

impl Drop for Pretender {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let outcome = self.thread.take().map(JoinHandle::join);
        assert!(
            thread::panicking() || outcome.is_none_or(|outcome| outcome.is_ok()),
            "the pretender panicked"
        );
    }
}

/// Whether there is something to read, before it is over.
fn await_input(from: &OwnedFd, over: &AtomicBool) -> bool {
    while !over.load(Ordering::Relaxed) {
        let mut event = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
        if poll(&mut event, PollTimeout::from(20u8)) == Ok(1) {
            return true;
        }
    }
    false
}

/// What is said to one client.
#[derive(Debug)]
struct Conversation {
    client: OwnedFd,
    base: BaseStatus,
    manner: Manner,
    saves: Arc<AtomicUsize>,
    output: Option<File>,
    state: Option<SaveState>,
}

impl Conversation {
    fn hold(mut self, over: &AtomicBool) {
        while await_input(&self.client, over) {
            let Some((request, descriptors)) = self.hear() else {
                break;
            };
            let packet = match &self.manner {
                Manner::Says(packet) => packet.clone(),
                Manner::Fails(..) | Manner::Forever(_) => {
                    let answer = self.answer(request.command, descriptors);
                    Reply::ok(request.id, answer).encode()
                }
            };
            // A client that is gone is what some tests are about.
            let _ = send(self.client.as_raw_fd(), &packet, MsgFlags::MSG_NOSIGNAL);
        }
        // As a helper does when its operator leaves in the middle.
        if let Some(output) = self.output {
            let _ = output.set_len(0);
        }
    }

    fn hear(&self) -> Option<(Request, Vec<OwnedFd>)> {
        let mut bytes = [0; MAX_BYTES];
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut came = RecvAncillaryBuffer::new(&mut room);
        let parts = &mut [IoSliceMut::new(&mut bytes)];
        let packet = recvmsg(&self.client, parts, &mut came, RecvFlags::CMSG_CLOEXEC).ok()?;
        let mut descriptors = Vec::new();
        for message in came.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        let length = packet.bytes;
        Some((Request::decode(&bytes[..length]).ok()?, descriptors))
    }

    fn answer(&mut self, command: Command, descriptors: Vec<OwnedFd>) -> Answer {
        match command {
            Command::Status => Answer::Status(Box::new(self.status())),
            Command::Save(_) => {
                self.output = descriptors.into_iter().next().map(File::from);
                let (bytes, state) = match &self.manner {
                    Manner::Fails(bytes, why) => (&bytes[..], SaveState::Failed((*why).to_owned())),
                    Manner::Forever(bytes) | Manner::Says(bytes) => (&bytes[..], SaveState::Running),
                };
                let mut output = self.output.as_ref().expect("an output comes with a save");
                output.write_all(bytes).expect("an output can be written");
                self.state = Some(state);
                self.saves.fetch_add(1, Ordering::SeqCst);
                Answer::Saving { number: 1 }
            }
            Command::CancelSave => {
                self.state = Some(SaveState::Cancelled);
                Answer::Cancelled
            }
            Command::Events => Answer::Subscribed,
            Command::Attach
            | Command::Stats
            | Command::Reset
            | Command::SetLimits(_)
            | Command::Resize(_)
            | Command::Stop => Answer::Stopping,
        }
    }

    fn status(&self) -> Status {
        let save = self.state.clone().map(|state| SaveStatus {
            number: 1,
            state,
            done_bytes: self.base.bytes / 2,
            total_bytes: self.base.bytes,
            pause_us: 1,
        });
        Status {
            disk_bytes: self.base.bytes,
            connected: false,
            base: self.base,
            overlay: None,
            limits: Limits {
                overlay_bytes: 0,
                iops: Rate::UNLIMITED,
                bandwidth: Rate::UNLIMITED,
                keep_free_bytes: 0,
                at_limit: AtLimit::Error,
            },
            save,
            previous_save: None,
            confinement: Confinement::default(),
        }
    }
}
