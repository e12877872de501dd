//! Who gives orders: the operator who started the process (`--control-fd`), and up to eight clients of a listening socket
//! (`--control-path`).
//!
//! Each is heard in turn, one packet at a time, and never waited for. The operator is there to the end, and his leaving is the end;
//! clients come and go. One that has said nothing for a while makes room for another, so that silent ones keep nobody
//! out, unless it waits for events and takes them, or for its save.
//!
//! What they say is [`crate::control`]'s affair, what is done about it that of `serve/orders.rs`.

use crate::control::{Channel, Packet};
use crate::door::Admission;
use log::{debug, info};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use policy::logging::chain;
use protocol::control::{Event, Notice, Reply};
use rustix::net::{SocketFlags, accept_with};
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

/// Most clients of the listening socket at a time.
const MOST: usize = 8;

/// Knocks answered in a turn.
const KNOCKS_A_TURN: usize = 4;

/// After how long without a word a client makes room for another. A program that shows figures asks each second; a guess.
const IDLE: Duration = Duration::from_secs(10);

/// The first number of a client: those below are for other events of the control thread.
pub(crate) const FIRST: u64 = 16;

/// A client. No two ever have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClientId(u64);

/// The socket that `--control-path` named. Open to the end, as the filter demands.
#[derive(Debug)]
pub(crate) struct ControlDoor(ManuallyDrop<OwnedFd>);

impl ControlDoor {
    /// Takes a listening socket of packets over.
    pub(crate) fn new(listener: OwnedFd) -> Self {
        Self(ManuallyDrop::new(listener))
    }

