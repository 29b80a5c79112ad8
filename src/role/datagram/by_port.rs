//! Matching of unknown protocols: by the port and the server of a request.
//!
//! | | duration of a lease | server of a client's datagram |
//! |---|---|---|
//! | requests | while requests of its client are in flight there | the one with the shortest queue |
//! | flows (`affinity: client`) | until the idle timeout, or the timeout without a response | the flow's |
//! | one-way (`replies: 0`) | none, unless with affinity | the shortest queue, or the flow's |
//!
//! Requests of one client to one server share a lease: each response is that client's in any case. The client
//! tells its requests apart as if it had sent them to the server itself.

use std::net::SocketAddr;
use std::time::Duration;

use super::adopted_flows::{AdoptedFlows, MovedFlow};
use super::forward::{DatagramPurpose, Forwarder, Way};
use super::handover::{Flow, FlowLease, RestingPair};
use super::in_flight::InFlight;
use super::leases::{LeaseEnd, Leases, Owner, Pair, PairRecord};
use super::request::{DatagramClient, DatagramRequest, Handled, Response};
use super::settings::{ANSWER_LATEST, Affinity, UNANSWERED_REST, flows_per_source};
use super::shared::DatagramMember;
use crate::base::batch::{SocketId, Tx};
use crate::base::drop_reason::DropReason;
use crate::base::lru_slab::{Key, LruSlab};
use crate::base::time::{Instant, earliest};
use crate::pool::select::Slot;
use crate::pool::waiting::NotQueued;

/// Maximum number of requests in flight at one worker.
const REQUESTS_MAX: usize = 65_536;
/// The shortest quarantine of an answered pair, where it is measured.
pub(super) const HOLD_MIN: Duration = Duration::from_millis(50);

/// Each server keeps this part of its pairs for sources with few flows.
const SPARE_PART: usize = 8;
/// Pairs that are drawn to find a source with many flows.
const DRAWS: usize = 32;
/// Flows of a source that holds fewer never give way.
const HELD_MIN: u32 = 4;

/// A request in flight.
struct PortRequest {
    pair: Pair,
    /// The next request of the same lease.
    next: Option<Key>,
    /// The time at which it, or the last datagram of its flow, was sent.
    sent: Instant,
}

/// The use of a pair by its lease.
#[derive(Clone, Copy, Debug, Default)]
struct Use {
    /// The oldest request of the lease; `None` of a flow.
    first: Option<Key>,
    /// The youngest request of the lease, or its flow.
    last: Option<Key>,
    /// Reply allowance: datagrams that the server may still send to the client.
    credit: u32,
    /// The epoch of the server; 0 before the first datagram.
    epoch: u32,
    /// Whether the server has sent something.
    is_answered: bool,
}

/// The leases of one worker.
pub(super) struct ByPort {
    leases: Leases,
    uses: Box<[Use]>,
    /// Requests, or flows that the server has not answered, by age.
    waiting: LruSlab<PortRequest>,
    /// Flows that it has answered, by the time of their last datagram.
    flows: LruSlab<Pair>,
    /// Flows of a predecessor.
    adopted: AdoptedFlows,
    affinity: Affinity,
    hold: Duration,
    /// The time of the last datagram of any flow that its server has answered.
    last_flow: Instant,
    /// The client of this turn's last datagram, and its port: its next lease gets that port if it is free.
    hint: Option<(DatagramClient, u16)>,
    /// The number of the change of members up to which flows of departed servers have ended.
    members_seen: u64,
}

impl ByPort {
    pub fn new(core: &Forwarder, secret: [u8; 16]) -> Self {
        let settings = &core.settings;
        let ports = core.sockets.v4.len().max(core.sockets.v6.len());
        let slots = settings.servers_max;
        let pairs = ports * slots;
        let (requests, flows) = match settings.affinity {
            Affinity::None => (REQUESTS_MAX, 0),
            Affinity::Client => (pairs, pairs),
        };
        let (waiting, flows) = (LruSlab::new(requests), LruSlab::new(flows));
        ByPort {
            leases: Leases::new(ports, slots, secret),
            uses: vec![Use::default(); pairs].into(),
            waiting,
            adopted: AdoptedFlows::new(flows.capacity()),
            flows,
            affinity: settings.affinity,
            hold: settings.hold.unwrap_or(HOLD_MIN),
            last_flow: Instant::ZERO,
            hint: None,
            members_seen: 0,
        }
    }

