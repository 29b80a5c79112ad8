//! DNS over TCP, by message: which query goes to which server, over which connection, and which answer goes
//! back to which client.
//!
//! [`Streams`] is the TCP side of a DNS pool: a state machine without sockets, like a worker. It selects
//! servers from the tree of the workers, so TCP and UDP share all limits. Each *query* is admitted,
//! counted, limited and queued like a query by UDP. A connection without a query takes nothing but its
//! place: no server, no connection to a server, no buffer.
//!
//! A driver owns the sockets. It reports what connections carry ([`Streams::on_bytes`],
//! [`Streams::on_end`]) and carries out each [`Action`]. It reads a connection only while
//! [`Streams::wants_bytes`], so a client that does not read its answers is not read either.
//! [`super::StreamLink`] is what the workers and the TCP side share.
//!
//! Invariants between two calls:
//! - A query counts one in the tree from its selection to its last answer, its timeout, or its loss.
//! - Each query in flight has an id at exactly one connection to a server; each other one is in the queue.
//! - received = answered + timed_out + refused + in_flight.
//!
//! | file | contents |
//! |---|---|
//! | `mod.rs` | clients: connections, queries, the balancer's own answers, time |
//! | `upstream.rs` | connections to servers, answers, lost connections, zone transfers |
//! | `queue.rs` | queries that wait for a server below its limit |
//! | `connection.rs`, `ids.rs`, `sources.rs` | the tables |

mod connection;
mod ids;
mod queue;
mod sources;
mod upstream;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use self::connection::{Client, Place, ServerConnections, StreamQuery, Upstream};
use self::sources::Sources;
use super::shared::{CurrentSettings, DatagramExtra, DatagramShared};
use crate::base::drop_reason::DropReason;
use crate::base::lru_slab::{Key, LruSlab};
use crate::base::time::Instant;
use crate::pool::members::View;
use crate::pool::selector::Selector;
use crate::pool::shared::WorkerSettings;
use crate::pool::stats::DatagramStats;
use crate::wire::dns::records::{AXFR, IXFR, TransferProgress};
use crate::wire::dns::stream::{LENGTH_LEN, first_message};
use crate::wire::dns::{self, Asked, OWN_ANSWER_MAX, OwnAnswer, QuestionKey};

pub use self::connection::{Action, ConnectionId};

/// Queries of one client in flight or queued; then the connection is not read.
const PIPELINE_MAX: u32 = 100;
/// Unsent bytes to one client; then its connection is not read.
const UNSENT_MAX: usize = 64 << 10;
/// Bytes that all buffers of clients hold. Above that, a client with more than [`UNSENT_MAX`] is closed.
const BUFFERED_MAX: usize = 32 << 20;
/// Bytes of all queries in flight or queued. Above that, a client with more than [`UNSENT_MAX`] of them may
/// ask no more; above twice that, no client may.
const ASKED_MAX: usize = 32 << 20;
/// Queries of all clients.
const QUERIES_MAX: usize = 1 << 16;
/// Connections to servers beside one for each client.
const UPSTREAMS_SPARE: usize = 8 * 4_096;
/// Oldest connections that are examined for an idle one.
const SCAN_MAX: usize = 64;
/// OPCODE of an ordinary query: it may be asked twice (RFC 1035).
const OPCODE_QUERY: u8 = 0;
/// Memory for the bytes of later queries: buffers of at most this size, at most this many.
const SPARE_LEN_MAX: usize = 1_024;
const SPARE_MAX: usize = 1_024;
/// Time between two calls of [`Streams::on_tick`]: while queries wait, while queries are in flight, and while
/// connections are open.
const TICK_WAITING: Duration = Duration::from_millis(5);
const TICK_BUSY: Duration = Duration::from_millis(20);
const TICK_IDLE: Duration = Duration::from_secs(1);

