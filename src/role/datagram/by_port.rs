//! Protocols that lbd does not know: requests and answers are matched by the port and the server that they
//! went by.
//!
//! | | a lease lasts | a client's datagram goes to |
//! |---|---|---|
//! | requests | as long as requests of its client wait for an answer there | the shortest queue |
//! | flows (`affinity: client`) | until it is idle, or nobody has answered | the server of its flow |
//! | one-way (`replies: 0`) | there is none, unless a flow keeps the way | the shortest queue, or its flow's server |
//!
//! Requests of one client to one server share a lease: what comes back is that client's in any case, which
//! tells its requests apart as if it had asked the server itself.

use std::time::Duration;

use super::adopted_flows::{AdoptedFlows, MovedFlow};
use super::forward::{Forwarder, LastClient, Purpose, Way};
use super::handover::Flow;
use super::leases::{Ended, Leases, Owner, Pair};
use super::request::{Client, Request, Response};
use super::settings::{Affinity, UNANSWERED_REST};
use super::shared::Member;
use crate::base::batch::{SocketId, Tx};
use crate::base::drop_reason::DropReason;
use crate::base::lru_slab::{Key, LruSlab};
use crate::base::time::{Instant, earliest};
use crate::pool::select::Slot;
use crate::pool::waiting::NotQueued;

/// Requests under way at one worker.
const REQUESTS_MAX: usize = 65_536;
/// The shortest rest of an answered pair, where it is measured.
pub(super) const HOLD_MIN: Duration = Duration::from_millis(50);

/// A request in flight.
struct OpenRequest {
    pair: Pair,
    /// The next one of the same lease.
    next: Option<Key>,
    sent: Instant,
}

/// What a lease adds up to, by pair.
#[derive(Clone, Copy, Debug, Default)]
struct Use {
    /// The first and the last of its requests, or its flow.
    first: Option<Key>,
    last: Option<Key>,
    /// Datagrams that the server may still send to the client.
    credit: u32,
    /// The server's registration; of none while nothing was sent.
    epoch: u32,
    /// Whether the server has sent something.
    is_answered: bool,
}