    /// Touches the memory of the tables, so that a flood causes no page faults.
    pub fn fault_in(&mut self) {
        self.waiting.fault_in();
        self.flows.fault_in();
    }

    /// Adopts new settings of the pool.
    pub fn adopt(&mut self, core: &Forwarder) {
        if let Some(hold) = core.settings.hold {
            self.hold = hold;
        }
    }

    /// Begins a turn.
    pub fn begin(&mut self) {
        self.hint = None;
    }

    /// Sends or queues a client's datagram, or refuses it.
    pub fn on_client(&mut self, core: &mut Forwarder, request: DatagramRequest<'_>, tx: &mut Tx) -> Handled {
        match (self.affinity, core.settings.replies) {
            (Affinity::Client, _) => self.on_flow(core, request, tx),
            (Affinity::None, Some(0)) => one_way(core, request, tx),
            (Affinity::None, _) => self.on_request(core, request, tx),
        }
    }

    fn on_request(&mut self, core: &mut Forwarder, request: DatagramRequest<'_>, tx: &mut Tx) -> Handled {
        match core.reserve_for_trial().map_or_else(|| core.reserve_in_turn(), Ok) {
            Ok(server) => self.send_request(core, request, server, tx),
            Err(DropReason::ServersFull) => core.queue(&request).map_err(|NotQueued| DropReason::ServersFull),
            Err(reason) => Err(reason),
        }
    }

    /// Sends the first datagram of a request or flow to the server that was reserved for it. Releases the
    /// server if that fails.
    fn send_first(
        &mut self,
        core: &mut Forwarder,
        request: &DatagramRequest<'_>,
        (slot, member): (Slot, DatagramMember),
        tx: &mut Tx,
    ) -> Result<Pair, DropReason> {
        let (owner_slot, purpose) = match self.affinity {
            Affinity::None => (Some(slot), DatagramPurpose::Request),
            Affinity::Client => (None, DatagramPurpose::First),
        };
        let now = request.now;
        let Some(pair) = self.lease(now, Owner { client: request.client, slot: owner_slot }, slot) else {
            core.release(slot);
            return Err(DropReason::NoPort);
        };
        let way = self.way(core, pair, &member, purpose);
        if let Err(reason) = core.forward(request, &way, tx) {
            core.release(slot);
            self.rest_if_done(now, pair, now, core);
            return Err(reason);
        }
        Ok(pair)
    }

    /// Sends a request to the server that was reserved for it.
    pub fn send_request(
        &mut self,
        core: &mut Forwarder,
        request: DatagramRequest<'_>,
        (slot, member): (Slot, DatagramMember),
        tx: &mut Tx,
    ) -> Handled {
        if self.waiting.is_full() {
            core.release(slot);
            return Err(DropReason::TableFull);
        }
        let now = request.now;
        let pair = self.send_first(core, &request, (slot, member), tx)?;
        let key =
            self.waiting.insert(now, PortRequest { pair, next: None, sent: now }).expect("there is room");
        let used = &mut self.uses[pair.index()];
        match used.last.replace(key) {
            None => used.first = Some(key),
            Some(last) => self.waiting.get_mut(last).expect("the request is in the table").next = Some(key),
        }
        used.epoch = member.epoch;
        used.credit = used.credit.saturating_add(core.settings.replies.unwrap_or(1));
        Ok(())
    }