/// The TCP side of a DNS pool.
pub struct Streams {
    shared: Arc<DatagramShared>,
    settings: WorkerSettings<CurrentSettings>,
    view: View<DatagramExtra>,
    selector: Selector,
    stats: Arc<DatagramStats>,
    key: QuestionKey,
    connections_max: usize,
    /// Connections of clients, by their last progress: a query, or bytes that left.
    clients: LruSlab<Client>,
    /// Connections to servers, by their last use.
    upstreams: LruSlab<Upstream>,
    /// Queries by the time at which they were queued or sent. Transfers are last again while they last.
    queries: LruSlab<StreamQuery>,
    by_slot: Box<[ServerConnections]>,
    /// Queries without a server, in the order of their arrival.
    queue: VecDeque<Key>,
    sources: Sources,
    actions: VecDeque<Action>,
    /// Clients that have changed since [`Streams::settle`].
    changed: Vec<ConnectionId>,
    /// The number of the last connection.
    generation: u32,
    /// Bytes in the buffers of clients.
    buffered: usize,
    /// Bytes of all queries in flight or queued.
    asked: usize,
    /// Clients with a query or unsent bytes.
    busy: u64,
    next_sweep: Instant,
    is_retired: bool,
    /// Buffers of ended queries.
    spare: Vec<Vec<u8>>,
}

impl Streams {
    /// The TCP side of a pool, for at most `connections_max` clients. Each `secret` and `seed` is random.
    pub fn new(shared: &Arc<DatagramShared>, connections_max: usize, secret: [u8; 16], seed: u64) -> Streams {
        let settings = shared.pool.worker_settings();
        let slots = settings.settings.servers_max;
        Streams {
            view: View::new(slots, &[]),
            selector: Selector::new(settings.settings.policy, seed, !seed),
            stats: Arc::clone(shared.stats.last().expect("the TCP side has counters")),
            key: QuestionKey::new(secret),
            connections_max,
            clients: LruSlab::new(connections_max),
            upstreams: LruSlab::new(connections_max + UPSTREAMS_SPARE),
            queries: LruSlab::new(QUERIES_MAX),
            by_slot: (0..slots).map(|_| ServerConnections::default()).collect(),
            queue: VecDeque::new(),
            sources: Sources::default(),
            actions: VecDeque::new(),
            changed: vec![],
            generation: 0,
            buffered: 0,
            asked: 0,
            busy: 0,
            next_sweep: Instant::ZERO,
            is_retired: false,
            spare: vec![],
            shared: Arc::clone(shared),
            settings,
        }
    }

    /// The pool.
    pub fn shared(&self) -> &Arc<DatagramShared> {
        &self.shared
    }

    /// A client has connected to the address `local`. `None`: the connection must be closed.
    pub fn accept(&mut self, now: Instant, peer: SocketAddr, local: SocketAddr) -> Option<ConnectionId> {
        self.begin(now);
        let id = self.admit(now, peer, local);
        if id.is_none() {
            self.shared.tcp.refused.add(1);
        }
        id
    }

    fn admit(&mut self, now: Instant, peer: SocketAddr, local: SocketAddr) -> Option<ConnectionId> {
        let CurrentSettings { settings, gate } = &*self.settings;
        let per_source = settings.tcp_connections_per_source;
        if self.is_retired || !gate.access.admits(peer.ip()) {
            return None;
        }
        if !self.sources.admit(peer.ip(), per_source) {
            return None;
        }
        if self.clients.len() >= self.connections_max && !self.make_room(now) {
            self.sources.leave(peer.ip());
            return None;
        }
        let generation = self.next_generation();
        let key = self.clients.insert(now, Client::new(generation, peer, local))?;
        self.shared.tcp.opened.add(1);
        self.shared.tcp.open.set(self.clients.len() as u64);
        Some(ConnectionId::Client { key, generation })
    }

    /// Closes the idle connection with the oldest progress; false if there is none. For a new connection, or
    /// if the process has no file descriptor left.
    pub fn make_room(&mut self, now: Instant) -> bool {
        for _ in 0..SCAN_MAX.min(self.clients.len()) {
            let Some((key, _)) = self.clients.oldest() else { return false };
            let Some(client) = self.clients.get(key) else { return false };
            if client.open == 0 {
                let id = ConnectionId::Client { key, generation: client.generation };
                self.close_client(now, id);
                return true;
            }
            self.clients.touch(now, key);
        }
        false
    }

