//! Connections to servers: few for each server, each with many queries in flight. A zone transfer has one of
//! its own, and so has a client that the PROXY protocol names to the server.

use std::time::Duration;

use super::connection::{Action, ConnectionId, Place, Upstream};
use super::ids::Ids;
use super::{Streams, TICK_IDLE, UNSENT_MAX};
use crate::base::drop_reason::DropReason;
use crate::base::lru_slab::Key;
use crate::base::time::Instant;
use crate::pool::select::Slot;
use crate::pool::shared::is_selectable;
use crate::pool::stats::Answers;
use crate::pool::waiting::Limit;
use crate::role::datagram::shared::DatagramMember;
use crate::wire::dns::stream::{ByteQueue, LENGTH_LEN, first_message};
use crate::wire::dns::{self, OwnAnswer};
use crate::wire::proxy_protocol::{self, Transport};

/// Connections to one server that serve any client. Many servers answer the queries of one connection one
/// after the other.
const SHARED_MAX: usize = 8;
/// A connection to a server without a query is closed after this time.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// A zone transfer without a byte is given up after this time.
const TRANSFER_SILENCE_MAX: Duration = Duration::from_secs(600);
/// Servers that are tried for one query, as long as they do not accept a connection.
const TRIES_MAX: u8 = 3;
/// A server that does not accept connections is avoided for this time, doubled each time.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Why a query has lost its connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Loss {
    /// The server did not accept the connection: it has not seen the query.
    NotConnected,
    /// The connection broke before its first answer.
    Unanswered,
    /// A connection that had answers broke.
    Broken,
}

impl Streams {
    pub(super) fn upstream(&self, key: Key, generation: u32) -> Option<&Upstream> {
        self.upstreams.get(key).filter(|upstream| upstream.generation == generation)
    }

    pub(super) fn upstream_mut(&mut self, key: Key, generation: u32) -> Option<&mut Upstream> {
        self.upstreams.get_mut(key).filter(|upstream| upstream.generation == generation)
    }

    pub(super) fn ids_in_use(&self) -> usize {
        let keys = (0..self.upstreams.capacity()).map(Key::at);
        let open = keys.filter_map(|key| self.upstreams.get(key)).take(self.upstreams.len());
        open.map(|upstream| upstream.ids.len()).sum()
    }

    /// Sends a query to the server that was reserved for it.
    pub(super) fn dispatch(&mut self, now: Instant, query: Key, server: (Slot, DatagramMember)) {
        let slot = server.0;
        if !self.try_dispatch(now, query, server) {
            self.shared.pool.release(slot);
            self.refuse(query, DropReason::TableFull, OwnAnswer::TableFull);
        }
    }

    fn try_dispatch(&mut self, now: Instant, query: Key, server: (Slot, DatagramMember)) -> bool {
        let Some(key) = self.upstream_for(now, query, server) else { return false };
        let Some(upstream) = self.upstreams.get_mut(key) else { return false };
        let Some(id) = upstream.ids.insert(query) else { return false };
        let Some(entry) = self.queries.get_mut(query) else { return false };
        upstream.out.append_message(id, &entry.bytes);
        entry.place = Place::Sent { slot: server.0, upstream: key, id, at: now };
        if upstream.is_connected && !std::mem::replace(&mut upstream.has_send, true) {
            let id = ConnectionId::Server { key, generation: upstream.generation };
            self.actions.push_back(Action::Send(id));
        }
        self.upstreams.touch(now, key);
        self.queries.touch(now, query);
        true
    }

    /// A connection to this server that the query may use; `None` if there are too many.
    fn upstream_for(
        &mut self,
        now: Instant,
        query: Key,
        (slot, member): (Slot, DatagramMember),
    ) -> Option<Key> {
        let entry = self.queries.get(query)?;
        let (client, is_transfer) = (entry.client, entry.transfer.is_some());
        let owner = (is_transfer || self.shared.tells_client()).then_some(client);
        let usable = |key: &Key| {
            let upstream = self.upstreams.get(*key)?;
            let is_usable = !upstream.is_condemned
                && !upstream.is_transfer
                && (upstream.slot, upstream.epoch) == (slot, member.epoch);
            is_usable.then_some((upstream.ids.len(), *key))
        };
        match owner {
            _ if is_transfer => {}
            Some(owner) => {
                if let Some((_, key)) = self.client(owner)?.owned.iter().find_map(usable) {
                    return Some(key);
                }
            }
            None => {
                let shared = &self.by_slot[slot.index()].shared;
                match shared.iter().filter_map(usable).min() {
                    Some((0, key)) => return Some(key),
                    Some((_, key)) if shared.len() >= SHARED_MAX => return Some(key),
                    _ => {}
                }
            }
        }
        self.connect(now, (slot, member), owner, is_transfer)
    }