    fn on_flow(&mut self, core: &mut Forwarder, request: DatagramRequest<'_>, tx: &mut Tx) -> Handled {
        let now = request.now;
        let owner = Owner { client: request.client, slot: None };
        let live = self.leases.of(&owner).filter(|&pair| self.leases.is_busy(pair));
        if let Some(pair) = live {
            let slot = self.leases.slot(pair);
            let used = self.uses[pair.index()];
            let member = core.view.get(slot).filter(|m| m.epoch == used.epoch && m.extra.keeps_flows);
            if let Some(&member) = member {
                let way = self.way(core, pair, &member, DatagramPurpose::Later);
                core.forward(&request, &way, tx)?;
                self.last_flow = now;
                self.uses[pair.index()].credit =
                    used.credit.saturating_add(core.settings.replies.unwrap_or(1));
                match used.last {
                    Some(key) if used.is_answered => self.flows.touch(now, key),
                    Some(key) => {
                        if let Some(flow) = self.waiting.get_mut(key) {
                            flow.sent = now;
                        }
                    }
                    None => {}
                }
                return Ok(());
            }
            self.end_flow(core, now, pair, Duration::ZERO); // its server has left or is down
        }
        self.open_flow(core, request, tx)
    }

    fn open_flow(&mut self, core: &mut Forwarder, request: DatagramRequest<'_>, tx: &mut Tx) -> Handled {
        let source = request.client.addr.ip();
        let held = core.count_flow(source);
        let outcome = match held > self.flows_of_source_max(core) {
            true => Err(DropReason::FlowsPerSource),
            false => self.open_counted_flow(core, request, held, tx),
        };
        if outcome.is_err() {
            core.forget_flow(source);
        }
        outcome
    }

    /// The maximum number of flows of one source, at all workers together.
    fn flows_of_source_max(&self, core: &Forwarder) -> u32 {
        core.settings.flows_per_source.unwrap_or_else(|| {
            flows_per_source(self.leases.ports() * core.settings.workers * core.view.member_count())
        })
    }

    /// Opens a flow of a source that holds `held` flows with this one.
    fn open_counted_flow(
        &mut self,
        core: &mut Forwarder,
        request: DatagramRequest<'_>,
        held: u32,
        tx: &mut Tx,
    ) -> Handled {
        let now = request.now;
        let moved = self.adopted.take(now, &request.client);
        let known = moved.and_then(|flow| Some((flow, core.reserve_known(flow.server)?)));
        let ((slot, member), was_answered) = match known {
            Some((flow, server)) => (server, flow.is_answered),
            None => (core.reserve_for_trial().map_or_else(|| core.reserve(), Ok)?, false),
        };
        // No response to a one-way flow is expected.
        let is_answered = core.settings.replies == Some(0) || was_answered;
        let yielding = match self.yielding(core, now, (slot, held), is_answered) {
            Ok(yielding) => yielding,
            Err(reason) => {
                core.release(slot);
                return Err(reason);
            }
        };
        let opened = self.send_first(core, &request, (slot, member), tx);
        if let Some(pair) = yielding.filter(|_| opened.is_ok() || self.leases.resting(slot) < self.spare()) {
            self.end_flow(core, now, pair, Duration::ZERO);
        }
        let pair = opened?;
        let used = &mut self.uses[pair.index()];
        used.epoch = member.epoch;
        used.is_answered = is_answered;
        used.credit = core.settings.replies.unwrap_or(1);
        used.last = if is_answered {
            self.flows.insert(now, pair)
        } else {
            core.owe(now, slot);
            self.waiting.insert(now, PortRequest { pair, next: None, sent: now })
        };
        core.stats.flows_opened.add(1);
        core.stats.flows.add(1);
        Ok(())
    }

    /// The pairs of each server that are kept for sources with few flows.
    fn spare(&self) -> usize {
        self.leases.ports() / SPARE_PART
    }

