//! Frames of servers (replies, reports, registrations) and of the controller.

use super::*;
use crate::estimate::{Counters, OUTSTANDING_MAX};
use crate::fleet::Admission;
use crate::health;
use crate::model::Registration;
use crate::wire::frame::unpack_addr;
use crate::wire::header::TRAILER_LEN;
use crate::wire::tag::Stamp;
use crate::wire::{Frame, Header, Kind, RequestOp, ServerOp, ServerState, Status};

impl Balancer {
    /// Takes what one server, or the controller, sent.
    pub(super) fn on_back(&mut self, now: Instant, received: &Received, bytes: &mut [u8], tx: &mut Tx) {
        let format = self.settings.format;
        let peer = received.peer;
        let mut last_client = None;
        for frame in frames(received, bytes, format) {
            let outcome =
                frame.and_then(|(at, bytes)| self.on_back_frame(now, peer, at, bytes, &mut last_client, tx));
            if let Err(reason) = outcome {
                self.stats.drops.add(reason, 1);
            }
        }
    }

    fn on_back_frame(
        &mut self,
        now: Instant,
        peer: SocketAddr,
        at: FrameRef,
        bytes: &mut [u8],
        last_client: &mut LastClient,
        tx: &mut Tx,
    ) -> Result<(), DropReason> {
        let stamp = match &self.opener {
            Some(opener) if bytes.len() == self.settings.format.size => Some(opener.open(bytes)?),
            _ => None,
        };
        let frame = Frame::check(bytes, &self.settings.format)?;
        match frame.kind() {
            Kind::ServerResponse => {
                let op = ServerOp::from_wire(frame.header.op).ok_or(DropReason::Kind)?;
                match op {
                    ServerOp::Reply => self.on_reply(now, peer, at, frame, stamp, last_client, tx),
                    ServerOp::Report => self.on_report(now, peer, at, bytes, stamp, tx),
                    ServerOp::Register => self.on_register(now, peer, at, bytes, stamp, tx),
                }
            }
            Kind::ControllerRequest if peer == self.settings.controller => self.on_answer(now, frame),
            Kind::ControllerRequest => Err(DropReason::WrongSource),
            Kind::ClientRequest | Kind::ClientResponse => Err(DropReason::Unexpected),
        }
    }

    /// A reply goes to its client if the balancer sent that request to that server, and only once.
    #[allow(clippy::too_many_arguments)] // one frame and its turn; a struct would only rename them
    fn on_reply(
        &mut self,
        now: Instant,
        peer: SocketAddr,
        at: FrameRef,
        frame: Frame<'_>,
        stamp: Option<Stamp>,
        last_client: &mut LastClient,
        tx: &mut Tx,
    ) -> Result<(), DropReason> {
        let slot = Slot::new(usize::from(frame.header.slot.get()));
        let server = self.fleet.get_mut(slot).filter(|s| s.addr == peer).ok_or(DropReason::WrongSource)?;
        if let Some(stamp) = stamp {
            server.replay.accept(stamp)?;
        }
        let same_registration = frame.header.server_epoch.get() == server.epoch;
        if self.cookies.cookie(frame.header) != frame.header.cookie.get() {
            return Err(DropReason::Cookie);
        }
        if Status::from_wire(frame.header.status).is_none() {
            return Err(DropReason::Kind);
        }
        let lane = &mut self.lanes[slot.index()];
        if !lane.window.accept(frame.header.dispatch_seq.get()) {
            return Err(DropReason::Duplicate);
        }
        let stats = &self.stats.servers[slot.index()];
        stats.answered.add(1);
        stats.latency.record(now.wrapping_micros().wrapping_sub(frame.header.dispatch_us.get()));
        if same_registration {
            self.take_counters(slot, frame.header);
            self.alive(now, slot);
        }
        self.deliver(at, frame, last_client, tx)
    }