    /// A connection carried bytes.
    pub fn on_bytes(&mut self, now: Instant, id: ConnectionId, bytes: &[u8]) {
        self.begin(now);
        match id {
            ConnectionId::Client { .. } => self.on_client_bytes(now, id, bytes),
            ConnectionId::Server { key, generation } => self.on_server_bytes(now, key, generation, bytes),
        }
        self.settle(now);
    }

    /// The peer sends nothing more.
    pub fn on_end(&mut self, now: Instant, id: ConnectionId) {
        self.begin(now);
        match id {
            ConnectionId::Client { .. } => {
                if let Some(client) = self.client_mut(id) {
                    client.is_ended = true;
                    self.note_change(id);
                }
            }
            ConnectionId::Server { key, generation } => self.on_server_gone(now, key, generation),
        }
        self.settle(now);
    }

    /// A connection has failed, or could not be made.
    pub fn on_failed(&mut self, now: Instant, id: ConnectionId) {
        self.begin(now);
        match id {
            ConnectionId::Client { .. } => self.close_client(now, id),
            ConnectionId::Server { key, generation } => self.on_server_gone(now, key, generation),
        }
        self.settle(now);
    }

    /// Bytes that are to be sent on a connection.
    pub fn unsent(&self, id: ConnectionId) -> &[u8] {
        match id {
            ConnectionId::Client { .. } => self.client(id).map_or(&[], |client| client.out.bytes()),
            ConnectionId::Server { key, generation } => {
                self.upstream(key, generation).map_or(&[], |upstream| upstream.out.bytes())
            }
        }
    }

    /// The first `count` of [`Streams::unsent`] bytes have left.
    pub fn on_sent(&mut self, now: Instant, id: ConnectionId, count: usize) {
        match id {
            ConnectionId::Client { key, .. } => {
                let Some(client) = self.client_mut(id) else { return };
                client.out.consume(count);
                self.clients.touch(now, key);
                self.note_change(id);
                self.settle(now);
            }
            ConnectionId::Server { key, generation } => {
                if let Some(upstream) = self.upstream_mut(key, generation) {
                    upstream.out.consume(count);
                }
            }
        }
    }

    /// Whether the connection should be read. If not, [`Action::Resume`] follows.
    pub fn wants_bytes(&mut self, id: ConnectionId) -> bool {
        match id {
            ConnectionId::Client { .. } => {
                let Some(client) = self.client_mut(id) else { return false };
                client.is_paused = !client.wants_bytes();
                !client.is_paused
            }
            ConnectionId::Server { key, generation } => self.wants_server_bytes(key, generation),
        }
    }

    /// What is to be done next; `None` when all is done.
    pub fn poll_action(&mut self) -> Option<Action> {
        let action = self.actions.pop_front()?;
        if let Action::Send(id) = action {
            match id {
                ConnectionId::Client { .. } => {
                    if let Some(client) = self.client_mut(id) {
                        client.has_send = false;
                    }
                }
                ConnectionId::Server { key, generation } => {
                    if let Some(upstream) = self.upstream_mut(key, generation) {
                        upstream.has_send = false;
                    }
                }
            }
        }
        Some(action)
    }

    /// Time passes, or [`super::StreamLink`] woke the driver.
    pub fn on_tick(&mut self, now: Instant) {
        self.begin(now);
        if self.shared.streams.is_retired() && !self.is_retired {
            self.retire(now);
        }
        self.take_grants(now);
        self.expire_queries(now);
        self.expire_clients(now);
        if now >= self.next_sweep {
            self.next_sweep = now + TICK_IDLE;
            self.sweep_upstreams(now);
        }
        self.settle(now);
        self.stats.common.waiting.set(self.queue.len() as u64);
    }

    /// The time until [`Streams::on_tick`] has something to do; `None`: only after another event.
    pub fn period(&self) -> Option<Duration> {
        let settings = &self.settings.settings;
        if !self.queue.is_empty() {
            Some(TICK_WAITING)
        } else if !self.queries.is_empty() {
            Some(TICK_BUSY.min(settings.timeout))
        } else if !self.clients.is_empty() || !self.upstreams.is_empty() {
            Some(TICK_IDLE.min(settings.tcp_idle_timeout / 4))
        } else {
            None
        }
    }