    /// The flow that gives way to a new flow of a source that holds `held` flows with it; `None` if there is
    /// room. The error refuses the new flow.
    ///
    /// A pair whose flow ends is in quarantine first. So flows give way before the last pair is taken.
    fn yielding(
        &mut self,
        core: &mut Forwarder,
        now: Instant,
        (slot, held): (Slot, u32),
        is_answered: bool,
    ) -> Result<Option<Pair>, DropReason> {
        let ports = self.leases.ports();
        let unanswered = core.owed_by(slot) as usize + self.leases.unanswered(now, slot);
        let has_too_many_unanswered = !is_answered && unanswered >= ports.div_ceil(2);
        let is_crowded = self.leases.busy(slot) + self.spare() >= ports;
        if !has_too_many_unanswered && !is_crowded {
            return Ok(None);
        }
        if !is_answered && unanswered >= ports - ports / 4 {
            return Err(DropReason::FlowsFull);
        }
        let flow_of = |pair: &Pair| !has_too_many_unanswered || !self.uses[pair.index()].is_answered;
        // A source that holds a tenth of the pairs is among them with a probability of 97 %.
        let drawn = (0..DRAWS).map(|_| self.leases.pair(core.secret_rng.below(ports as u16), slot));
        let most = drawn
            .filter(flow_of)
            .filter_map(|pair| {
                let source = self.leases.busy_owner(pair)?.client.addr.ip();
                Some((core.shared.flows_of(source), pair))
            })
            .max_by_key(|(count, _)| *count);
        match most {
            Some((count, pair)) if count >= (2 * held).max(HELD_MIN) => Ok(Some(pair)),
            _ if has_too_many_unanswered || held >= HELD_MIN => Err(DropReason::FlowsFull),
            _ => Ok(None),
        }
    }

    /// The live flows, and the adopted flows whose clients have not sent a datagram yet.
    pub fn export(&self, core: &Forwarder, now: Instant) -> Vec<Flow> {
        if self.affinity != Affinity::Client {
            return vec![];
        }
        let flow = |client: &DatagramClient, flow: &MovedFlow, lease: Option<FlowLease>| Flow {
            client: client.addr,
            front: core.front_addr(client.front),
            front_id: client.front.0,
            local_ip: core.shared.pool.locals.get(client.local),
            server: flow.server,
            is_answered: flow.is_answered,
            lease,
        };
        let live = |pair: Pair| {
            let used = &self.uses[pair.index()];
            let record = self.leases.record(now, pair).filter(|record| record.rest.is_none())?;
            let server = self.server_of(core, pair)?;
            let key = used.last?;
            let (since, sent) = match used.is_answered {
                true => (self.flows.since(key)?, self.flows.since(key)?),
                false => (self.waiting.since(key)?, self.waiting.get(key)?.sent),
            };
            let (port, returns, credit) = (self.leases.port(pair), record.returns, used.credit);
            let moved = MovedFlow { server, is_answered: used.is_answered };
            Some(flow(&record.owner.client, &moved, Some(FlowLease { port, returns, credit, since, sent })))
        };
        let moved = self.adopted.iter().map(|(client, moved)| flow(client, moved, None));
        self.leases.pairs().filter_map(live).chain(moved).collect()
    }

    /// The server of a pair, if it is the one with which the pair was last used.
    fn server_of(&self, core: &Forwarder, pair: Pair) -> Option<SocketAddr> {
        let member = core.view.get(self.leases.slot(pair))?;
        (member.epoch == self.uses[pair.index()].epoch).then_some(member.addr)
    }

    /// The pairs in quarantine: late datagrams for their owners may still arrive.
    pub fn export_resting(&self, core: &Forwarder, now: Instant) -> Vec<RestingPair> {
        if self.affinity != Affinity::Client {
            return vec![];
        }
        let resting = |pair: Pair| {
            let PairRecord { owner, returns, rest } = self.leases.record(now, pair)?;
            let ((row, until), used) = (rest?, &self.uses[pair.index()]);
            Some(RestingPair {
                client: owner.client.addr,
                front: core.front_addr(owner.client.front),
                front_id: owner.client.front.0,
                local_ip: core.shared.pool.locals.get(owner.client.local),
                server: self.server_of(core, pair)?,
                port: self.leases.port(pair),
                row,
                until,
                returns,
                credit: used.credit,
                is_answered: used.is_answered,
            })
        };
        self.leases.pairs().filter_map(resting).collect()
    }