    fn connect(
        &mut self,
        now: Instant,
        (slot, member): (Slot, DatagramMember),
        owner: Option<ConnectionId>,
        is_transfer: bool,
    ) -> Option<Key> {
        let generation = self.next_generation();
        let mut out = ByteQueue::default();
        if self.shared.tells_client() {
            let client = self.client(owner?)?;
            out.append(&proxy_protocol::header(Transport::Stream, client.peer, client.local));
        }
        let upstream = Upstream {
            generation,
            slot,
            epoch: member.epoch,
            owner,
            is_transfer,
            is_connected: false,
            has_answered: false,
            is_condemned: false,
            is_paused: false,
            has_send: false,
            held: ByteQueue::default(),
            out,
            ids: Ids::default(),
            heard_at: now,
        };
        let key = self.upstreams.insert(now, upstream)?;
        match owner {
            Some(owner) => self.client_mut(owner)?.owned.push(key),
            None => self.by_slot[slot.index()].shared.push(key),
        }
        self.actions.push_back(Action::Connect(ConnectionId::Server { key, generation }, member.addr));
        Some(key)
    }

    /// A server has accepted a connection.
    pub fn on_connected(&mut self, now: Instant, id: ConnectionId) {
        let ConnectionId::Server { key, generation } = id else { return };
        let Some(upstream) = self.upstream_mut(key, generation) else { return };
        upstream.is_connected = true;
        upstream.heard_at = now;
        if !std::mem::replace(&mut upstream.has_send, true) {
            self.actions.push_back(Action::Send(id));
        }
    }

    /// Whether a connection to a server should be read: not while its client has not read what was sent.
    pub(super) fn wants_server_bytes(&mut self, key: Key, generation: u32) -> bool {
        let Some(upstream) = self.upstream(key, generation) else { return false };
        let owner = upstream.owner.and_then(|owner| self.client(owner));
        let wants = owner.is_none_or(|client| client.out.len() < UNSENT_MAX);
        if let Some(upstream) = self.upstream_mut(key, generation) {
            upstream.is_paused = !wants;
        }
        wants
    }

    /// A client has read: its transfers continue.
    pub(super) fn resume_transfers(&mut self, client: ConnectionId) {
        let Streams { clients, upstreams, actions, .. } = self;
        let ConnectionId::Client { key, .. } = client else { return };
        for &key in clients.get(key).iter().flat_map(|client| &client.owned) {
            if let Some(upstream) = upstreams.get_mut(key)
                && std::mem::take(&mut upstream.is_paused)
            {
                let id = ConnectionId::Server { key, generation: upstream.generation };
                actions.push_back(Action::Resume(id));
            }
        }
    }

    pub(super) fn on_server_bytes(&mut self, now: Instant, key: Key, generation: u32, bytes: &[u8]) {
        let Some(upstream) = self.upstream_mut(key, generation) else { return };
        upstream.heard_at = now;
        let mut held = std::mem::take(&mut upstream.held);
        // Whole messages are not copied.
        if held.is_empty() {
            let used = self.take_answers(now, key, generation, bytes);
            held.append(&bytes[used..]);
        } else {
            held.append(bytes);
            let used = self.take_answers(now, key, generation, held.bytes());
            held.consume(used);
        }
        if let Some(upstream) = self.upstream_mut(key, generation) {
            upstream.held = held;
        }
    }

    fn take_answers(&mut self, now: Instant, key: Key, generation: u32, bytes: &[u8]) -> usize {
        let mut used = 0;
        while let Some(message) = first_message(&bytes[used..]) {
            used += LENGTH_LEN + message.len();
            if let Err(reason) = self.on_answer(now, key, generation, message) {
                self.stats.common.dropped.add(reason, 1);
            }
        }
        used
    }