    /// Whether it was retired and all connections have ended.
    pub fn is_over(&self) -> bool {
        self.is_retired && self.clients.is_empty() && self.queries.is_empty()
    }

    /// Copies what other threads have changed.
    fn begin(&mut self, now: Instant) {
        self.selector.begin_turn(now);
        if let Some(old) = self.settings.adopt()
            && old.settings.policy != self.settings.settings.policy
        {
            self.selector.set_policy(self.settings.settings.policy);
        }
        self.view.refresh(&self.shared.pool.members, |_, _| {});
    }

    fn next_generation(&mut self) -> u32 {
        self.generation = self.generation.wrapping_add(1);
        self.generation
    }

    fn client(&self, id: ConnectionId) -> Option<&Client> {
        let ConnectionId::Client { key, generation } = id else { return None };
        self.clients.get(key).filter(|client| client.generation == generation)
    }

    fn client_mut(&mut self, id: ConnectionId) -> Option<&mut Client> {
        let ConnectionId::Client { key, generation } = id else { return None };
        self.clients.get_mut(key).filter(|client| client.generation == generation)
    }

    /// A client must be looked at by [`Streams::settle`].
    fn note_change(&mut self, id: ConnectionId) {
        if let Some(client) = self.client_mut(id)
            && !std::mem::replace(&mut client.is_changed, true)
        {
            self.changed.push(id);
        }
    }

    fn on_client_bytes(&mut self, now: Instant, id: ConnectionId, bytes: &[u8]) {
        let Some(client) = self.client_mut(id) else { return };
        if client.is_cut {
            return;
        }
        // Whole messages are not copied.
        let used = if client.held.is_empty() { self.take_queries(now, id, bytes) } else { 0 };
        if let Some(client) = self.client_mut(id) {
            client.held.append(&bytes[used..]);
            self.note_change(id);
        }
    }

    /// Takes the queries at the begin of these bytes, as far as the client may ask; returns their length.
    fn take_queries(&mut self, now: Instant, id: ConnectionId, bytes: &[u8]) -> usize {
        let mut used = 0;
        while self.client(id).is_some_and(Client::may_ask)
            && let Some(message) = first_message(&bytes[used..])
        {
            used += LENGTH_LEN + message.len();
            self.on_query(now, id, message);
        }
        used
    }

    fn on_query(&mut self, now: Instant, id: ConnectionId, message: &[u8]) {
        let stats = Arc::clone(&self.stats);
        stats.common.received.add(1);
        let Some(ConnectionId::Client { key, .. }) = Some(id) else { return };
        self.clients.touch(now, key);
        let asked = match Asked::of(message, &self.key) {
            Ok(asked) => Ok(asked),
            Err(dns::Malformed::Question) => Err(OwnAnswer::NotOneQuestion),
            Err(malformed) => {
                let is_answer = malformed == dns::Malformed::Response;
                let reason = if is_answer { DropReason::AnAnswer } else { DropReason::Malformed };
                stats.common.refused.add(reason, 1);
                return self.close_client(now, id);
            }
        };
        let Some(client) = self.client(id) else { return };
        let source = client.peer.ip();
        let gate = &self.settings.gate;
        if !gate.access.admits(source) {
            stats.common.refused.add(DropReason::Denied, 1);
            return self.close_client(now, id);
        }
        if gate.sketch.as_ref().is_some_and(|sketch| !sketch.allow(source, now)) {
            stats.common.refused.add(DropReason::Rate, 1);
            return self.answer(id, message, OwnAnswer::Rate);
        }
        let asked = match asked {
            Ok(asked) => asked,
            Err(own_answer) => {
                stats.common.refused.add(DropReason::Malformed, 1);
                return self.answer(id, message, own_answer);
            }
        };
        let is_greedy = client.asked + message.len() > UNSENT_MAX;
        if self.asked + message.len() > if is_greedy { ASKED_MAX } else { 2 * ASKED_MAX } {
            stats.common.refused.add(DropReason::TableFull, 1);
            return self.servfail(id, message, OwnAnswer::TableFull);
        }
        let opcode = dns::opcode(message);
        let transfer = dns::query(message)
            .ok()
            .map(|question| question.kind)
            .filter(|kind| opcode == OPCODE_QUERY && [AXFR, IXFR].contains(kind))
            .map(TransferProgress::new);
        let mut bytes = self.spare.pop().unwrap_or_default();
        bytes.extend_from_slice(message);
        let query = StreamQuery {
            client: id,
            client_id: dns::id(message),
            asked,
            transfer,
            bytes,
            place: Place::New,
            arrived: now,
            is_repeatable: opcode == OPCODE_QUERY,
            is_answered: false,
            tries: 0,
        };
        let Some(query) = self.queries.insert(now, query) else {
            stats.common.refused.add(DropReason::TableFull, 1);
            return self.servfail(id, message, OwnAnswer::TableFull);
        };
        self.asked += message.len();
        if let Some(client) = self.client_mut(id) {
            client.open += 1;
            client.asked += message.len();
        }
        stats.in_flight.add(1);
        self.place_in_turn(now, query);
    }

