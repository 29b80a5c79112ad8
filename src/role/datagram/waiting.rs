//! Requests that wait in the pool's room until a server has room for them: [`crate::pool::waiting`].

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::forward::Forwarder;
use super::pending::DATAGRAM_MAX;
use super::request::Client;
use super::shared::Member;
use super::*;
use crate::pool::select::Slot;
use crate::pool::waiting::{Host, NO_MARK, NoRoom, Waiting};
use crate::wire::proxy_protocol;

impl Host for Forwarder {
    type Server = (Slot, Member);

    fn reserve(&mut self) -> Option<(Slot, Member)> {
        Forwarder::reserve(self).ok()
    }

    fn release(&mut self, (slot, _): (Slot, Member)) {
        Forwarder::release(self, slot);
    }
}

impl Forwarder {
    /// A server for a request that has just come: behind those that wait already.
    pub fn reserve_in_turn(&mut self) -> Result<(Slot, Member), DropReason> {
        match self.shared.room.is_empty() {
            true => self.reserve(),
            false => Err(DropReason::ServersFull),
        }
    }

    /// Has a request wait. It is sent when the turn ends, at the earliest.
    pub fn wait(&mut self, now: Instant, client: &Client, bytes: &[u8]) -> Result<(), NoRoom> {
        self.shared.room.enter(now, self.settings.timeout, *client, NO_MARK, bytes)
    }
}

impl DatagramRole {
    /// Sends what waits as far as servers have room for it. At the end of a turn, when the tree knows what has come of it.
    pub(super) fn serve_waiting(&mut self, now: Instant, tx: &mut Tx) {
        self.has_more = false;
        if self.core.shared.room.is_empty() {
            return;
        }
        let shared = Arc::clone(&self.core.shared);
        let mut expired = 0;
        loop {
            if !tx.has_room_for(DATAGRAM_MAX + proxy_protocol::HEADER_MAX) {
                self.has_more = true;
                break;
            }
            if shared.usable.load(Ordering::Relaxed) == 0 {
                // Nobody is to wait for a server that is not there.
                let Some(waiting) = shared.room.take() else { break };
                self.dismiss(waiting, tx);
                continue;
            }
            let Some((server, mut waiting)) = shared.room.call(now, &mut self.core, &mut expired) else {
                break;
            };
            let client = waiting.guest;
            let core = &mut self.core;
            core.stats.waited.add(1);
            core.stats.waiting_delay.record(now.since(waiting.since).as_micros() as u32);
            let outcome = match &mut self.matching {
                Matching::Dns(dns) => dns.send_waiting(core, &client, server, now, waiting.bytes(), tx),
                Matching::ByPort(leased) => {
                    leased.send_request(core, &client, server, None, now, waiting.bytes(), tx)
                }
            };
            if let Err(reason) = outcome {
                core.stats.refused.add(reason, 1);
            }
            shared.room.vacate(waiting);
        }
        self.core.stats.refused.add(DropReason::Expired, expired);
    }

    fn dismiss(&mut self, mut waiting: Box<Waiting<Client>>, tx: &mut Tx) {
        let client = waiting.guest;
        if let Matching::Dns(_) = self.matching {
            dns::refuse(&mut self.core, &client, waiting.bytes(), tx);
        }
        self.core.stats.refused.add(DropReason::NoServer, 1);
        self.core.shared.room.vacate(waiting);
    }

    /// Sends what waits now, be the servers busy or not: for a worker that retires.
    pub(super) fn stop_waiting(&self) {
        self.core.shared.tree.set_cap(u32::MAX);
    }
}