    /// The descriptor's number.
    pub(crate) fn number(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[derive(Debug)]
struct Client {
    id: ClientId,
    channel: Channel,
    /// There may be something to hear.
    ready: bool,
    /// It closed its end.
    gone: bool,
    heard: Instant,
    subscription: Option<Subscription>,
}

/// Events that a client did not get: the last one, and ever.
#[derive(Clone, Copy, Debug, Default)]
struct Subscription {
    behind: bool,
    missed: u64,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Clients {
    /// Never dropped: see [`Channel`].
    operator: Option<ManuallyDrop<Client>>,
    door: Option<ControlDoor>,
    /// Those that came through the door.
    visitors: Vec<Client>,
    next: u64,
    /// Whose turn it is.
    turn: usize,
}

impl Clients {
    /// The operator, if there is one, and the door for others, if there is one; `epoll` tells of both.
    ///
    /// # Errors
    /// When the kernel cannot wait for them.
    pub(crate) fn new(
        operator: Option<Channel>,
        door: Option<ControlDoor>,
        epoll: &Epoll,
        knock: u64,
    ) -> Result<Self, Errno> {
        if let Some(door) = &door {
            epoll.add(&*door.0, EpollEvent::new(EpollFlags::EPOLLIN, knock))?;
        }
        let operator = operator.map(|channel| ManuallyDrop::new(Client::new(FIRST, channel)));
        if let Some(operator) = &operator {
            operator.watch(epoll)?;
        }
        Ok(Self {
            operator,
            door,
            visitors: Vec::with_capacity(MOST),
            next: FIRST.saturating_add(1),
            turn: 0,
        })
    }

    /// Whether the operator has left.
    pub(crate) fn operator_left(&self) -> bool {
        self.operator.as_ref().is_some_and(|operator| operator.gone)
    }

    /// Something happened to the client of this number.
    pub(crate) fn note(&mut self, number: u64, events: EpollFlags) {
        if let Some(client) = self.each().find(|client| client.id.0 == number) {
            client.ready = true;
            client.gone |= events.intersects(EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR);
        }
    }

    /// Lets the next clients in, or turns them away. The client whose save is running, if there is one, keeps its place.
    ///
    /// # Errors
    /// When the listening socket fails.
    pub(crate) fn answer_knocks(
        &mut self,
        epoll: &Epoll,
        admission: &Admission,
        saves: Option<ClientId>,
    ) -> Result<(), Errno> {
        for _ in 0..KNOCKS_A_TURN {
            let Some(door) = &self.door else { break };
            let socket = match accept_with(&*door.0, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(socket) => socket,
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::CONNABORTED | rustix::io::Errno::INTR) => break,
                Err(errno) => return crate::door::bear(Errno::from_raw(errno.raw_os_error())),
            };
            let channel = Channel::accepted(socket);
            if let Err(refused) = admission.check(&channel) {
                info!("a client of the control channel was turned away: {}", chain(&refused));
            } else if !self.make_room(epoll, saves) {
                channel.send(&Reply::error(None, "busy: there are eight clients already").encode());
            } else {
                let client = Client::new(self.next, channel);
                self.next = self.next.saturating_add(1);
                // As good as a client that leaves at once.
                if client.watch(epoll).is_ok() {
                    debug!("a client of the control channel connected");
                    self.visitors.push(client);
                }
            }
        }
        Ok(())
    }

    /// Whether there is a place, perhaps that of one who has long been silent.
    fn make_room(&mut self, epoll: &Epoll, saves: Option<ClientId>) -> bool {
        if self.visitors.len() >= MOST {
            let now = Instant::now();
            let is_idle = |client: &Client| client.is_idle(now) && saves != Some(client.id);
            if let Some(index) = self.visitors.iter().position(is_idle) {
                self.remove(index, epoll);
            }
        }
        self.visitors.len() < MOST
    }

    fn remove(&mut self, index: usize, epoll: &Epoll) -> ClientId {
        let client = self.visitors.remove(index);
        debug!("a client of the control channel left");
        // It was added when it came.
        let _ = epoll.delete(&client.channel);
        client.id
    }

    /// A client that closed its end, and is forgotten now.
    pub(crate) fn part(&mut self, epoll: &Epoll) -> Option<ClientId> {
        let index = self.visitors.iter().position(|client| client.gone)?;
        Some(self.remove(index, epoll))
    }

    /// The next packet of somebody whose turn it is.
    ///
    /// # Errors
    /// When the operator's channel fails.
    pub(crate) fn hear(&mut self) -> Result<Option<(ClientId, Packet)>, Errno> {
        let count = self.each().count();
        for _ in 0..count {
            self.turn = self.turn.wrapping_add(1);
            let place = self.turn.checked_rem(count).unwrap_or(0);
            let lasting = self.operator.is_some() && place == 0;
            let Some(client) = self.each().nth(place).filter(|client| client.ready && !client.gone) else {
                continue;
            };
            match client.channel.hear() {
                Ok(Some(packet)) => {
                    client.heard = Instant::now();
                    return Ok(Some((client.id, packet)));
                }
                Ok(None) => client.ready = false,
                Err(errno) if lasting => return Err(errno),
                Err(_) => client.gone = true,
            }
        }
        Ok(None)
    }

    /// Sends a reply, if there is room for it.
    pub(crate) fn reply(&mut self, to: ClientId, reply: &Reply) {
        if let Some(client) = self.each().find(|client| client.id == to) {
            client.channel.send(&reply.encode());
        }
    }

    /// From now on this one gets events.
    pub(crate) fn subscribe(&mut self, id: ClientId) {
        if let Some(client) = self.each().find(|client| client.id == id) {
            client.subscription.get_or_insert_default();
        }
    }

    /// Tells all who asked for it; calls `dropped` for each who had no room.
    pub(crate) fn publish(&mut self, event: &Event, mut dropped: impl FnMut()) {
        for client in self.each() {
            let Some(subscription) = &mut client.subscription else {
                continue;
            };
            let notice = Notice {
                event: event.clone(),
                missed: subscription.missed,
            };
            subscription.behind = !client.channel.send(&notice.encode());
            if subscription.behind {
                subscription.missed = subscription.missed.saturating_add(1);
                dropped();
            }
        }
    }

    /// The operator first, if there is one.
    fn each(&mut self) -> impl Iterator<Item = &mut Client> {
        let operator = self.operator.iter_mut().map(|operator| &mut **operator);
        operator.chain(&mut self.visitors)
    }
}

impl Client {
    fn new(number: u64, channel: Channel) -> Self {
        Self {
            id: ClientId(number),
            channel,
            ready: false,
            gone: false,
            heard: Instant::now(),
            subscription: None,
        }
    }

    fn watch(&self, epoll: &Epoll) -> Result<(), Errno> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP, self.id.0);
        epoll.add(&self.channel, event)
    }

