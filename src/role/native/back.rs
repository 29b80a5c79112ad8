//! The server-side socket: replies and reports of servers, and the dispatch of all other frames.

use std::net::SocketAddr;

use super::shared::Member;
use super::{FRONT, NativeRole, frames};
use crate::base::batch::{DestinationId, FrameRef, Received, Tx};
use crate::base::drop_reason::DropReason;
use crate::base::time::Instant;
use crate::pool::outstanding::Counters;
use crate::pool::select::Slot;
use crate::pool::waiting::Limit;
use crate::wire::frame::unpack_addr;
use crate::wire::header::TRAILER_LEN;
use crate::wire::tag::Stamp;
use crate::wire::{Frame, Header, Kind, ReplyPath, ServerOp, ServerState, Status};

impl NativeRole {
    /// Handles the datagrams of one receive slot, from a server or the controller.
    pub(super) fn on_answers(&mut self, now: Instant, received: &Received, bytes: &mut [u8], tx: &mut Tx) {
        if received.peer.port() == 0 {
            let datagrams = bytes.len().div_ceil(received.stride as usize) as u64;
            return self.stats.common.dropped.add(DropReason::SourcePort, datagrams); // no answer can reach it
        }
        let mut last_client = None;
        for (at, bytes) in frames(received, bytes, self.format) {
            let checked = self.check(received.peer, at, &mut *bytes);
            let outcome = checked.and_then(|frame| self.on_back_frame(now, frame, &mut last_client, tx));
            if let Err(reason) = outcome {
                self.drop_frame(&self.stats.rejected_servers, now, (received.peer, bytes), reason);
                if reason == DropReason::FrameSize {
                    self.state_frame_size(received.peer, at, bytes, tx);
                }
            }
        }
    }