    /// Sends a checked reply to its client, without the balancer's and the server's part of it.
    fn deliver(
        &mut self,
        at: FrameRef,
        frame: Frame<'_>,
        last_client: &mut LastClient,
        tx: &mut Tx,
    ) -> Result<(), DropReason> {
        let tagged = self.settings.format.tagged;
        let header = &mut *frame.header;
        let key = (header.client_ip, header.client_port.get(), header.listener);
        let destination = match last_client {
            Some((known, destination)) if *known == key => *destination,
            _ => {
                let to = unpack_addr(key.0, key.1);
                let found = tx.destination(FRONT, to, self.listeners.local_ip(key.2));
                let destination = found.ok_or(DropReason::TurnFull)?;
                *last_client = Some((key, destination));
                destination
            }
        };
        header.kind = Kind::ClientResponse as u8;
        header.op = 0;
        header.clear_internal();
        if tagged {
            frame.clear_tail(TRAILER_LEN);
        }
        if !tx.push(destination, at) {
            return Err(DropReason::TurnFull);
        }
        self.stats.answered.add(1);
        Ok(())
    }

    /// Counters, queue and state without a request. A server that is not known (any more) is asked to
    /// prove its address, so that a restarted balancer finds its pool.
    fn on_report(
        &mut self,
        now: Instant,
        peer: SocketAddr,
        at: FrameRef,
        bytes: &mut [u8],
        stamp: Option<Stamp>,
        tx: &mut Tx,
    ) -> Result<(), DropReason> {
        let header = header_of(bytes);
        let slot = Slot::new(usize::from(header.slot.get()));
        let known = self.fleet.get_mut(slot).filter(|s| {
            s.addr == peer
                && s.epoch == header.server_epoch.get()
                && self.epoch == header.balancer_epoch.get()
        });
        let Some(server) = known else { return self.challenge(now, peer, at, bytes, tx) };
        if let Some(stamp) = stamp {
            server.replay.accept(stamp)?;
        }
        let state = ServerState::from_wire(header.server_state).ok_or(DropReason::Kind)?;
        let id = server.id;
        self.take_counters(slot, header);
        self.alive(now, slot);
        match state {
            ServerState::Ready => Ok(()),
            ServerState::Draining => {
                self.apply(now, slot, health::Event::Drain);
                // What was sent before is under way in front of this answer: when the server has seen
                // as many requests as it says, nothing more will come.
                self.sync_in_place(now, slot, at, bytes, tx)
            }
            ServerState::Stopped => {
                self.remove(slot, "stopped");
                self.orders.server_left(id);
                Ok(())
            }
        }
    }

    /// A server wants to join. Its address is proved by the nonce that it echoes; nothing is stored before.
    fn on_register(
        &mut self,
        now: Instant,
        peer: SocketAddr,
        at: FrameRef,
        bytes: &mut [u8],
        stamp: Option<Stamp>,
        tx: &mut Tx,
    ) -> Result<(), DropReason> {
        let frame = Frame::check(bytes, &self.settings.format)?;
        let registration = Registration::from_bytes(frame.payload()).ok_or(DropReason::PayloadLength)?;
        let header = *frame.header;
        let instance = header.client_id.get();
        if header.cookie.get() == 0 {
            return self.challenge(now, peer, at, bytes, tx);
        }
        if !self.cookies.nonce_is_valid(now, peer, instance, header.cookie.get()) {
            self.stats.drops.add(DropReason::Nonce, 1);
            return self.challenge(now, peer, at, bytes, tx);
        }
        if peer.port() == 0 || self.settings.own.contains(&peer) {
            return Err(DropReason::WrongSource);
        }
        let (epoch, nonce) = (header.server_epoch.get(), header.sequence.get());
        let slot = match self.fleet.admit(now, peer, instance, epoch, nonce, &registration) {
            Admission::IdTaken => return Err(DropReason::IdTaken),
            Admission::Full => return Err(DropReason::SlotsFull),
            Admission::Known(slot) => slot,
            Admission::New { slot, replaced_foreign } => {
                self.tree.adjust(slot, -(replaced_foreign as i32));
                let lane = &mut self.lanes[slot.index()];
                lane.estimate.rebase(lane.window.sent());
                lane.last_sent = now;
                self.touch(slot);
                self.set_leaf(slot);
                let stats = &self.stats.servers[slot.index()];
                stats.id_plus_one.set(u64::from(registration.server_id) + 1);
                stats.state.set(State::Joining as u64);
                self.tell(Event::Joined { id: registration.server_id, addr: peer });
                self.alive(now, slot); // it has echoed a nonce: the first proof of life
                slot
            }
        };
        if let (Some(stamp), Some(server)) = (stamp, self.fleet.get_mut(slot)) {
            server.replay.adopt(stamp);
            server.replay.accept(stamp)?;
        }
        self.sync_in_place(now, slot, at, bytes, tx)
    }