    /// Continues flows of a predecessor on its own ports, those that rest included. Each flow has its lease.
    pub fn continue_from(
        &mut self,
        core: &mut Forwarder,
        now: Instant,
        mut flows: Vec<Flow>,
        mut resting: Vec<RestingPair>,
    ) {
        if self.affinity != Affinity::Client {
            return;
        }
        flows.sort_by_key(|flow| flow.lease.map(|lease| lease.since));
        for flow in &flows {
            self.continue_flow(core, now, flow);
        }
        resting.sort_by_key(|pair| pair.until);
        for rests in &resting {
            let local = core.shared.pool.locals.number(rests.local_ip);
            let client = DatagramClient { addr: rests.client, front: SocketId(rests.front_id), local };
            let Some((pair, epoch)) = self.pair_at(core, rests.server, rests.port) else { continue };
            let (owner, rest) = (Owner { client, slot: None }, Some((rests.row, rests.until)));
            if self.leases.restore(pair, &PairRecord { owner, returns: rests.returns, rest }) {
                let (credit, is_answered) = (rests.credit, rests.is_answered);
                self.uses[pair.index()] = Use { credit, epoch, is_answered, ..Use::default() };
            }
        }
    }

    fn continue_flow(&mut self, core: &mut Forwarder, now: Instant, flow: &Flow) {
        let Flow { client, front_id, local_ip, server, is_answered, lease, .. } = *flow;
        let local = core.shared.pool.locals.number(local_ip);
        let client = DatagramClient { addr: client, front: SocketId(front_id), local };
        let Some(FlowLease { port, returns, credit, since, sent }) = lease else { return };
        let Some((pair, epoch)) = self.pair_at(core, server, port) else { return };
        let owner = Owner { client, slot: None };
        if !self.leases.restore(pair, &PairRecord { owner, returns, rest: None }) {
            return;
        }
        let slot = self.leases.slot(pair);
        core.shared.pool.tree.adjust(slot, 1);
        core.count_flow(client.addr.ip());
        let last = if is_answered {
            self.last_flow = self.last_flow.max(since);
            self.flows.insert(since, pair)
        } else {
            core.owe(now, slot);
            self.waiting.insert(since, PortRequest { pair, next: None, sent })
        };
        self.uses[pair.index()] = Use { first: None, last, credit, epoch, is_answered };
        core.stats.flows.add(1);
    }

    /// The pair of a port and the server at this address, and the server's epoch.
    fn pair_at(&self, core: &Forwarder, server: SocketAddr, port: u16) -> Option<(Pair, u32)> {
        let slot = core.view.slot_of(server)?;
        let member = core.view.get(slot).filter(|member| member.addr == server)?;
        let has_port = usize::from(port) < core.ports_to(server).len();
        has_port.then(|| (self.leases.pair(port, slot), member.epoch))
    }

    /// Has the pairs of a server rest that are not in use: the server had left the predecessor, whose ports
    /// these are.
    pub fn rest_all(&mut self, core: &Forwarder, server: SocketAddr, until: Instant) {
        if let Some(slot) = core.view.slot_of(server) {
            self.leases.rest_all(slot, until);
        }
    }

    /// Adopts flows of a predecessor, which keep their server and get other ports.
    pub fn import(&mut self, core: &mut Forwarder, now: Instant, flows: &[Flow]) {
        let until = now + core.settings.idle_timeout;
        for &Flow { client, front_id, local_ip, server, is_answered, .. } in flows {
            let local = core.shared.pool.locals.number(local_ip);
            let client = DatagramClient { addr: client, front: SocketId(front_id), local };
            self.adopted.add(until, client, MovedFlow { server, is_answered });
        }
    }

    /// The pair that the owner has at a server, or a free pair there; `None` if there is none.
    fn lease(&mut self, now: Instant, owner: Owner, slot: Slot) -> Option<Pair> {
        let port = self.hint.filter(|(client, _)| *client == owner.client).map(|(_, port)| port);
        let own = self.leases.of(&owner).filter(|&pair| self.leases.slot(pair) == slot);
        let pair = match own {
            Some(pair) => {
                let rests = self.leases.owner(now, pair).is_some();
                self.leases.retake(pair);
                let used = &mut self.uses[pair.index()];
                if !rests {
                    *used = Use::default(); // in quarantine, late responses are still the owner's
                }
                pair
            }
            None => {
                let pair = self.leases.take(now, owner, slot, port)?;
                self.uses[pair.index()] = Use::default();
                pair
            }
        };
        self.hint = Some((owner.client, self.leases.port(pair)));
        Some(pair)
    }

