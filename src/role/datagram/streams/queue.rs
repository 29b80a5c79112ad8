//! Queries by TCP that wait for a server below its limit.
//!
//! The order is that of the pool's pending queue: see [`crate::role::datagram::StreamLink`].

use super::Streams;
use super::connection::Place;
use crate::base::drop_reason::DropReason;
use crate::base::lru_slab::Key;
use crate::base::time::Instant;
use crate::pool::select::{Full, Slot};
use crate::role::datagram::shared::DatagramMember;
use crate::wire::dns::OwnAnswer;

/// A query is queued if its expected wait is at most `timeout` divided by this, as in the pending queue.
const DEADLINE_SHARE: u32 = 2;

impl Streams {
    /// Sends a new query to a server, or queues it behind those that wait, or refuses it.
    pub(super) fn place_in_turn(&mut self, now: Instant, query: Key) {
        let is_first = self.queue.is_empty() && self.shared.pool.pending.is_empty();
        let reserved = if is_first { self.reserve(now) } else { Err(Full) };
        match reserved {
            Ok(server) => self.dispatch(now, query, server),
            Err(Full) if !self.shared.can_serve() => {
                self.refuse(query, DropReason::NoServer, OwnAnswer::NoServer);
            }
            Err(Full) if self.may_queue() => self.enqueue(query, false),
            Err(Full) => self.refuse(query, DropReason::ServersFull, OwnAnswer::ServersFull),
        }
    }

    /// Whether one more query may wait: as many requests may as by UDP, and as long.
    fn may_queue(&self) -> bool {
        let (pending, settings) = (&self.shared.pool.pending, &self.settings.settings);
        self.queue.len() + (pending.len() as usize) < settings.waiting_max
            && pending.expected_wait() <= settings.timeout / DEADLINE_SHARE
    }

    /// Queues a query as the last one, or as the first one.
    pub(super) fn enqueue(&mut self, query: Key, first: bool) {
        let pending = &self.shared.pool.pending;
        let turn = if first { 0 } else { pending.popped() + pending.len() };
        let Some(entry) = self.queries.get_mut(query) else { return };
        entry.place = Place::Queued { turn };
        if first {
            self.queue.push_front(query);
        } else {
            self.queue.push_back(query);
        }
        self.publish_turn();
        self.shared.streams.enqueue();
    }

    fn turn_of(&self, query: Key) -> Option<u64> {
        match self.queries.get(query)?.place {
            Place::Queued { turn } => Some(turn),
            Place::New | Place::Sent { .. } => None,
        }
    }

    fn publish_turn(&self) {
        let oldest = self.queue.front().and_then(|&query| self.turn_of(query));
        self.shared.streams.set_turn(oldest);
    }

    /// Takes the first query out of the queue.
    fn dequeue(&mut self) -> Option<Key> {
        let query = self.queue.pop_front();
        self.publish_turn();
        query
    }

    /// Sends queued queries whose turn has come, as long as servers are below their limit.
    pub(super) fn serve_queue(&mut self, now: Instant) {
        while let Some(&query) = self.queue.front() {
            if self.drop_orphan(query) {
                continue;
            }
            if !self.shared.can_serve() {
                self.leave_queue(query);
                self.refuse(query, DropReason::NoServer, OwnAnswer::NoServer);
                continue;
            }
            if self.turn_of(query).is_some_and(|turn| turn > self.shared.pool.pending.popped()) {
                return; // requests by UDP are before it: the workers serve them
            }
            if !self.shared.streams.withdraw() {
                return; // a worker has a server for it
            }
            let Ok(server) = self.reserve(now) else {
                return self.shared.streams.return_turn();
            };
            self.dequeue();
            self.dispatch_queued(now, query, server);
        }
    }

