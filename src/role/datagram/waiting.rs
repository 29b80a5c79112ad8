//! A worker's use of the pending queue ([`crate::pool::waiting`]).

use std::sync::Arc;

use super::DatagramRole;
use super::forward::Forwarder;
use super::matching::Matching;
use super::pending::DATAGRAM_MAX;
use super::request::{DatagramClient, DatagramRequest};
use super::shared::DatagramMember;
use crate::base::batch::Tx;
use crate::base::drop_reason::DropReason;
use crate::base::time::Instant;
use crate::pool::select::Slot;
use crate::pool::waiting::{Dispatcher, NO_KEY, NotQueued, Pending, Push, ServerSource};
use crate::wire::dns::OwnAnswer;
use crate::wire::proxy_protocol;

impl Forwarder {
    /// Reserves a server for a request that has just arrived, unless requests are queued before it.
    pub fn reserve_in_turn(&mut self) -> Result<(Slot, DatagramMember), DropReason> {
        match self.shared.pool.pending.is_empty() && !self.shared.streams.has_queue() {
            true => self.reserve(),
            false => Err(DropReason::ServersFull),
        }
    }

    /// Reserves servers for queries by TCP whose turn has come.
    fn serve_streams(&mut self) {
        let shared = Arc::clone(&self.shared);
        while shared.streams.take_turn(shared.pool.pending.popped()) {
            let Ok((slot, _)) = self.reserve() else { return shared.streams.return_turn() };
            if let Err(slot) = shared.streams.grant(slot) {
                self.release(slot);
                return shared.streams.return_turn();
            }
        }
    }

    /// Queues a request, which is sent at the end of the turn at the earliest.
    pub fn queue(&mut self, request: &DatagramRequest<'_>) -> Result<(), NotQueued> {
        let (client, deadline) = (request.client, self.settings.timeout);
        self.shared
            .pool
            .pending
            .push(request.now, Push { client, deadline, key: NO_KEY, bytes: &*request.bytes })
    }
}

/// A worker at the end of a turn, when it sends queued requests.
struct QueueTurn<'a> {
    core: &'a mut Forwarder,
    matching: &'a mut Matching,
    now: Instant,
    tx: &'a mut Tx,
}

impl ServerSource<DatagramClient> for QueueTurn<'_> {
    type Server = (Slot, DatagramMember);

    fn reserve(&mut self) -> Option<(Slot, DatagramMember)> {
        self.core.reserve().ok()
    }

    fn release(&mut self, (slot, _): (Slot, DatagramMember)) {
        self.core.release(slot);
    }

    fn expire(&mut self, pending: &mut Pending<DatagramClient>) {
        self.answer(pending, OwnAnswer::Waited);
    }
}

impl QueueTurn<'_> {
    /// Tells the client of a queued request why it gets no response, if the protocol has a way.
    fn answer(&mut self, pending: &mut Pending<DatagramClient>, answer: OwnAnswer) {
        let QueueTurn { core, matching, now, tx } = self;
        let request = DatagramRequest { client: pending.client, bytes: pending.bytes(), at: None, now: *now };
        matching.refuse_pending(core, request, answer, tx);
    }
}

impl Dispatcher<DatagramClient> for QueueTurn<'_> {
    fn has_room(&self) -> bool {
        self.tx.has_room_for(DATAGRAM_MAX + proxy_protocol::HEADER_MAX)
    }

    fn can_serve(&self) -> bool {
        self.core.shared.can_serve()
    }

    fn send(&mut self, server: (Slot, DatagramMember), pending: &mut Pending<DatagramClient>) {
        let QueueTurn { core, matching, now, tx } = self;
        core.stats.common.waited.add(1);
        core.stats.common.waiting_delay.record(now.since(pending.since).as_micros() as u32);
        let request = DatagramRequest { client: pending.client, bytes: pending.bytes(), at: None, now: *now };
        if let Err(reason) = matching.send_pending(core, request, server, tx) {
            core.stats.common.refused.add(reason, 1);
        }
    }

    fn refuse(&mut self, pending: &mut Pending<DatagramClient>) {
        self.answer(pending, OwnAnswer::NoServer);
        self.core.stats.common.refused.add(DropReason::NoServer, 1);
    }
}

impl DatagramRole {
    /// Sends queued requests while servers are below their limit. Called at the end of a turn.
    pub(super) fn serve_pending(&mut self, now: Instant, tx: &mut Tx) {
        self.has_more = false;
        if self.core.shared.streams.has_queue() {
            self.core.serve_streams();
        }
        if self.core.shared.pool.pending.is_empty() {
            return;
        }
        let shared = Arc::clone(&self.core.shared);
        let mut turn = QueueTurn { core: &mut self.core, matching: &mut self.matching, now, tx };
        let served = shared.pool.pending.serve(now, &mut turn);
        self.has_more = served.has_more;
        self.core.stats.common.refused.add(DropReason::Expired, served.expired);
    }

    /// Lifts the limit: queued requests are sent in the next turns, since the worker retires.
    pub(super) fn stop_waiting(&self) {
        self.core.shared.pool.lift_limit();
    }
}