    fn way(&self, core: &Forwarder, pair: Pair, member: &DatagramMember, purpose: DatagramPurpose) -> Way {
        let from = SocketId(core.ports_to(member.addr).start + self.leases.port(pair));
        Way { slot: self.leases.slot(pair), server: member.addr, from, purpose }
    }

    /// Handles a datagram that arrived at a server-side port.
    pub fn on_server(&mut self, core: &mut Forwarder, response: Response<'_>, tx: &mut Tx) -> Handled {
        let Response { peer, socket, at, now, .. } = response;
        let slot = core.view.slot_of(peer).ok_or(DropReason::WrongSource)?;
        let member = *core.view.get(slot).ok_or(DropReason::WrongSource)?;
        let ports = core.ports_to(peer);
        if !ports.contains(&socket.0) {
            return Err(DropReason::WrongSource);
        }
        let pair = self.leases.pair(socket.0 - ports.start, slot);
        let used = self.uses[pair.index()];
        if used.epoch != member.epoch {
            return Err(DropReason::Late); // meant for a client of an earlier server of the slot
        }
        let owner = self.leases.owner(now, pair).ok_or(DropReason::Late)?;
        let client = owner.client;
        let is_unbounded = self.affinity == Affinity::Client && core.settings.replies.is_none();
        if used.credit == 0 && !is_unbounded {
            return Err(DropReason::Unasked);
        }
        if used.credit > 0 {
            core.hear(slot); // even if its datagram is dropped in a full turn
        }
        core.send_to_client(slot, &client, at, tx)?;
        self.uses[pair.index()].credit = used.credit.saturating_sub(1);
        let is_busy = self.leases.is_busy(pair);
        match (self.affinity, used.first) {
            (Affinity::None, Some(_)) => {
                let request = self.end_request(pair);
                core.take_answer(now, slot, request.sent);
                self.rest_if_done(now, pair, request.sent, core);
            }
            (Affinity::Client, _) if is_busy => {
                core.note_answer(slot, false);
                self.touch_flow(core, now, pair);
            }
            (Affinity::None, None) | (Affinity::Client, _) => core.stats.late.add(1),
        }
        Ok(())
    }

    /// Notes a datagram of a flow's server.
    fn touch_flow(&mut self, core: &mut Forwarder, now: Instant, pair: Pair) {
        let slot = self.leases.slot(pair);
        self.last_flow = now;
        let used = &mut self.uses[pair.index()];
        let Some(key) = used.last else { return };
        if used.is_answered {
            return self.flows.touch(now, key);
        }
        used.is_answered = true;
        self.waiting.remove(key);
        used.last = self.flows.insert(now, pair);
        core.pay(slot);
        core.count_answer(slot);
    }

    /// Removes the oldest request of a lease.
    fn end_request(&mut self, pair: Pair) -> PortRequest {
        let used = &mut self.uses[pair.index()];
        let key = used.first.expect("the lease has a request");
        let request = self.waiting.remove(key).expect("the request is in the table");
        used.first = request.next;
        if request.next.is_none() {
            used.last = None;
        }
        request
    }

    /// Ends a lease without requests in flight; its last request left at `sent` or earlier. The quarantine is
    /// longer if a request is unanswered. The last response may have been a late one to an earlier request,
    /// and the response to the last request may still arrive: the quarantine begins at its timeout.
    fn rest_if_done(&mut self, now: Instant, pair: Pair, sent: Instant, core: &Forwarder) {
        let used = &self.uses[pair.index()];
        if used.first.is_some() {
            return;
        }
        let (ended, rest) = match used.credit {
            0 => (LeaseEnd::Answered, self.hold),
            _ => {
                let timeout = core.settings.timeout;
                let left = timeout.saturating_sub(now.since(sent));
                (LeaseEnd::Unanswered, self.hold.max(left + timeout * UNANSWERED_REST))
            }
        };
        self.leases.rest(now, pair, ended, rest);
    }