    /// Turns the frame into a challenge: "echo this nonce, and I know that you are there".
    fn challenge(
        &mut self,
        now: Instant,
        peer: SocketAddr,
        at: FrameRef,
        bytes: &mut [u8],
        tx: &mut Tx,
    ) -> Result<(), DropReason> {
        let asked = *header_of(bytes);
        let mut header = Header::new(Kind::ControllerRequest, self.settings.format.size);
        header.op = RequestOp::Challenge as u8;
        header.client_id.set(self.instance);
        header.sequence.set(asked.sequence.get());
        header.worker = self.worker;
        header.balancer_epoch.set(self.epoch);
        header.server_epoch.set(asked.server_epoch.get());
        header.cookie.set(self.cookies.nonce(now, peer, asked.client_id.get()));
        Frame::write(bytes, &header, &[]);
        self.seal(bytes);
        let pushed = tx.destination(BACK, peer, None).is_some_and(|d| tx.push(d, at));
        if pushed { Ok(()) } else { Err(DropReason::TurnFull) }
    }

    /// Turns the frame into a SYNC for the server that sent it.
    fn sync_in_place(
        &mut self,
        now: Instant,
        slot: Slot,
        at: FrameRef,
        bytes: &mut [u8],
        tx: &mut Tx,
    ) -> Result<(), DropReason> {
        let header = self.sync_header(now, slot);
        Frame::write(bytes, &header, &[]);
        self.seal(bytes);
        let to = self.fleet.get(slot).expect("the caller found it").addr;
        let pushed = self.server_destination(slot, to, tx).is_some_and(|d| tx.push(d, at));
        if pushed { Ok(()) } else { Err(DropReason::TurnFull) }
    }

    /// Takes the counters of a frame whose registration was checked.
    fn take_counters(&mut self, slot: Slot, header: &Header) {
        let counters = Counters {
            report: header.report.get(),
            seq: header.seq.get(),
            received: header.received.get(),
            done: header.done.get(),
        };
        let lane = &mut self.lanes[slot.index()];
        if !lane.estimate.apply(counters) {
            self.stats.drops.add(DropReason::Stale, 1);
            return;
        }
        self.touch(slot);
        let foreign = header.foreign.get().min(OUTSTANDING_MAX);
        let server = self.fleet.get_mut(slot).expect("the caller found it");
        let change = i64::from(foreign) - i64::from(server.foreign);
        server.foreign = foreign;
        if change != 0 {
            self.tree.adjust(slot, change as i32);
        }
    }

    fn alive(&mut self, now: Instant, slot: Slot) {
        self.apply(now, slot, health::Event::Alive);
    }
}

/// The client that the last reply went to, as a destination of this turn.
type LastClient = Option<(([u8; 16], u16, u8), DestinationId)>;

/// The header of a frame that was checked before.
fn header_of(bytes: &[u8]) -> &Header {
    zerocopy::FromBytes::ref_from_prefix(bytes).expect("checked before").0
}