    /// Ends a query with the balancer's own answer, as refused.
    fn refuse(&mut self, query: Key, reason: DropReason, why: OwnAnswer) {
        let Some(query) = self.finish(query) else { return };
        self.stats.common.refused.add(reason, 1);
        self.servfail(query.client, &query.bytes, why);
        self.recycle(query.bytes);
    }

    fn servfail(&mut self, id: ConnectionId, query: &[u8], why: OwnAnswer) {
        self.stats.servfail.add(1);
        self.answer(id, query, why);
    }

    fn answer(&mut self, id: ConnectionId, query: &[u8], own_answer: OwnAnswer) {
        let mut bytes = [0; OWN_ANSWER_MAX];
        let len = own_answer.write(query, &mut bytes);
        self.send_to_client(id, dns::id(query), &bytes[..len]);
    }

    /// Appends a message to what a client is sent; false if the client is gone.
    fn send_to_client(&mut self, id: ConnectionId, message_id: u16, message: &[u8]) -> bool {
        let Some(client) = self.client_mut(id) else { return false };
        client.out.append_message(message_id, message);
        if !std::mem::replace(&mut client.has_send, true) {
            self.actions.push_back(Action::Send(id));
        }
        self.note_change(id);
        true
    }

    /// Removes a query that has ended. Its place is empty already.
    fn finish(&mut self, query: Key) -> Option<StreamQuery> {
        let query = self.queries.remove(query)?;
        if !query.is_answered {
            let in_flight = &self.stats.in_flight;
            in_flight.set(in_flight.get().saturating_sub(1));
        }
        self.asked -= query.bytes.len();
        if let Some(client) = self.client_mut(query.client) {
            client.open -= 1;
            client.asked -= query.bytes.len();
            self.note_change(query.client);
        }
        Some(query)
    }

    fn recycle(&mut self, mut bytes: Vec<u8>) {
        if self.spare.len() < SPARE_MAX && bytes.capacity() <= SPARE_LEN_MAX {
            bytes.clear();
            self.spare.push(bytes);
        }
    }

    /// Does what follows from what has happened: further queries of clients, queued queries, connections that
    /// have ended, connections that may be read again.
    fn settle(&mut self, now: Instant) {
        loop {
            while let Some(id) = self.changed.pop() {
                self.settle_client(now, id);
            }
            self.serve_queue(now);
            if self.changed.is_empty() {
                return;
            }
        }
    }

    fn settle_client(&mut self, now: Instant, id: ConnectionId) {
        let Some(client) = self.client_mut(id) else { return };
        client.is_changed = false;
        if client.is_cut {
            client.held.clear();
        } else if !client.held.is_empty() && client.may_ask() {
            let mut held = std::mem::take(&mut client.held);
            let used = self.take_queries(now, id, held.bytes());
            held.consume(used);
            let Some(client) = self.client_mut(id) else { return };
            client.held = held;
        }
        let Some(client) = self.client_mut(id) else { return };
        if client.is_over() {
            return self.close_client(now, id);
        }
        let (buffered, before) = (client.out.len() + client.held.len(), client.buffered);
        client.buffered = buffered;
        let is_busy = client.open > 0 || !client.out.is_empty();
        let was_busy = std::mem::replace(&mut client.is_busy, is_busy);
        let may_resume = client.is_paused && client.wants_bytes();
        client.is_paused &= !may_resume;
        let can_take = client.out.len() < UNSENT_MAX;
        self.buffered = self.buffered + buffered - before;
        self.count_busy(was_busy, is_busy);
        if may_resume {
            self.actions.push_back(Action::Resume(id));
        }
        if can_take {
            self.resume_transfers(id);
        }
        if self.buffered > BUFFERED_MAX && buffered > UNSENT_MAX {
            self.close_client(now, id);
        }
    }