    fn on_answer(
        &mut self,
        now: Instant,
        key: Key,
        generation: u32,
        message: &[u8],
    ) -> Result<(), DropReason> {
        let upstream = self.upstream_mut(key, generation).ok_or(DropReason::NotOpen)?;
        let id = dns::id(message);
        let query = upstream.ids.get(id).ok_or(DropReason::NotOpen)?;
        let slot = upstream.slot;
        let entry = self.queries.get(query).ok_or(DropReason::NotOpen)?;
        match entry.asked.check(message, &self.key) {
            Ok(()) => {}
            // A later message of a transfer may leave the question out (RFC 5936 section 2.2.1).
            Err(DropReason::WrongQuestion)
                if entry.transfer.is_some() && dns::question_count(message) == 0 => {}
            Err(reason) => return Err(reason),
        }
        let (client, client_id, is_first) = (entry.client, entry.client_id, !entry.is_answered);
        let is_last = match self.queries.get_mut(query).and_then(|entry| entry.transfer.as_mut()) {
            Some(progress) => progress.is_last(message),
            None => true,
        };
        if is_first {
            self.count_answer(now, query, slot, dns::is_failure(message));
        }
        if let Some(upstream) = self.upstreams.get_mut(key) {
            upstream.has_answered = true;
            self.by_slot[slot.index()].pause = Duration::ZERO;
            self.by_slot[slot.index()].avoided_until = Instant::ZERO;
        }
        if self.send_to_client(client, client_id, message) {
            self.stats.delivered.add(1);
            self.stats.servers[slot.index()].delivered.add(1);
        }
        if is_last {
            if let Some(upstream) = self.upstreams.get_mut(key) {
                upstream.ids.remove(id);
            }
            self.shared.pool.release(slot);
            if let Some(query) = self.finish(query) {
                self.recycle(query.bytes);
            }
            self.after_answer(now, key);
        }
        Ok(())
    }

    /// Counts the first answer to a query. The time of a failure says nothing about the service time.
    fn count_answer(&mut self, now: Instant, query: Key, slot: Slot, is_failure: bool) {
        let Streams { queries, shared, stats, settings, .. } = self;
        let Some(entry) = queries.get_mut(query) else { return };
        let Place::Sent { at, .. } = entry.place else { return };
        entry.is_answered = true;
        let micros = u32::try_from(now.since(at).as_micros()).unwrap_or(u32::MAX);
        let len = shared.pool.tree.len(slot);
        if settings.settings.max_outstanding == Some(Limit::Auto)
            && let Some(finished) = shared.pool.finished.last()
        {
            finished.add(len, 1);
        }
        let server = &stats.servers[slot.index()];
        match is_failure {
            true => server.common.failed_answers.add(1),
            false => {
                let mut answers = Answers::NONE;
                answers.add(micros);
                answers.publish(len, &server.common.served);
            }
        }
        server.common.latency.record(micros);
        // A query whose connection breaks goes to another server: it counts where it ends.
        server.common.dispatched.add(1);
        server.common.answered.add(1);
        stats.common.answered.add(1);
        stats.in_flight.set(stats.in_flight.get().saturating_sub(1));
    }

    /// A server has not answered a query in time. Its connection takes no more: a server that answers in
    /// order would answer nothing after that query.
    pub(super) fn time_out(&mut self, now: Instant, query: Key) {
        let Some(entry) = self.queries.get(query) else { return };
        let Place::Sent { slot, upstream: key, id, .. } = entry.place else { return };
        if let Some(upstream) = self.upstreams.get_mut(key) {
            upstream.ids.remove(id);
            upstream.is_condemned = true;
        }
        self.shared.pool.release(slot);
        let server = &self.stats.servers[slot.index()];
        server.common.dispatched.add(1);
        server.timed_out.add(1);
        self.stats.timed_out.add(1);
        self.stats.common.decisions.given_up.add(1);
        if let Some(query) = self.finish(query) {
            self.answer(query.client, &query.bytes, OwnAnswer::NoResponse);
            self.recycle(query.bytes);
        }
        self.after_answer(now, key);
    }

    /// A connection may have nothing more to do.
    fn after_answer(&mut self, now: Instant, key: Key) {
        let Some(upstream) = self.upstreams.get(key) else { return };
        if upstream.ids.len() == 0 && self.is_done(upstream) {
            self.drop_upstream(now, key);
        }
    }

    /// Whether a connection must not be kept for later queries.
    fn is_done(&self, upstream: &Upstream) -> bool {
        let (leaf, _) = self.shared.pool.tree.state_and_cost(upstream.slot);
        let is_current = self.view.get(upstream.slot).is_some_and(|member| member.epoch == upstream.epoch);
        upstream.is_transfer
            || upstream.is_condemned
            || self.is_retired
            || !is_current
            || !is_selectable(leaf)
    }

