//! A vhost-user frontend that says anything, sound messages among it.

use arbitrary::Arbitrary;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{ControlMessage, MsgFlags, recv, sendmsg};
use std::fs::File;
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;

/// Bytes of the guest's memory.
const MEMORY: u64 = 0x1_0000;
/// The frontend's address of the guest's address 0.
const HERE: u64 = 0x7f00_0000_0000;

/// One message, or something else that a frontend does.
#[derive(Arbitrary, Clone, Debug)]
pub enum Act {
    /// A message that is as it should be.
    Polite(Polite),
    /// Its code, flags, body, claimed length, and descriptors.
    Message {
        code: u8,
        flags: Option<u32>,
        body: Vec<u8>,
        more: Option<i16>,
        files: Vec<Sent>,
    },
    /// Part of one, or none.
    Bytes(Vec<u8>),
    /// Everything that starts a queue.
    Start {
        queue: bool,
        event_idx: bool,
    },
    Kick(bool),
    /// Writes the guest's memory; most of it in the ring.
    Memory {
        at: u16,
        data: [u8; 4],
        low: bool,
    },
    /// A request in a queue's ring: in which, of what kind, where on the disk, and how long.
    Request {
        queue: bool,
        kind: u8,
        sector: u8,
        sectors: u8,
    },
}

#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Polite {
    GetFeatures,
    SetFeatures(u8),
    SetOwner,
    ResetOwner,
    ResetDevice,
    MemTable(bool),
    AddRegion(u8),
    RemoveRegion(u8),
    Num(bool, u8),
    Addr(bool, u16),
    Base(bool, u16),
    GetBase(bool),
    KickFd(bool, Sent),
    CallFd(bool, Sent),
    ErrFd(bool, Sent),
    Enable(bool, bool),
    GetProtocol,
    SetProtocol(u16),
    GetConfig(u8, u8),
    SetConfig(u8, u8),
    Channel(Sent),
    Slots,
    Queues,
}

/// What may come with a message.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Sent {
    Nothing,
    Memory,
    Eventfd,
    Socket,
    Null,
    Short,
}

/// The frontend's end.
pub struct Frontend {
    stream: UnixStream,
    memory: File,
    eventfds: [EventFd; 2],
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn quads(quads: &[u64]) -> Vec<u8> {
    quads.iter().flat_map(|quad| quad.to_le_bytes()).collect()
}

/// Where a queue is in the guest's memory.
fn ring(queue: bool) -> u64 {
    if queue { 0x2000 } else { 0 }
}

impl Frontend {
    /// A frontend, and the backend's end of its connection.
    pub fn new() -> (Self, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("there are descriptors");
        let eventfd = || EventFd::from_flags(EfdFlags::EFD_NONBLOCK).expect("there are descriptors");
        let frontend = Self {
            stream: ours,
            memory: crate::memfd(MEMORY),
            eventfds: [eventfd(), eventfd()],
        };
        (frontend, theirs)
    }

    /// Reads what was answered.
    pub fn listen(&self) {
        let mut bytes = [0; 4096];
        while matches!(
            recv(self.stream.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT),
            Ok(1..)
        ) {}
    }

    pub fn act(&self, act: &Act) {
        match act {
            Act::Polite(polite) => self.polite(*polite),
            Act::Message {
                code,
                flags,
                body,
                more,
                files,
            } => {
                let body = &body[..body.len().min(4096)];
                let length = (body.len() as u32).wrapping_add_signed(more.unwrap_or(0).into());
                let code = u32::from(*code % 48);
                let mut bytes = words(&[code, flags.unwrap_or(1), length]);
                bytes.extend(body);
                self.send(&bytes, &files[..files.len().min(9)]);
            }
            Act::Bytes(bytes) => self.send(&bytes[..bytes.len().min(4096)], &[]),
            Act::Start { queue, event_idx } => self.start(*queue, *event_idx),
            Act::Kick(queue) => {
                let _ = self.eventfds[usize::from(*queue)].write(1);
            }
            Act::Memory { at, data, low } => {
                let at = if *low { *at % 0x3000 } else { *at };
                self.put(u64::from(at).min(MEMORY - 4), data);
            }
            Act::Request {
                queue,
                kind,
                sector,
                sectors,
            } => self.request(*queue, *kind, *sector, *sectors),
        }
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        self.memory.write_all_at(bytes, at).expect("there is memory");
    }

    /// A request of three descriptors, available as the ring's next one.
    fn request(&self, queue: bool, kind: u8, sector: u8, sectors: u8) {
        let base = ring(queue);
        let header = 0x8000;
        self.put(header, &words(&[u32::from(kind % 16), 0, sector.into(), 0]));
        let bytes = u32::from(sectors % 16) * 512;
        let direction = if kind % 16 == 0 || kind % 16 == 8 { 2 } else { 0 };
        let chain = [
            (header, 16, 1_u16),
            (0x9000, bytes, 1 | direction),
            (header + 0x40, 1, 2),
        ];
        for (index, (address, bytes, flags)) in chain.into_iter().enumerate() {
            let mut raw = quads(&[address]);
            raw.extend(words(&[bytes, u32::from(flags) | (index as u32 + 1) << 16]));
            self.put(base + index as u64 * 16, &raw);
        }
        let mut index = [0; 2];
        self.memory
            .read_exact_at(&mut index, base + 0x402)
            .expect("there is memory");
        self.put(base + 0x402, &u16::from_le_bytes(index).wrapping_add(1).to_le_bytes());
    }

