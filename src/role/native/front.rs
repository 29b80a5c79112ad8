//! Requests of clients.

use super::reply::{Asker, refuse};
use super::waiting::key_of;
use super::*;
use crate::wire::{Frame, Header, Kind, Mode, Status};

impl NativeRole {
    /// Takes what one client sent.
    pub(super) fn on_front(&mut self, now: Instant, received: &Received, bytes: &mut [u8], tx: &mut Tx) {
        let format = self.format;
        if let Some(reason) = self.not_a_client(received) {
            self.stats.common.dropped.add(reason, bytes.len().div_ceil(received.stride as usize) as u64);
            return;
        }
        let listener = self.shared.pool.locals.number(received.local_ip);
        let mut asker = Asker::new(received.peer, received.local_ip, listener);
        for frame in frames(received, bytes, format) {
            let outcome = frame.and_then(|(at, bytes)| self.on_request(now, &mut asker, at, bytes, tx));
            if let Err(reason) = outcome {
                self.stats.common.dropped.add(reason, 1);
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
        asker: &mut Asker,
        frame_ref: FrameRef,
        bytes: &mut [u8],
        tx: &mut Tx,
    ) -> Result<(), DropReason> {
        let frame = Frame::check(bytes, &self.format)?;
        if frame.kind() != Kind::ClientRequest {
            return Err(DropReason::Unexpected);
        }
        let mode = Mode::from_wire(frame.header.mode).ok_or(DropReason::Kind)?;
        self.stats.common.received.add(1);
        if mode == Mode::AtMostOnce {
            self.stats.common.refused.add(DropReason::Mode, 1);
            return refuse(asker, frame, frame_ref, Status::Error, Duration::ZERO, tx);
        }
        if self.is_duplicate(frame.header) {
            return Err(DropReason::StillWaits);
        }
        let (deadline_us, key) = (frame.header.deadline_us.get(), key_of(frame.header));
        if let Some((slot, member)) = self.reserve_in_turn() {
            return self.forward(now, asker, slot, &member, frame_ref, bytes, tx);
        }
        let (reason, retry_after) = if !self.can_serve() {
            (DropReason::NoServer, RETRY_AFTER)
        } else if self.queue(now, asker, deadline_us, key, bytes).is_ok() {
            return Ok(());
        } else {
            (DropReason::ServersFull, self.retry_after())
        };
        self.stats.common.refused.add(reason, 1);
        refuse(asker, Frame::check(bytes, &self.format)?, frame_ref, Status::Busy, retry_after, tx)
    }

    /// Reserves a server for a request.
    pub(super) fn reserve(&mut self) -> Option<(Slot, Member)> {
        let NativeRole { shared, view, lanes, selector, stats, .. } = self;
        let member = |slot| {
            let restart = |slot, member: Option<&Member>| lanes.restart(slot).restart(member);
            view.newest(slot, &shared.pool.members, restart).copied()
        };
        let heard_at = |slot: Slot| Instant::from_nanos(stats.servers[slot.index()].reported.get());
        selector.reserve(&shared.pool.tree, &stats.common, member, heard_at).ok()
    }

    /// Sends a request to the server of a slot that was reserved for it.
    #[allow(clippy::too_many_arguments)] // one frame, its way and its turn; a struct would only rename them
    fn forward(
        &mut self,
        now: Instant,
        asker: &Asker,
        slot: Slot,
        member: &Member,
        frame_ref: FrameRef,
        bytes: &mut [u8],
        tx: &mut Tx,
    ) -> Result<(), DropReason> {
        let pushed =
            self.lanes.destination(slot, BACK, member.addr, tx).is_some_and(|d| tx.push(d, frame_ref));
        if !pushed {
            self.shared.pool.release(slot);
            return Err(DropReason::TurnFull);
        }
        self.dispatch(now, asker, slot, member, bytes);
        Ok(())
    }

    /// Writes into a request what its server and its reply's way back need, and counts it. Nothing may be
    /// patched afterwards.
    pub(super) fn dispatch(
        &mut self,
        now: Instant,
        asker: &Asker,
        slot: Slot,
        member: &Member,
        bytes: &mut [u8],
    ) {
        let lane = &mut self.lanes[slot];
        let dispatch_seq = lane.window.dispatch();
        lane.estimate.on_dispatch(dispatch_seq);
        lane.last_sent = now;
        let (header, _) = zerocopy::FromBytes::mut_from_prefix(bytes).expect("checked before");
        let header: &mut Header = header;
        header.op = self.settings.reply_path as u8;
        header.client_ip = asker.ip;
        header.client_port.set(asker.port);
        header.listener = asker.listener;
        header.worker = self.worker;
        header.balancer_epoch.set(self.shared.epoch);
        header.server_epoch.set(member.epoch);
        header.slot.set(slot.index() as u16);
        header.dispatch_seq.set(dispatch_seq);
        header.dispatch_us.set(now.wrapping_micros());
        header.cookie.set(self.shared.cookies.cookie(header));
        self.seal(bytes);
        self.stats.servers[slot.index()].common.dispatched.add(1);
    }
}