    /// Ends a flow without a datagram for at least `idle`. A response to its last datagram may still arrive.
    fn end_flow(&mut self, core: &mut Forwarder, now: Instant, pair: Pair, idle: Duration) {
        let slot = self.leases.slot(pair);
        let rest = self.hold.max((core.settings.timeout * ANSWER_LATEST).saturating_sub(idle));
        let used = &mut self.uses[pair.index()];
        let key = used.last.take();
        let ended = if used.is_answered {
            key.and_then(|key| self.flows.remove(key));
            core.free(slot);
            LeaseEnd::Answered
        } else {
            key.and_then(|key| self.waiting.remove(key));
            core.settle(slot);
            LeaseEnd::Unanswered
        };
        if let Some(owner) = self.leases.busy_owner(pair) {
            core.forget_flow(owner.client.addr.ip());
        }
        self.leases.rest(now, pair, ended, rest);
        let flows = &core.stats.flows;
        flows.set(flows.get().saturating_sub(1));
    }

    /// Ends the flows of servers whose drain is over or that have left. Nothing to do unless members change.
    fn end_flows_of_departed(&mut self, core: &mut Forwarder, now: Instant) {
        let version = core.view.version();
        if self.affinity != Affinity::Client || self.members_seen == version {
            return;
        }
        self.members_seen = version;
        for slot in (0..core.view.slot_count()).map(Slot::new) {
            if self.leases.busy(slot) == 0 || core.view.get(slot).is_some_and(|m| !m.extra.is_over) {
                continue;
            }
            for port in 0..self.leases.ports() {
                let pair = self.leases.pair(port as u16, slot);
                if self.leases.is_busy(pair) {
                    self.end_flow(core, now, pair, Duration::ZERO);
                }
            }
        }
    }

    /// Ends requests whose timeout is over, idle flows, and flows of servers that have left.
    pub fn expire(&mut self, core: &mut Forwarder, now: Instant) {
        self.end_flows_of_departed(core, now);
        let (time_out, idle) = (core.settings.timeout, core.settings.idle_timeout);
        let mut newest = None;
        while let Some((key, sent)) = self.waiting.oldest()
            && sent + time_out <= now
        {
            let Some(pair) = self.waiting.get(key).map(|request| request.pair) else { return };
            let slot = self.leases.slot(pair);
            // Where no server answers, as collectors do not, silence says nothing about this one.
            let is_evidence = *newest.get_or_insert_with(|| core.newest_signal()) >= sent;
            match self.affinity {
                Affinity::Client => {
                    if is_evidence {
                        core.lose(slot);
                    }
                    // A client that still sends keeps its server.
                    match self.waiting.get(key).is_some_and(|flow| flow.sent > sent) {
                        true => {
                            self.waiting.touch(now, key);
                            core.ask(now, slot);
                        }
                        false => self.end_flow(core, now, pair, time_out),
                    }
                }
                Affinity::None => {
                    self.end_request(pair);
                    core.give_up(slot, is_evidence);
                    self.rest_if_done(now, pair, sent, core);
                }
            }
        }
        self.adopted.expire(now);
        while let Some((key, used)) = self.flows.oldest()
            && used + idle <= now
        {
            let Some(&pair) = self.flows.get(key) else { return };
            self.end_flow(core, now, pair, idle);
        }
    }

    /// The time at which the first request times out or the first flow is idle; `None` without any.
    pub fn next_deadline(&self, core: &Forwarder) -> Option<Instant> {
        let settings = &core.settings;
        let waiting = self.waiting.oldest().map(|(_, sent)| sent + settings.timeout);
        earliest(waiting, self.flows.oldest().map(|(_, used)| used + settings.idle_timeout))
    }

