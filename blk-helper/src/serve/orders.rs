//! What is done about orders: one match from command to answer, and what happens tells whoever asked for it.
//!
//! Nothing here waits, and an order that is refused has changed nothing.

use super::{End, Server};
use crate::clients::ClientId;
use crate::control::Refusal;
use crate::decide::DecisionRefusal;
use crate::door::is_unix;
use crate::gate;
use log::warn;
use nix::errno::Errno;
use protocol::control::{Answer, Command, Event};
use rustix::net::SocketType;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

/// Orders handled before the frontend gets a turn again.
const ORDERS_A_TURN: usize = 16;

impl Server {
    /// Does what whoever may give orders asks.
    pub(super) fn obey(&mut self) -> Result<Option<End>, Errno> {
        if self.clients.operator_left() {
            return Ok(Some(End::OperatorGone));
        }
        while let Some(who) = self.clients.part(&self.service.control) {
            if self.saves_for == Some(who) {
                // Nobody is there any more to whom its output means something.
                let _ = self.service.cancel_save();
            }
        }
        let saves = self.saves_for.filter(|_| self.service.is_saving());
        self.clients
            .answer_knocks(&self.service.control, &self.service.admission, saves)?;
        for _ in 0..ORDERS_A_TURN {
            let Some((who, packet)) = self.clients.hear()? else {
                break;
            };
            if let Some(end) = self.part_if_gone() {
                return Ok(Some(end));
            }
            let reply = packet.answer(|command, descriptors| self.act(who, command, descriptors));
            self.clients.reply(who, &reply);
            if self.stopping {
                return Ok(Some(End::Stopped));
            }
        }
        Ok(None)
    }

    fn act(&mut self, who: ClientId, command: Command, descriptors: Vec<OwnedFd>) -> Result<Answer, Refusal> {
        match command {
            Command::Attach => self.attach(descriptors),
            Command::Status => {
                let status = self.service.status(self.connection.is_some(), &self.report);
                Ok(Answer::Status(Box::new(status)))
            }
            Command::Events => {
                self.clients.subscribe(who);
                Ok(Answer::Subscribed)
            }
            Command::Stop => {
                self.stopping = true;
                Ok(Answer::Stopping)
            }
            Command::Stats => Ok(Answer::Stats(Box::new(self.service.stats()))),
            Command::SetLimits(change) => {
                let limits = self.service.change_limits(&change).map_err(Refusal::Limits)?;
                Ok(Answer::Limited(limits))
            }
            Command::Save(request) => {
                let answer = self.service.save(request, descriptors)?;
                self.saves_for = Some(who);
                Ok(answer)
            }
            Command::CancelSave if self.saves_for != Some(who) => Err(DecisionRefusal::NoSave.into()),
            Command::CancelSave => Ok(self.service.cancel_save()?),
            Command::Reset => Ok(self.service.reset()?),
            Command::Resize(request) => {
                let answer = self.service.resize(request.disk_bytes)?;
                if let Some(connection) = &self.connection {
                    connection.tell_of_resize();
                }
                Ok(answer)
            }
        }
    }

    /// Lets a frontend in that was handed over.
    fn attach(&mut self, descriptors: Vec<OwnedFd>) -> Result<Answer, Refusal> {
        let socket = descriptors.into_iter().next().ok_or(Refusal::Kind)?;
        if !is_unix(&socket, SocketType::STREAM, false) {
            return Err(Refusal::Kind);
        }
        let stream = UnixStream::from(socket);
        if gate::is_hung_up(&stream) {
            return Err(Refusal::HungUp);
        }
        if self.connection.is_some() {
            return Err(Refusal::Busy);
        }
        self.admit(stream).map_err(Refusal::Admit)?;
        Ok(Answer::Attached)
    }

    /// Tells what happened to all who asked for it.
    pub(super) fn publish(&mut self) {
        let events = &self.service.events;
        while let Some(event) = events.take() {
            self.clients.publish(&event, || events.count_dropped());
        }
    }

    /// Looks whether somebody changed the base, if it is time for that.
    pub(super) fn look_at_base(&mut self) {
        if self.base_changed() {
            warn!(
                "somebody changed the base: what the guest reads may be neither old nor new; end this run, and give it an \
                 image that stays as it is"
            );
            self.service.events.emit(Event::BaseChanged);
        }
    }
}