    fn count_busy(&mut self, was: bool, is: bool) {
        self.busy = self.busy + u64::from(is) - u64::from(was);
        self.shared.tcp.busy.set(self.busy);
    }

    /// Closes a client's connection. Its queries that are with a server end there.
    fn close_client(&mut self, now: Instant, id: ConnectionId) {
        let ConnectionId::Client { key, .. } = id else { return };
        if self.client(id).is_none() {
            return;
        }
        let Some(client) = self.clients.remove(key) else { return };
        self.sources.leave(client.peer.ip());
        self.buffered -= client.buffered;
        self.count_busy(client.is_busy, false);
        self.shared.tcp.open.set(self.clients.len() as u64);
        self.actions.push_back(Action::Close(id));
        for upstream in client.owned {
            self.drop_upstream(now, upstream);
        }
    }

    /// Gives up queries without an answer in time.
    fn expire_queries(&mut self, now: Instant) {
        let timeout = self.settings.settings.timeout;
        while let Some((key, since)) = self.queries.oldest()
            && since + timeout <= now
        {
            let Some(query) = self.queries.get(key) else { return };
            match query.place {
                Place::New | Place::Queued { .. } => self.expire_queued(key),
                Place::Sent { .. } if query.transfer.is_some() => self.queries.touch(now, key),
                Place::Sent { .. } => self.time_out(now, key),
            }
        }
    }

    /// Closes clients without progress. One that waits for servers, or for a transfer, is not idle.
    fn expire_clients(&mut self, now: Instant) {
        let idle = self.settings.settings.tcp_idle_timeout;
        while let Some((key, since)) = self.clients.oldest()
            && since + idle <= now
        {
            let Some(client) = self.clients.get(key) else { return };
            if client.open > 0 && client.out.is_empty() {
                self.clients.touch(now, key);
            } else {
                let id = ConnectionId::Client { key, generation: client.generation };
                self.close_client(now, id);
            }
        }
    }

    /// From now on no client is read. Each connection ends after the answers that it is owed.
    fn retire(&mut self, now: Instant) {
        self.is_retired = true;
        for _ in 0..self.clients.len() {
            let Some((key, since)) = self.clients.oldest() else { break };
            self.clients.touch(since, key);
            if let Some(client) = self.clients.get_mut(key) {
                client.cut();
                let id = ConnectionId::Client { key, generation: client.generation };
                self.note_change(id);
            }
        }
        self.sweep_upstreams(now);
    }

    /// Panics, with the numbers, if what must hold between two calls does not.
    pub fn check_invariants(&self) {
        self.clients.check_invariants();
        self.queries.check_invariants();
        self.upstreams.check_invariants();
        let (stats, in_flight) = (&self.stats, self.stats.in_flight.get());
        let ended = stats.common.answered.get() + stats.timed_out.get() + stats.common.refused.total();
        let received = stats.common.received.get();
        assert_eq!(received, ended + in_flight, "queries received; {ended} ended, {in_flight} in flight");
        assert!(self.changed.is_empty(), "{} clients are not settled", self.changed.len());
        let clients = (0..self.clients.capacity()).filter_map(|at| self.clients.get(Key::at(at)));
        let asked: usize = clients.map(|client| client.asked).sum();
        assert!(asked <= self.asked, "bytes of queries: {asked} of clients, {} in all", self.asked);
        assert!(self.asked == 0 || !self.queries.is_empty(), "{} bytes of no query", self.asked);
        let sent = self.queries.len() - self.queue.len();
        assert_eq!(self.ids_in_use(), sent, "ids in use, and queries that are not queued");
    }
}