    /// A connection to a server has ended or failed.
    pub(super) fn on_server_gone(&mut self, now: Instant, key: Key, generation: u32) {
        if self.upstream(key, generation).is_some() {
            self.drop_upstream(now, key);
        }
    }

    /// Closes a connection to a server. Its queries go to other servers.
    pub(super) fn drop_upstream(&mut self, now: Instant, key: Key) {
        let Some(mut upstream) = self.upstreams.remove(key) else { return };
        let id = ConnectionId::Server { key, generation: upstream.generation };
        self.actions.push_back(Action::Close(id));
        match upstream.owner {
            Some(owner) => {
                if let Some(client) = self.client_mut(owner) {
                    client.owned.retain(|&owned| owned != key);
                }
            }
            None => self.by_slot[upstream.slot.index()].shared.retain(|&shared| shared != key),
        }
        let loss = match (upstream.is_connected, upstream.has_answered) {
            (false, _) => Loss::NotConnected,
            (true, false) => Loss::Unanswered,
            (true, true) => Loss::Broken,
        };
        let has_client = upstream.owner.is_none_or(|owner| self.client(owner).is_some());
        if upstream.ids.len() > 0 && loss != Loss::Broken && has_client {
            let server = &mut self.by_slot[upstream.slot.index()];
            server.pause = (server.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
            server.avoided_until = now + server.pause;
        }
        for query in upstream.ids.take() {
            self.shared.pool.release(upstream.slot);
            self.on_lost(now, query, upstream.slot, loss);
        }
    }

    /// A query has lost its connection: it is sent again, or refused.
    fn on_lost(&mut self, now: Instant, query: Key, slot: Slot, loss: Loss) {
        let Some(entry) = self.queries.get_mut(query) else { return };
        entry.place = Place::New;
        entry.tries += 1;
        let (client, tries, is_answered) = (entry.client, entry.tries, entry.is_answered);
        let may_repeat = match loss {
            Loss::NotConnected => tries < TRIES_MAX,
            Loss::Unanswered | Loss::Broken => entry.is_repeatable && tries < 2,
        };
        if self.client(client).is_none() {
            return self.abandon(query);
        }
        if is_answered {
            // A transfer in the middle: only the end of the connection tells the client.
            if let Some(client) = self.client_mut(client) {
                client.cut();
            }
            return self.abandon(query);
        }
        if !may_repeat {
            return self.refuse(query, DropReason::NoServer, OwnAnswer::NoResponse);
        }
        let mut server = self.reserve_elsewhere(now, slot);
        if server.is_none() && loss == Loss::Broken {
            server = self.reserve_at(slot); // it closes idle connections, and may have closed this one
        }
        match server {
            Some(server) => self.dispatch(now, query, server),
            None if self.is_full_elsewhere(slot, now) => self.enqueue(query, true),
            None => self.refuse(query, DropReason::NoServer, OwnAnswer::NoResponse),
        }
    }

    /// Whether other servers could serve, and are at their limit.
    fn is_full_elsewhere(&self, than: Slot, now: Instant) -> bool {
        let tree = &self.shared.pool.tree;
        let mut others = (0..tree.slot_count()).map(Slot::new).filter(|&slot| slot != than);
        others.any(|slot| {
            is_selectable(tree.state_and_cost(slot).0) && self.by_slot[slot.index()].avoided_until <= now
        })
    }

    /// Whether the server of a connection has left, or its drain is over. The connection ends between two
    /// messages.
    fn is_cut_off(&self, upstream: &Upstream) -> bool {
        let member = self.view.get(upstream.slot).filter(|member| member.epoch == upstream.epoch);
        member.is_none_or(|member| member.extra.is_over)
    }

    /// Closes connections to servers that nothing needs, and those whose server must not be used any more.
    pub(super) fn sweep_upstreams(&mut self, now: Instant) {
        for _ in 0..self.upstreams.len() {
            let Some((key, since)) = self.upstreams.oldest() else { return };
            let Some(upstream) = self.upstreams.get(key) else { return };
            let is_silent = upstream.is_transfer && upstream.heard_at + TRANSFER_SILENCE_MAX <= now;
            let is_idle = upstream.ids.len() == 0 && (since + IDLE_MAX <= now || self.is_done(upstream));
            if is_idle || is_silent && !upstream.is_paused || self.is_cut_off(upstream) {
                self.drop_upstream(now, key);
            } else {
                self.upstreams.touch(since, key); // the order stays: each moves to the end once
            }
        }
    }
}

const _: () = assert!(TICK_IDLE.as_millis() < IDLE_MAX.as_millis());
