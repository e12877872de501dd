//! What operators say on the control channel, with any descriptors, while frontends come and go: what comes back makes sense, and
//! once all have left the helper comes to rest, can be reset, and has open what it had at first.
#![no_main]

use arbitrary::Arbitrary;
use blk_helper::fuzzing::{DiskSpec, Operators};
use fuzz::guest::base;
use fuzz::vhost::{self, Frontend};
use fuzz::{descriptors, memfd};
use libfuzzer_sys::fuzz_target;
use nix::sys::socket::{ControlMessage, MsgFlags, recv, sendmsg};
use protocol::control::{
    AtLimit, Command, Heard, LimitsChange, MAX_BYTES, Rate, Request, ResizeRequest, SaveFormat, SaveRequest,
};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd};

/// Clients at a time.
const CLIENTS: usize = 3;

#[derive(Arbitrary, Debug)]
enum Act {
    Say(u8, Words, Vec<Sent>),
    Packet(u8, Vec<u8>, Vec<Sent>),
    /// A sound request with some bytes changed.
    Garble(u8, Words, Vec<(u16, u8)>),
    Leave(u8),
    Frontend(vhost::Act),
    FrontendLeaves,
    Listen(u8),
}

#[derive(Arbitrary, Debug, Clone)]
enum Words {
    Attach,
    Status,
    Stats,
    Events,
    Save(bool, Option<String>),
    CancelSave,
    Reset,
    Limits(
        Option<u64>,
        Option<(u64, u64)>,
        Option<(u64, u64)>,
        Option<u64>,
        Option<bool>,
    ),
    Resize(u16, u8),
    Stop,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Sent {
    Frontend,
    Empty,
    Full,
    Null,
}

impl Words {
    fn command(self) -> Command {
        let rate = |(per_second, burst)| Rate { per_second, burst };
        match self {
            Self::Attach => Command::Attach,
            Self::Status => Command::Status,
            Self::Stats => Command::Stats,
            Self::Events => Command::Events,
            Self::Save(delta, backing) => Command::Save(SaveRequest {
                format: if delta { SaveFormat::Qcow2Delta } else { SaveFormat::Raw },
                backing,
            }),
            Self::CancelSave => Command::CancelSave,
            Self::Reset => Command::Reset,
            Self::Limits(overlay_bytes, iops, bandwidth, keep_free_bytes, hold) => Command::SetLimits(LimitsChange {
                overlay_bytes,
                iops: iops.map(rate),
                bandwidth: bandwidth.map(rate),
                keep_free_bytes,
                at_limit: hold.map(|hold| if hold { AtLimit::Hold } else { AtLimit::Error }),
            }),
            // Not far: what was made larger stays so in this process.
            Self::Resize(sectors, odd) => Command::Resize(ResizeRequest {
                disk_bytes: u64::from(sectors) * 512 + u64::from(odd.saturating_sub(250)),
            }),
            Self::Stop => Command::Stop,
        }
    }
}

/// Everybody who is there.
struct Scene {
    clients: Vec<OwnedFd>,
    frontend: Option<Frontend>,
}

impl Scene {
    fn make(&mut self, sent: Sent) -> OwnedFd {
        match sent {
            Sent::Frontend => {
                let (frontend, theirs) = Frontend::new();
                self.frontend = Some(frontend);
                theirs.into()
            }
            Sent::Empty => memfd(0).into(),
            Sent::Full => memfd(9).into(),
            Sent::Null => File::open("/dev/null").expect("there is one").into(),
        }
    }

    fn say(&mut self, client: u8, packet: &[u8], sent: &[Sent]) {
        let made: Vec<OwnedFd> = sent.iter().take(4).map(|sent| self.make(*sent)).collect();
        let numbers: Vec<_> = made.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&numbers)];
        let rights = if numbers.is_empty() { &[][..] } else { &rights };
        let client = &self.clients[usize::from(client) % CLIENTS];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let _ = sendmsg::<()>(client.as_raw_fd(), &[IoSlice::new(packet)], rights, flags, None);
    }

    /// Whatever came is a reply or a notice.
    fn listen(&self, client: u8) {
        let client = &self.clients[usize::from(client) % CLIENTS];
        let mut packet = vec![0; MAX_BYTES + 1];
        while let Ok(bytes @ 1..) = recv(client.as_raw_fd(), &mut packet, MsgFlags::MSG_DONTWAIT) {
            Heard::decode(&packet[..bytes]).expect("a packet that makes sense");
        }
    }

    fn act(&mut self, helper: &Operators, act: Act) {
        match act {
            Act::Say(client, words, mut sent) => {
                let command = words.command();
                // Mostly as many as it takes.
                if sent.len() != 3 {
                    sent.resize(command.descriptors(), Sent::Frontend);
                }
                self.say(client, &Request::new(7, command).encode(), &sent);
            }
            Act::Packet(client, packet, sent) => self.say(client, &packet, &sent),
            Act::Garble(client, words, changes) => {
                let mut packet = Request::new(7, words.command()).encode();
                for (at, byte) in changes.iter().take(8) {
                    let at = usize::from(*at) % packet.len();
                    packet[at] = *byte;
                }
                self.say(client, &packet, &[]);
            }
            Act::Leave(client) => self.clients[usize::from(client) % CLIENTS] = helper.connect(),
            Act::Frontend(act) => {
                if let Some(frontend) = &self.frontend {
                    frontend.act(&act);
                    frontend.listen();
                }
            }
            Act::FrontendLeaves => self.frontend = None,
            Act::Listen(client) => self.listen(client),
        }
    }
}

thread_local! {
    static HELPER: RefCell<Option<(Operators, BTreeMap<String, String>)>> = const { RefCell::new(None) };
}

/// A helper whose threads go on to the next input, and how many descriptors it has open while nobody is there.
fn start() -> (Operators, BTreeMap<String, String>) {
    let spec = DiskSpec {
        base: &base(),
        read_only: false,
        encrypted: true,
        overlay_bytes: u64::MAX,
    };
    let mut helper = Operators::new(&spec);
    helper.settle();
    (helper, descriptors())
}

fuzz_target!(|acts: Vec<Act>| {
    HELPER.with_borrow_mut(|place| {
        let (helper, open) = place.get_or_insert_with(start);
        let mut scene = Scene {
            clients: (0..CLIENTS).map(|_| helper.connect()).collect(),
            frontend: None,
        };
        for act in acts.into_iter().take(48) {
            scene.act(helper, act);
            // The helper would end where this is an error, and says why.
            let _ = helper.turn();
        }
        for client in 0..CLIENTS {
            scene.listen(client as u8);
        }
        drop(scene);
        helper.settle();
        assert_eq!(descriptors(), *open, "something is still open");
    });
});