    /// Panics, with the numbers, unless each busy pair has the requests or the flow that it names, each
    /// request and flow is that of one busy pair, and the orders of age are those of the times. Counts what
    /// is in flight, for a pool with `slots` slots.
    pub fn check_invariants(&self, slots: usize) -> InFlight {
        self.leases.check_invariants();
        check_order(&self.waiting, "waiting");
        check_order(&self.flows, "answered");
        self.adopted.check_invariants();
        let mut in_flight = InFlight::none(slots);
        let (mut waiting, mut answered) = (0, 0);
        for pair in self.leases.pairs() {
            let (slot, used) = (self.leases.slot(pair).index(), &self.uses[pair.index()]);
            let open = match self.affinity {
                Affinity::None => self.check_requests(pair),
                Affinity::Client => self.check_flow(pair),
            };
            let is_busy = self.leases.is_busy(pair);
            assert_eq!(is_busy, open > 0, "pair {} of slot {slot} has {open} open: {used:?}", pair.index());
            let owed = if self.affinity == Affinity::Client && used.is_answered { 0 } else { open };
            in_flight.owed[slot] += owed;
            in_flight.held[slot] += open;
            waiting += owed as usize;
            answered += (open - owed) as usize;
        }
        let counted = (self.waiting.len(), self.flows.len());
        assert_eq!(counted, (waiting, answered), "waiting and answered: in the tables, of all pairs");
        let open = (waiting + answered) as u64;
        match self.affinity {
            Affinity::None => in_flight.requests = open,
            Affinity::Client => in_flight.flows = open,
        }
        in_flight
    }

    /// Checks the requests of a pair, and counts them.
    fn check_requests(&self, pair: Pair) -> u32 {
        let used = &self.uses[pair.index()];
        let (mut at, mut last, mut count) = (used.first, None, 0);
        while let Some(key) = at {
            let request = self.waiting.get(key);
            let names = request.map(|request| request.pair);
            assert_eq!(names, Some(pair), "request {count} of {pair:?}, {key:?}: {used:?}");
            count += 1;
            assert!(count as usize <= self.waiting.len(), "the requests of {pair:?} are a circle: {used:?}");
            (last, at) = (at, request.and_then(|request| request.next));
        }
        assert_eq!(used.last, last, "the last of the {count} requests of {pair:?}: {used:?}");
        count
    }

    /// Checks the flow of a pair, and counts it: 1, or 0 if the pair has none.
    fn check_flow(&self, pair: Pair) -> u32 {
        let used = &self.uses[pair.index()];
        let Some(key) = used.last else { return 0 };
        let names = match used.is_answered {
            true => self.flows.get(key).copied(),
            false => self.waiting.get(key).map(|flow| flow.pair),
        };
        assert_eq!(names, Some(pair), "the flow of {pair:?}, {key:?}: {used:?}");
        1
    }

    /// The time of the last datagram of a flow; `None` without flows.
    pub fn last_flow(&self) -> Option<Instant> {
        (!self.flows.is_empty()).then_some(self.last_flow)
    }

    /// Measures the quarantine of answered pairs, unless it is configured. Once a second.
    pub fn measure_hold(&mut self, core: &Forwarder) {
        if core.settings.hold.is_none()
            && let Some(p99) = core.recent.take_quantile(0.99)
        {
            self.hold = (p99 * 2).max(HOLD_MIN);
        }
    }
}

/// Panics, with the numbers, unless the entries are in the order of their times.
fn check_order<T>(entries: &LruSlab<T>, table: &str) {
    entries.check_invariants();
    let mut previous = Instant::ZERO;
    for (key, since, _) in entries.iter() {
        assert!(since >= previous, "{table}: {key:?} of {since:?} follows one of {previous:?}");
        previous = since;
    }
}

/// Sends a datagram to which the server does not respond.
fn one_way(core: &mut Forwarder, request: DatagramRequest<'_>, tx: &mut Tx) -> Handled {
    let (slot, member) = core.reserve_for_trial().map_or_else(|| core.reserve(), Ok)?;
    let from = SocketId(core.ports_to(member.addr).start);
    core.free(slot);
    core.forward(&request, &Way { slot, server: member.addr, from, purpose: DatagramPurpose::First }, tx)
}