/// The leases of one worker.
pub(super) struct ByPort {
    leases: Leases,
    uses: Box<[Use]>,
    /// Requests, or flows that the server has not answered, by age.
    waiting: LruSlab<OpenRequest>,
    /// Flows that it has answered, by the time of their last datagram.
    flows: LruSlab<Pair>,
    /// Flows of another process.
    moved: AdoptedFlows,
    affinity: Affinity,
    hold: Duration,
    /// When a flow that its server has answered last had a datagram.
    last_flow: Instant,
    /// The port of the client of this turn's last datagram: its other leases are likely to be there.
    hint: Option<(Client, u16)>,
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
        let (mut waiting, mut flows) = (LruSlab::new(requests), LruSlab::new(flows));
        // What a flood needs is there from the start.
        waiting.fault_in();
        flows.fault_in();
        ByPort {
            leases: Leases::new(ports, slots, secret),
            uses: vec![Use::default(); pairs].into(),
            waiting,
            moved: AdoptedFlows::new(flows.capacity()),
            flows,
            affinity: settings.affinity,
            hold: settings.hold.unwrap_or(HOLD_MIN),
            last_flow: Instant::ZERO,
            hint: None,
        }
    }

    /// There are new settings.
    pub fn adopt(&mut self, core: &Forwarder) {
        if let Some(hold) = core.settings.hold {
            self.hold = hold;
        }
    }

    /// A turn begins.
    pub fn begin(&mut self) {
        self.hint = None;
    }

    /// A client's datagram.
    pub fn on_client(
        &mut self,
        core: &mut Forwarder,
        request: Request<'_>,
        tx: &mut Tx,
    ) -> Result<(), DropReason> {
        match (self.affinity, core.settings.replies) {
            (Affinity::Client, _) => self.on_flow(core, request, tx),
            (Affinity::None, Some(0)) => one_way(core, request, tx),
            (Affinity::None, _) => self.on_request(core, request, tx),
        }
    }

    fn on_request(
        &mut self,
        core: &mut Forwarder,
        request: Request<'_>,
        tx: &mut Tx,
    ) -> Result<(), DropReason> {
        match core.reserve_for_trial().map_or_else(|| core.reserve_in_turn(), Ok) {
            Ok(server) => self.send_request(core, request, server, tx),
            Err(DropReason::ServersFull) => core.queue(&request).map_err(|NotQueued| DropReason::ServersFull),
            Err(reason) => Err(reason),
        }
    }

    /// Sends a request to the server that was reserved for it.
    pub fn send_request(
        &mut self,
        core: &mut Forwarder,
        request: Request<'_>,
        (slot, member): (Slot, Member),
        tx: &mut Tx,
    ) -> Result<(), DropReason> {
        if self.waiting.is_full() {
            core.release(slot);
            return Err(DropReason::TableFull);
        }
        let now = request.now;
        let owner = Owner { client: request.client, slot: Some(slot) };
        let Some(pair) = self.lease(now, owner, slot) else {
            core.release(slot);
            return Err(DropReason::NoPort);
        };
        let way = self.way(core, pair, &member, Purpose::Request);
        if let Err(reason) = core.forward(&request, &way, tx) {
            core.release(slot);
            self.rest_if_done(now, pair, now, core);
            return Err(reason);
        }
        let key =
            self.waiting.insert(now, OpenRequest { pair, next: None, sent: now }).expect("there is room");
        let used = &mut self.uses[pair.index()];
        match used.last.replace(key) {
            None => used.first = Some(key),
            Some(last) => self.waiting.get_mut(last).expect("it waits").next = Some(key),
        }
        used.epoch = member.epoch;
        used.credit = used.credit.saturating_add(core.settings.replies.unwrap_or(1));
        Ok(())
    }

    fn on_flow(&mut self, core: &mut Forwarder, request: Request<'_>, tx: &mut Tx) -> Result<(), DropReason> {
        let now = request.now;
        let owner = Owner { client: request.client, slot: None };
        let live = self.leases.of(&owner).filter(|&pair| self.leases.is_busy(pair));
        if let Some(pair) = live {
            let slot = self.leases.slot(pair);
            let used = self.uses[pair.index()];
            let member = core.view.get(slot).filter(|m| m.epoch == used.epoch && m.extra.keeps_flows);
            if let Some(&member) = member {
                let way = self.way(core, pair, &member, Purpose::Later);
                core.forward(&request, &way, tx)?;
                self.last_flow = now;
                self.uses[pair.index()].credit =
                    used.credit.saturating_add(core.settings.replies.unwrap_or(1));
                if let Some(key) = used.last.filter(|_| used.is_answered) {
                    self.flows.touch(now, key);
                }
                return Ok(());
            }
            self.end_flow(core, now, pair, Duration::ZERO); // its server has left
        }
        self.open_flow(core, owner, request, tx)
    }

    fn open_flow(
        &mut self,
        core: &mut Forwarder,
        owner: Owner,
        request: Request<'_>,
        tx: &mut Tx,
    ) -> Result<(), DropReason> {
        let now = request.now;
        let moved = self.moved.take(now, &owner.client);
        let known = moved.and_then(|flow| Some((flow, core.reserve_known(flow.server)?)));
        let ((slot, member), was_answered) = match known {
            Some((flow, server)) => (server, flow.is_answered),
            None => (core.reserve_for_trial().map_or_else(|| core.reserve(), Ok)?, false),
        };
        // One-way flows have nothing to wait for.
        let is_answered = core.settings.replies == Some(0) || was_answered;
        let unanswered = core.owed_by(slot) as usize + self.leases.unanswered(now, slot);
        if !is_answered && unanswered >= self.leases.ports().div_ceil(2) {
            core.release(slot);
            return Err(DropReason::FlowsFull);
        }
        let Some(pair) = self.lease(now, owner, slot) else {
            core.release(slot);
            return Err(DropReason::NoPort);
        };
        let way = self.way(core, pair, &member, Purpose::First);
        if let Err(reason) = core.forward(&request, &way, tx) {
            core.release(slot);
            self.rest_if_done(now, pair, now, core);
            return Err(reason);
        }
        let used = &mut self.uses[pair.index()];
        used.epoch = member.epoch;
        used.is_answered = is_answered;
        used.credit = core.settings.replies.unwrap_or(1);
        used.last = if is_answered {
            self.flows.insert(now, pair)
        } else {
            core.owe(now, slot);
            self.waiting.insert(now, OpenRequest { pair, next: None, sent: now })
        };
        core.stats.flows_opened.add(1);
        core.stats.flows.add(1);
        Ok(())
    }

    /// The flows that live, and those of another process whose clients have not come yet.
    pub fn export(&self, core: &Forwarder, now: Instant) -> Vec<Flow> {
        if self.affinity != Affinity::Client {
            return vec![];
        }
        let flow = |client: &Client, flow: &MovedFlow| Flow {
            client: client.addr,
            front: core.front_addr(client.front),
            local_ip: core.shared.pool.locals.get(client.local),
            server: flow.server,
            is_answered: flow.is_answered,
        };
        let live = |pair: Pair| {
            let (used, slot) = (&self.uses[pair.index()], self.leases.slot(pair));
            let owner = self.leases.owner(now, pair).filter(|_| self.leases.is_busy(pair))?;
            let member = core.view.get(slot).filter(|member| member.epoch == used.epoch)?;
            let moved = MovedFlow { server: member.addr, is_answered: used.is_answered };
            Some(flow(&owner.client, &moved))
        };
        let moved = self.moved.iter().map(|(client, moved)| flow(client, moved));
        self.leases.pairs().filter_map(live).chain(moved).collect()
    }

    /// Takes over flows of another process.
    pub fn import(&mut self, core: &mut Forwarder, now: Instant, flows: &[Flow]) {
        let until = now + core.settings.idle_timeout;
        for &Flow { client, front, local_ip, server, is_answered } in flows {
            let Some(front) = core.front_at(front) else { continue };
            let client = Client { addr: client, front, local: core.shared.pool.locals.number(local_ip) };
            self.moved.add(until, client, MovedFlow { server, is_answered });
        }
    }

    /// The pair that the owner has towards a server, or one that can be had.
    fn lease(&mut self, now: Instant, owner: Owner, slot: Slot) -> Option<Pair> {
        let port = self.hint.filter(|(client, _)| *client == owner.client).map(|(_, port)| port);
        let own = self.leases.of(&owner).filter(|&pair| self.leases.slot(pair) == slot);
        let pair = match own {
            Some(pair) => {
                let rests = self.leases.owner(now, pair).is_some();
                self.leases.retake(pair);
                let used = &mut self.uses[pair.index()];
                if !rests {
                    *used = Use::default(); // else what was not answered may be answered yet
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

    fn way(&self, core: &Forwarder, pair: Pair, member: &Member, purpose: Purpose) -> Way {
        let from = SocketId(core.ports_to(member.addr).start + self.leases.port(pair));
        Way { slot: self.leases.slot(pair), server: member.addr, from, purpose }
    }

    /// A datagram that came by a port.
    pub fn on_server(
        &mut self,
        core: &mut Forwarder,
        response: Response<'_>,
        last: &mut LastClient,
        tx: &mut Tx,
    ) -> Result<(), DropReason> {
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
            return Err(DropReason::Late); // meant for whom an earlier server of the slot has served
        }
        core.hear(now, slot); // whatever becomes of its datagram
        let owner = self.leases.owner(now, pair).ok_or(DropReason::Late)?;
        let client = owner.client;
        let is_unbounded = self.affinity == Affinity::Client && core.settings.replies.is_none();
        if used.credit == 0 && !is_unbounded {
            return Err(DropReason::Unasked);
        }
        core.send_to_client(slot, &client, at, last, tx)?;
        self.uses[pair.index()].credit = used.credit.saturating_sub(1);
        let is_busy = self.leases.is_busy(pair);
        match (self.affinity, used.first) {
            (Affinity::None, Some(_)) => {
                let request = self.end_request(pair);
                core.take_answer(now, slot, request.sent);
                self.rest_if_done(now, pair, request.sent, core);
            }
            (Affinity::Client, _) if is_busy => self.touch_flow(core, now, pair),
            (Affinity::None, None) | (Affinity::Client, _) => core.stats.late.add(1),
        }
        Ok(())
    }

    /// A flow's server has sent something.
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
    }

    /// Takes the longest waiting request of a lease out.
    fn end_request(&mut self, pair: Pair) -> OpenRequest {
        let used = &mut self.uses[pair.index()];
        let key = used.first.expect("it has one");
        let request = self.waiting.remove(key).expect("it waits");
        used.first = request.next;
        if request.next.is_none() {
            used.last = None;
        }
        request
    }

    /// Ends a lease that no request waits for; its last one left at `sent` or sooner. Whether all was
    /// answered decides how long it rests. What has ended the last one may have been late of an earlier one,
    /// so that its own answer is yet to come: the rest begins with its time-out, no sooner.
    fn rest_if_done(&mut self, now: Instant, pair: Pair, sent: Instant, core: &Forwarder) {
        let used = &self.uses[pair.index()];
        if used.first.is_some() {
            return;
        }
        let (ended, rest) = match used.credit {
            0 => (Ended::Answered, self.hold),
            _ => {
                let timeout = core.settings.timeout;
                let left = timeout.saturating_sub(now.since(sent));
                (Ended::Unanswered, left + timeout * UNANSWERED_REST)
            }
        };
        self.leases.rest(now, pair, ended, rest);
    }

    /// Ends a flow that nothing was sent in for so long. An answer to its last datagram may be as late as
    /// any.
    fn end_flow(&mut self, core: &mut Forwarder, now: Instant, pair: Pair, idle: Duration) {
        let slot = self.leases.slot(pair);
        let unanswered_rest = core.settings.timeout * UNANSWERED_REST;
        let used = &mut self.uses[pair.index()];
        let key = used.last.take();
        let (ended, rest) = if used.is_answered {
            key.and_then(|key| self.flows.remove(key));
            core.free(slot);
            (Ended::Answered, self.hold.max(unanswered_rest.saturating_sub(idle)))
        } else {
            key.and_then(|key| self.waiting.remove(key));
            core.settle(slot);
            (Ended::Unanswered, unanswered_rest)
        };
        self.leases.rest(now, pair, ended, rest);
        let flows = &core.stats.flows;
        flows.set(flows.get().saturating_sub(1));
    }

    /// Gives up what has waited for too long, and flows that are idle.
    pub fn expire(&mut self, core: &mut Forwarder, now: Instant) {
        let (time_out, idle) = (core.settings.timeout, core.settings.idle_timeout);
        while let Some((key, sent)) = self.waiting.oldest()
            && sent + time_out <= now
        {
            let Some(pair) = self.waiting.get(key).map(|request| request.pair) else { return };
            match self.affinity {
                Affinity::Client => {
                    core.lose(self.leases.slot(pair));
                    self.end_flow(core, now, pair, time_out);
                }
                Affinity::None => {
                    self.end_request(pair);
                    core.give_up(self.leases.slot(pair));
                    self.rest_if_done(now, pair, sent, core);
                }
            }
        }
        self.moved.expire(now);
        while let Some((key, used)) = self.flows.oldest()
            && used + idle <= now
        {
            let Some(&pair) = self.flows.get(key) else { return };
            self.end_flow(core, now, pair, idle);
        }
    }

    /// When something has waited for too long, or is idle.
    pub fn next_deadline(&self, core: &Forwarder) -> Option<Instant> {
        let settings = &core.settings;
        let waiting = self.waiting.oldest().map(|(_, sent)| sent + settings.timeout);
        earliest(waiting, self.flows.oldest().map(|(_, used)| used + settings.idle_timeout))
    }

    /// When a flow last had a datagram; `None` if none lives.
    pub fn last_flow(&self) -> Option<Instant> {
        (!self.flows.is_empty()).then_some(self.last_flow)
    }

    /// Measures how long answered pairs have to rest, unless that is configured. Now and then.
    pub fn measure_hold(&mut self, core: &Forwarder) {
        if core.settings.hold.is_none()
            && let Some(p99) = core.recent.take_quantile(0.99)
        {
            self.hold = (p99 * 2).max(HOLD_MIN);
        }
    }
}

/// A datagram that the server does not answer.
fn one_way(core: &mut Forwarder, request: Request<'_>, tx: &mut Tx) -> Result<(), DropReason> {
    let (slot, member) = core.reserve_for_trial().map_or_else(|| core.reserve(), Ok)?;
    let from = SocketId(core.ports_to(member.addr).start);
    core.free(slot);
    core.forward(&request, &Way { slot, server: member.addr, from, purpose: Purpose::First }, tx)
}