    fn start(&self, queue: bool, event_idx: bool) {
        self.polite(Polite::SetFeatures(1 | u8::from(event_idx) << 1));
        self.polite(Polite::MemTable(false));
        self.polite(Polite::Num(queue, 4));
        self.polite(Polite::Addr(queue, 0));
        self.polite(Polite::Base(queue, 0));
        self.polite(Polite::CallFd(queue, Sent::Eventfd));
        self.polite(Polite::KickFd(queue, Sent::Eventfd));
        self.polite(Polite::Enable(queue, true));
    }

    fn polite(&self, polite: Polite) {
        let region = |part: u8| {
            let part = u64::from(part % 5);
            quads(&[part * 0x4000, 0x4000, HERE + part * 0x4000, part * 0x4000])
        };
        let own = |sent| match sent {
            Sent::Nothing => 0x100_u64,
            Sent::Memory | Sent::Eventfd | Sent::Socket | Sent::Null | Sent::Short => 0,
        };
        let vring = |queue: bool, sent| (quads(&[u64::from(queue) | own(sent)]), vec![sent]);
        let state = |queue: bool, value: u32| (words(&[u32::from(queue), value]), vec![]);
        let (code, (body, files)) = match polite {
            Polite::GetFeatures => (1_u32, (vec![], vec![])),
            Polite::SetFeatures(which) => {
                // VERSION_1 and protocol features, perhaps event indices, or anything.
                let bits =
                    1 << 32 | u64::from(which & 1) << 30 | u64::from(which & 2) << 28 | u64::from(which >> 2) << 5;
                (2, (quads(&[bits]), vec![]))
            }
            Polite::SetOwner => (3, (vec![], vec![])),
            Polite::ResetOwner => (4, (vec![], vec![])),
            Polite::ResetDevice => (34, (vec![], vec![])),
            Polite::MemTable(two) => {
                let parts: &[u8] = if two { &[0, 1] } else { &[0, 1, 2, 3] };
                let mut body = words(&[parts.len() as u32, 0]);
                for part in parts {
                    body.extend(region(*part));
                }
                (5, (body, vec![Sent::Memory; parts.len()]))
            }
            Polite::AddRegion(part) => (37, ([quads(&[0]), region(part)].concat(), vec![Sent::Memory])),
            Polite::RemoveRegion(part) => (38, ([quads(&[0]), region(part)].concat(), vec![])),
            Polite::Num(queue, shift) => (8, state(queue, 1 << (shift % 10))),
            Polite::Addr(queue, skew) => {
                let base = HERE + ring(queue) + u64::from(skew);
                let body = [
                    words(&[u32::from(queue), 0]),
                    quads(&[base, base + 0x800, base + 0x400, 0]),
                ]
                .concat();
                (9, (body, vec![]))
            }
            Polite::Base(queue, base) => (10, state(queue, base.into())),
            Polite::GetBase(queue) => (11, state(queue, 0)),
            Polite::KickFd(queue, sent) => (12, vring(queue, sent)),
            Polite::CallFd(queue, sent) => (13, vring(queue, sent)),
            Polite::ErrFd(queue, sent) => (14, vring(queue, sent)),
            Polite::GetProtocol => (15, (vec![], vec![])),
            Polite::SetProtocol(bits) => (16, (quads(&[bits.into()]), vec![])),
            Polite::Queues => (17, (vec![], vec![])),
            Polite::Enable(queue, enable) => (18, state(queue, enable.into())),
            Polite::Channel(sent) => (21, (vec![], vec![sent])),
            Polite::GetConfig(offset, size) => {
                let mut body = words(&[offset.into(), size.into(), 0]);
                body.resize(12 + usize::from(size), 0);
                (24, (body, vec![]))
            }
            Polite::SetConfig(offset, size) => {
                let mut body = words(&[offset.into(), size.into(), 0]);
                body.resize(12 + usize::from(size), 7);
                (25, (body, vec![]))
            }
            Polite::Slots => (36, (vec![], vec![])),
        };
        let mut bytes = words(&[code, 1, body.len() as u32]);
        bytes.extend(body);
        self.send(&bytes, &files);
    }

    fn send(&self, bytes: &[u8], files: &[Sent]) {
        let made: Vec<OwnedFd> = files.iter().filter_map(|sent| self.make(*sent, bytes)).collect();
        let numbers: Vec<_> = made.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&numbers)];
        let rights = if numbers.is_empty() { &[][..] } else { &rights };
        // A backend that is gone hears nothing, and one that does not listen no more than fits.
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let _ = sendmsg::<()>(self.stream.as_raw_fd(), &[IoSlice::new(bytes)], rights, flags, None);
    }

    fn make(&self, sent: Sent, bytes: &[u8]) -> Option<OwnedFd> {
        let cloned = |file: &dyn Fn() -> std::io::Result<OwnedFd>| Some(file().expect("there are descriptors"));
        match sent {
            Sent::Nothing => None,
            Sent::Memory => cloned(&|| self.memory.as_fd().try_clone_to_owned()),
            // That of the queue that the message is about.
            Sent::Eventfd => {
                let queue = usize::from(bytes.get(12).is_some_and(|index| index & 1 != 0));
                cloned(&|| self.eventfds[queue].as_fd().try_clone_to_owned())
            }
            Sent::Socket => Some(UnixStream::pair().expect("there are descriptors").0.into()),
            Sent::Null => Some(File::open("/dev/null").expect("there is one").into()),
            Sent::Short => Some(crate::memfd(100).into()),
        }
    }
}