    /// Checks a frame and its tag.
    fn check<'a>(
        &self,
        peer: SocketAddr,
        at: FrameRef,
        bytes: &'a mut [u8],
    ) -> Result<ServerFrame<'a>, DropReason> {
        let stamp = match &self.opener {
            Some(opener) if bytes.len() == self.format.size => Some(opener.open(bytes)?),
            _ => None,
        };
        Ok(ServerFrame { peer, at, frame: Frame::check(bytes, &self.format)?, stamp })
    }

    fn on_back_frame(
        &mut self,
        now: Instant,
        from: ServerFrame<'_>,
        last_client: &mut LastClient,
        tx: &mut Tx,
    ) -> Result<(), DropReason> {
        match from.frame.kind() {
            Kind::ServerResponse => {
                let op = ServerOp::from_wire(from.frame.header.op).ok_or(DropReason::Kind)?;
                match op {
                    ServerOp::Reply => self.on_reply(now, from, last_client, tx),
                    ServerOp::Report => self.on_report(now, from, tx),
                    ServerOp::Register => self.on_register(now, from, tx),
                }
            }
            Kind::ControllerRequest if Some(from.peer) != self.settings.controller => {
                Err(DropReason::WrongSource)
            }
            Kind::ControllerRequest => self.on_answer(now, from.frame),
            Kind::ClientRequest | Kind::ClientResponse => Err(DropReason::Unexpected),
        }
    }

    /// Forwards a reply to its client, once, if the balancer sent the request to this server. The reply may
    /// arrive at another worker than the one that sent the request. Its counters then belong to that worker.
    fn on_reply(
        &mut self,
        now: Instant,
        from: ServerFrame<'_>,
        last_client: &mut LastClient,
        tx: &mut Tx,
    ) -> Result<(), DropReason> {
        let ServerFrame { peer, at, frame, stamp } = from;
        let (slot, worker) = (Slot::new(usize::from(frame.header.slot.get())), frame.header.worker);
        // Replies of a departed server are valid: another worker may have handled its departure first.
        if self.view.last_addr(slot) != Some(peer) {
            return Err(DropReason::WrongSource);
        }
        let epoch = frame.header.server_epoch.get();
        let same_registration = self.view.get(slot).is_some_and(|member| member.epoch == epoch);
        let lane = &mut self.lanes[slot];
        if let Some(stamp) = stamp {
            lane.replay.accept(stamp)?;
        }
        if self.shared.cookies.cookie(&frame.header) != frame.header.cookie.get() {
            return Err(DropReason::Cookie);
        }
        let status = Status::from_wire(frame.header.status).ok_or(DropReason::Kind)?;
        let own = worker == self.worker;
        let fresh = match own {
            true => lane.window.accept(frame.header.dispatch_seq.get()),
            false => {
                let window = self.shared.window(worker, slot).ok_or(DropReason::WrongSource)?;
                window.accept(frame.header.dispatch_seq.get())
            }
        };
        if !fresh {
            return Err(DropReason::Duplicate);
        }
        let stats = &self.stats.servers[slot.index()].common;
        stats.answered.add(1);
        if status == Status::Error {
            stats.failed_answers.add(1);
        }
        stats.latency.record(now.wrapping_micros().wrapping_sub(frame.header.dispatch_us.get()));
        if same_registration && own {
            self.take_counters(now, slot, &frame.header);
        }
        if same_registration {
            self.hear(slot);
        }
        self.deliver(at, frame, last_client, tx)
    }

    /// Sends a checked reply to its client, without the internal fields.
    fn deliver(
        &mut self,
        at: FrameRef,
        mut frame: Frame<'_>,
        last_client: &mut LastClient,
        tx: &mut Tx,
    ) -> Result<(), DropReason> {
        let header = &mut frame.header;
        let key = (header.client_ip, header.client_port.get(), header.listener);
        let destination = match last_client {
            Some((known, destination)) if *known == key => *destination,
            _ => {
                let to = unpack_addr(key.0, key.1);
                let local_ip = self.shared.pool.locals.get(key.2);
                let destination = tx.destination(FRONT, to, local_ip).ok_or(DropReason::TurnFull)?;
                *last_client = Some((key, destination));
                destination
            }
        };
        header.kind = Kind::ClientResponse as u8;
        header.op = 0;
        header.clear_internal();
        if self.format.tagged {
            frame.clear_tail(TRAILER_LEN);
        }
        if !tx.push(destination, at) {
            return Err(DropReason::TurnFull);
        }
        self.stats.common.answered.add(1);
        Ok(())
    }

    /// Handles a report: counters, queue and state of a server, without a reply. The primary challenges an
    /// unknown server, so that a restarted balancer finds its pool.
    fn on_report(&mut self, now: Instant, from: ServerFrame<'_>, tx: &mut Tx) -> Result<(), DropReason> {
        let (peer, header) = (from.peer, &from.frame.header);
        let slot = Slot::new(usize::from(header.slot.get()));
        let known = self.view.get(slot).filter(|m| {
            m.addr == peer
                && m.epoch == header.server_epoch.get()
                && self.shared.epoch == header.balancer_epoch.get()
        });
        let Some(&Member { epoch, .. }) = known else {
            // A server's last reports may arrive after the primary has removed the server.
            let has_left = self.view.get(slot).is_none() && self.view.last_addr(slot) == Some(peer);
            return match self.primary.is_none() && has_left {
                true => Ok(()),
                false => self.challenge(now, from, tx),
            };
        };
        if header.worker != self.worker {
            return Err(DropReason::Stale); // the counters of another worker
        }
        let lane = &mut self.lanes[slot];
        if let Some(stamp) = from.stamp {
            lane.replay.accept(stamp)?;
        }
        let state = ServerState::from_wire(header.server_state).ok_or(DropReason::Kind)?;
        if !std::mem::replace(&mut lane.confirmed, true) {
            self.shared.pool.members.confirm(slot, epoch, self.worker);
        }
        let believed = self.shared.pool.tree.len(slot);
        self.stats.note_estimate(slot, header.queue.get(), believed);
        self.take_counters(now, slot, header);
        self.hear(slot);
        match state {
            ServerState::Ready => Ok(()),
            ServerState::Draining => {
                self.note_stopping(now, slot);
                // Earlier requests travel ahead of this SYNC. A server that has received as many requests as
                // the SYNC states gets no more.
                self.owe_sync(slot);
                Ok(())
            }
            ServerState::Stopped => {
                self.on_stopped(now, slot);
                Ok(())
            }
        }
    }

    /// Takes the counters of a frame whose registration is valid.
    fn take_counters(&mut self, now: Instant, slot: Slot, header: &Header) {
        let counters = Counters {
            report: header.report.get(),
            seq: header.seq.get(),
            received: header.received.get(),
            done: header.done.get(),
        };
        let lane = &mut self.lanes[slot];
        let Some(finished) = lane.estimate.apply(counters) else {
            self.stats.common.dropped.add(DropReason::Stale, 1);
            return;
        };
        if self.settings.max_outstanding == Some(Limit::Auto) {
            self.shared.pool.finished[usize::from(self.worker)]
                .add(self.shared.pool.tree.own_len(slot), finished);
        }
        self.stats.servers[slot.index()].reported.set(now.as_nanos());
        self.stats.servers[slot.index()].common.served.note_claim(finished, header.service_us.get());
        if self.settings.reply_path == ReplyPath::Direct {
            self.stats.common.answered.add(u64::from(finished));
            self.stats.servers[slot.index()].common.answered.add(u64::from(finished));
        }
        self.touch(slot);
        self.take_foreign(slot, header.foreign.get());
    }
}

/// A checked frame that arrived at the server-side socket.
pub(super) struct ServerFrame<'a> {
    pub peer: SocketAddr,
    /// The frame's position in the turn's memory.
    pub at: FrameRef,
    pub frame: Frame<'a>,
    /// The sender's stamp, if frames are authenticated.
    pub stamp: Option<Stamp>,
}

/// The client of the last reply, as a destination of this turn.
type LastClient = Option<(([u8; 16], u16, u8), DestinationId)>;
