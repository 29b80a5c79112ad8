//! Requests of clients: check, select, patch, forward.

use std::time::Duration;

use super::reply::{Client, ClientRequest, Origin};
use super::shared::{Member, ReservedServer};
use super::{BACK, NativeRole, RETRY_AFTER, frames};
use crate::base::batch::{Received, Tx};
use crate::base::drop_reason::DropReason;
use crate::base::time::Instant;
use crate::pool::select::Slot;
use crate::wire::{Frame, Mode, Status};

impl NativeRole {
    /// Handles the datagrams of one receive slot, from one client.
    pub(super) fn on_requests(&mut self, now: Instant, received: &Received, bytes: &mut [u8], tx: &mut Tx) {
        let format = self.format;
        if let Some(reason) = self.not_a_client(received) {
            let datagrams = bytes.len().div_ceil(received.stride as usize) as u64;
            self.stats.common.dropped.add(reason, datagrams);
            return;
        }
        let local = self.shared.pool.locals.number(received.local_ip);
        let mut origin = Origin::new(Client { addr: received.peer, local }, received.local_ip);
        for (at, bytes) in frames(received, bytes, format) {
            let request = ClientRequest::check(at, &mut *bytes, &format);
            let outcome = request.and_then(|request| self.on_request(now, &mut origin, request, tx));
            if let Err(reason) = outcome {
                self.drop_frame(&self.stats.rejected_clients, now, (received.peer, bytes), reason);
            }
        }
    }

    /// No reply can reach port 0, and a reply to the balancer itself or to a server would be a loop.
    fn not_a_client(&self, received: &Received) -> Option<DropReason> {
        if received.peer.port() == 0 {
            return Some(DropReason::SourcePort);
        }
        self.view.is_inside(received.peer, received.local_ip).then_some(DropReason::NotAClient)
    }

    fn on_request(
        &mut self,
        now: Instant,
        origin: &mut Origin,
        request: ClientRequest<'_>,
        tx: &mut Tx,
    ) -> Result<(), DropReason> {
        let mode = Mode::from_wire(request.frame.header.mode).ok_or(DropReason::Kind)?;
        self.stats.common.received.add(1);
        if mode == Mode::AtMostOnce {
            self.stats.common.refused.add(DropReason::Mode, 1);
            return request.refuse(origin, Status::Error, Duration::ZERO, tx);
        }
        if self.is_duplicate(&request.frame.header) {
            return Err(DropReason::StillWaits);
        }
        if let Some(server) = self.reserve_in_turn() {
            return self.forward(now, origin, server, request, tx);
        }
        let (reason, retry_after) = if !self.can_serve() {
            (DropReason::NoServer, RETRY_AFTER)
        } else if self.queue(now, origin.client, &request.frame).is_ok() {
            return Ok(());
        } else {
            (DropReason::ServersFull, self.retry_after())
        };
        self.stats.common.refused.add(reason, 1);
        request.refuse(origin, Status::Busy, retry_after, tx)
    }

    /// Reserves a server for a request.
    pub(super) fn reserve(&mut self) -> Option<ReservedServer> {
        let NativeRole { shared, view, lanes, selector, stats, ticks, .. } = self;
        let reserved = |slot| {
            let restart = |slot, member: Option<&Member>| {
                lanes.restart(slot).restart(member);
                ticks.soon();
            };
            let member = view.newest(slot, &shared.pool.members, restart)?;
            Some(ReservedServer { slot, addr: member.addr, epoch: member.epoch })
        };
        let heard_at = |slot: Slot| Instant::from_nanos(stats.servers[slot.index()].reported.get());
        let (_, server) = selector.reserve(&shared.pool.tree, &stats.common, reserved, heard_at).ok()?;
        Some(server)
    }

    /// Sends a request to the server that was reserved for it.
    fn forward(
        &mut self,
        now: Instant,
        origin: &Origin,
        server: ReservedServer,
        request: ClientRequest<'_>,
        tx: &mut Tx,
    ) -> Result<(), DropReason> {
        let destination = self.lanes.destination(server.slot, BACK, server.addr, tx);
        if !destination.is_some_and(|destination| tx.push(destination, request.at)) {
            self.shared.pool.release(server.slot);
            return Err(DropReason::TurnFull);
        }
        self.dispatch(now, origin, server, request.frame);
        Ok(())
    }

    /// Writes the internal fields of a request, which its server and the route of its reply need, and counts
    /// it. The request must not be patched afterwards.
    pub(super) fn dispatch(
        &mut self,
        now: Instant,
        origin: &Origin,
        ReservedServer { slot, epoch, .. }: ReservedServer,
        mut frame: Frame<'_>,
    ) {
        let lane = &mut self.lanes[slot];
        let dispatch_seq = lane.window.dispatch();
        lane.estimate.on_dispatch(dispatch_seq);
        lane.last_sent = now;
        let header = &mut frame.header;
        header.op = self.settings.reply_path as u8;
        header.client_ip = origin.ip;
        header.client_port.set(origin.port);
        header.listener = origin.client.local;
        header.worker = self.worker;
        header.balancer_epoch.set(self.shared.epoch);
        header.server_epoch.set(epoch);
        header.slot.set(slot.index() as u16);
        header.dispatch_seq.set(dispatch_seq);
        header.dispatch_us.set(now.wrapping_micros());
        header.cookie.set(self.shared.cookies.cookie(header));
        self.seal(frame.into_bytes());
        self.stats.servers[slot.index()].common.dispatched.add(1);
    }
}