    /// Whether it has said nothing for a while, and does not listen either.
    fn is_idle(&self, now: Instant) -> bool {
        let listens = self.subscription.is_some_and(|subscription| !subscription.behind);
        !listens && now.saturating_duration_since(self.heard) >= IDLE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::epoll::EpollCreateFlags;
    use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
    use protocol::control::{Command, Request};

    fn pair() -> (Channel, OwnedFd) {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
        (Channel::accepted(ours), theirs)
    }

    #[test]
    fn who_says_nothing_for_long_makes_room_and_who_listens_does_not() {
        let (channel, _theirs) = pair();
        let mut client = Client::new(FIRST, channel);
        let later = client.heard + IDLE;
        assert!(!client.is_idle(client.heard));
        assert!(client.is_idle(later));

        client.subscription = Some(Subscription::default());
        assert!(!client.is_idle(later));

        client.subscription = Some(Subscription {
            behind: true,
            missed: 1,
        });
        assert!(client.is_idle(later));
    }

    #[test]
    fn who_waits_for_its_save_keeps_its_place() {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        let mut clients = Clients::new(None, None, &epoll, 0).unwrap();
        let numbers = FIRST..FIRST + u64::try_from(MOST).unwrap();
        for number in numbers.clone() {
            let (channel, _theirs) = pair();
            let mut client = Client::new(number, channel);
            client.heard = client.heard.checked_sub(IDLE).unwrap();
            clients.visitors.push(client);
        }
        let saves = Some(ClientId(FIRST));

        assert!(clients.make_room(&epoll, saves));
        let left: Vec<_> = clients.visitors.iter().map(|client| client.id.0).collect();
        let expected: Vec<_> = numbers.filter(|number| *number != FIRST + 1).collect();
        assert_eq!(left, expected);
    }

    #[test]
    fn each_is_heard_in_turn_however_much_one_says() {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        let (operator, operators) = pair();
        let mut clients = Clients::new(Some(operator), None, &epoll, 0).unwrap();
        let mut ends = vec![operators];
        for number in FIRST + 1..FIRST + 4 {
            let (channel, theirs) = pair();
            clients.visitors.push(Client::new(number, channel));
            ends.push(theirs);
        }
        let request = Request::new(1, Command::Status).encode();
        for _ in 0..10 {
            send(ends[1].as_raw_fd(), &request, MsgFlags::empty()).unwrap();
        }
        for end in &ends {
            send(end.as_raw_fd(), &request, MsgFlags::empty()).unwrap();
        }
        for number in FIRST..FIRST + 4 {
            clients.note(number, EpollFlags::EPOLLIN);
        }

        let mut heard: Vec<_> = (0..4).map(|_| clients.hear().unwrap().unwrap().0.0).collect();

        heard.sort_unstable();
        assert_eq!(heard, [FIRST, FIRST + 1, FIRST + 2, FIRST + 3]);
        assert_eq!(std::iter::from_fn(|| clients.hear().unwrap()).count(), 10);
    }

    #[test]
    fn one_that_left_is_not_heard_any_more_and_the_operator_leaves_for_good() {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        let (operator, _operators) = pair();
        let mut clients = Clients::new(Some(operator), None, &epoll, 0).unwrap();
        let (channel, theirs) = pair();
        clients.visitors.push(Client::new(FIRST + 1, channel));

        clients.note(FIRST + 1, EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP);
        assert!(clients.hear().unwrap().is_none());
        assert_eq!(clients.part(&epoll), Some(ClientId(FIRST + 1)));
        assert_eq!(clients.part(&epoll), None);
        assert_eq!(recv(theirs.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT), Ok(0));
        assert!(!clients.operator_left());

        clients.note(FIRST, EpollFlags::EPOLLHUP);
        assert!(clients.operator_left());
    }
}