    /// Takes the servers that workers have reserved.
    pub(super) fn take_grants(&mut self, now: Instant) {
        while let Some(slot) = self.shared.streams.take_grant() {
            while let Some(&query) = self.queue.front()
                && self.drop_orphan(query)
            {}
            let member = self.view.newest(slot, &self.shared.pool.members, |_, _| {}).copied();
            match (member, self.queue.is_empty()) {
                (Some(member), false) => {
                    if let Some(query) = self.dequeue() {
                        self.dispatch_queued(now, query, (slot, member));
                    }
                }
                (_, is_empty) => {
                    self.shared.pool.release(slot); // the query has ended, or the server has left
                    if !is_empty {
                        self.shared.streams.enqueue();
                    }
                }
            }
        }
    }

    fn dispatch_queued(&mut self, now: Instant, query: Key, server: (Slot, DatagramMember)) {
        if let Some(entry) = self.queries.get(query) {
            let waited = now.since(entry.arrived).as_micros();
            self.stats.common.waited.add(1);
            self.stats.common.waiting_delay.record(u32::try_from(waited).unwrap_or(u32::MAX));
        }
        self.dispatch(now, query, server);
    }

    /// Drops the first query of the queue if its client is gone.
    fn drop_orphan(&mut self, query: Key) -> bool {
        let is_orphan = self.queries.get(query).is_some_and(|entry| self.client(entry.client).is_none());
        if is_orphan {
            self.leave_queue(query);
            self.abandon(query);
        }
        is_orphan
    }

    /// A query has waited for too long.
    pub(super) fn expire_queued(&mut self, query: Key) {
        self.leave_queue(query);
        self.refuse(query, DropReason::Expired, OwnAnswer::Waited);
    }

    fn leave_queue(&mut self, query: Key) {
        if self.queue.front() == Some(&query) {
            self.queue.pop_front();
        } else {
            self.queue.retain(|&queued| queued != query);
        }
        // If a worker has a server for it, the next query gets that server.
        self.shared.streams.withdraw();
        self.publish_turn();
    }

    /// Ends a query that no client waits for and that no server has answered.
    pub(super) fn abandon(&mut self, query: Key) {
        let Some(query) = self.finish(query) else { return };
        if !query.is_answered {
            self.stats.common.refused.add(DropReason::Expired, 1);
        }
        self.recycle(query.bytes);
    }

    /// Reserves a server by the pool's policy. One that does not accept connections is passed over while
    /// another one has room.
    fn reserve(&mut self, now: Instant) -> Result<(Slot, DatagramMember), Full> {
        let Streams { shared, view, selector, stats, .. } = self;
        let member = |slot| view.newest(slot, &shared.pool.members, |_, _| {}).copied();
        let heard_at = |slot: Slot| shared.signals[slot.index()].alive_at();
        let reserved = selector.reserve(&shared.pool.tree, &stats.common, member, heard_at)?;
        if self.by_slot[reserved.0.index()].avoided_until <= now {
            return Ok(reserved);
        }
        let Some(other) = self.reserve_elsewhere(now, reserved.0) else { return Ok(reserved) };
        self.shared.pool.release(reserved.0);
        Ok(other)
    }

    /// Reserves another server than this one: that with the shortest queue, regardless of the policy.
    pub(super) fn reserve_elsewhere(&mut self, now: Instant, than: Slot) -> Option<(Slot, DatagramMember)> {
        let tree = &self.shared.pool.tree;
        let others = (0..tree.slot_count()).map(Slot::new).filter(|&slot| slot != than);
        let usable =
            others.filter(|&slot| tree.is_choosable(slot) && self.by_slot[slot.index()].avoided_until <= now);
        let slot = usable.min_by_key(|&slot| (!tree.is_eligible(slot), tree.len(slot)))?;
        self.reserve_at(slot)
    }

    /// Reserves this server, if it can be selected.
    pub(super) fn reserve_at(&mut self, slot: Slot) -> Option<(Slot, DatagramMember)> {
        let slot = self.shared.pool.tree.reserve_shorter(slot, slot).ok()?;
        match self.view.newest(slot, &self.shared.pool.members, |_, _| {}) {
            Some(member) => Some((slot, *member)),
            None => {
                self.shared.pool.release(slot);
                None
            }
        }
    }
}
