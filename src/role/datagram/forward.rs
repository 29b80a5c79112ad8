//! Selection, sending and accounting, for both kinds of matching.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::in_flight::InFlight;
use super::request::{DatagramClient, DatagramRequest, Handled};
use super::settings::{DatagramSettings, ProxyProtocol, Sockets, WorkerSockets};
use super::shared::{CurrentSettings, DatagramExtra, DatagramMember, DatagramShared};
use crate::base::batch::{DestinationId, FrameRef, SocketId, Tx};
use crate::base::drop_reason::DropReason;
use crate::base::rng::{Rng, SecretRng};
use crate::base::time::Instant;
use crate::pool::access::Gate;
use crate::pool::lanes::Lanes;
use crate::pool::members::View;
use crate::pool::select::{Full, Slot};
use crate::pool::selector::Selector;
use crate::pool::shared::WorkerSettings;
use crate::pool::silence::Unanswered;
use crate::pool::stats::{Answers, DatagramStats, LatencyHistogram};
use crate::pool::waiting::Limit;
use crate::wire::proxy_protocol::{self, Transport};

/// The path of a datagram to a server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    pub slot: Slot,
    pub server: SocketAddr,
    pub from: SocketId,
    pub purpose: DatagramPurpose,
}

/// The kind of a datagram to a server: decides its header and its accounting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DatagramPurpose {
    /// A request, to which the server responds.
    Request,
    /// A shadow query, whose response shows that the server lives.
    Shadow,
    /// The first datagram of a flow, or a one-way datagram.
    First,
    /// A later datagram of a flow.
    Later,
}

/// One worker's traffic with one server.
#[derive(Debug)]
pub(super) struct DatagramLane {
    /// Requests to which the server owes a response.
    outstanding: u32,
    /// Requests since its last response.
    unanswered: Unanswered,
    /// Requests and their responses, since the last tick.
    asked: u32,
    answered: u32,
    /// Requests to take off the server's queue at the end of this turn.
    freed: u32,
    /// Responses of this turn.
    answers: Answers,
    heard: bool,
    /// Whether a client got an answer in this turn, and whether one said that the server failed.
    is_answered: bool,
    is_failed: bool,
}

impl DatagramLane {
    const NEW: DatagramLane = DatagramLane {
        outstanding: 0,
        unanswered: Unanswered::NONE,
        asked: 0,
        answered: 0,
        freed: 0,
        answers: Answers::NONE,
        heard: false,
        is_answered: false,
        is_failed: false,
    };
}

/// One worker's forwarding state: selection, sending and accounting for all matching strategies.
pub(super) struct Forwarder {
    /// The number of the worker.
    number: usize,
    pub shared: Arc<DatagramShared>,
    /// The settings of this turn.
    pub settings: Arc<DatagramSettings>,
    /// The admission gate of this turn.
    pub gate: Gate,
    newest: WorkerSettings<CurrentSettings>,
    pub stats: Arc<DatagramStats>,
    pub sockets: Sockets,
    pub view: View<DatagramExtra>,
    /// Draws what an attacker must not guess.
    pub secret_rng: SecretRng,
    lanes: Lanes<DatagramLane>,
    /// Responses that all servers together owe.
    owed: u32,
    /// Whether a lane has requests or responses since the last tick.
    has_counts: bool,
    selector: Selector,
    /// The addresses of the client-side sockets, for PROXY headers.
    fronts: Box<[SocketAddr]>,
    /// The client of this turn's last datagram to a client, and its destination.
    last_client: Option<(DatagramClient, DestinationId)>,
    /// The latency of the slowest recent response; it decays. `None` before the first one.
    slowest: Option<Duration>,
    /// The slowest latency since the last tick.
    slowest_of_tick: Option<Duration>,
    /// The latencies of responses since the last measurement.
    pub recent: LatencyHistogram,
}

/// The shortest silence of a server that owes a response before it is noted.
const SILENCE_MIN: Duration = Duration::from_millis(50);
/// The shortest noted silence as a multiple of the slowest recent response. A false alarm costs little: a
/// suspect is used if no server is up, and its next response clears it.
const SILENCE_FACTOR: u32 = 2;
/// The slowest recent response at most doubles in a tick, or is this.
const SLOWEST_STEP: Duration = Duration::from_millis(50);
/// Each tick leaves 1 - 1 / this of the slowest response, so that half of it is left after a second.
const SLOWEST_DECAY: u32 = 144;

/// The largest value of the slowest recent response in the next tick.
fn doubled(slowest: Duration) -> Duration {
    (slowest * 2).max(SLOWEST_STEP)
}

impl Forwarder {
    pub fn new(
        shared: &Arc<DatagramShared>,
        number: usize,
        of: &WorkerSockets,
        own: &[SocketAddr],
        rng: &mut Rng,
        secret_rng: SecretRng,
    ) -> Forwarder {
        let newest = shared.pool.worker_settings();
        let CurrentSettings { settings, gate } = &*newest;
        let (settings, gate) = (Arc::clone(settings), gate.clone());
        let slots = settings.servers_max;
        let sockets = of.sockets.clone();
        Forwarder {
            view: View::new(slots, own),
            secret_rng,
            lanes: Lanes::new(slots, |_| DatagramLane::NEW),
            owed: 0,
            has_counts: false,
            selector: Selector::new(settings.policy, rng.next_u64(), rng.next_u64()),
            fronts: of.addrs[..usize::from(sockets.fronts.end)].into(),
            last_client: None,
            slowest: None,
            slowest_of_tick: None,
            recent: LatencyHistogram::default(),
            stats: Arc::clone(&shared.stats[number]),
            number,
            shared: Arc::clone(shared),
            gate,
            settings,
            newest,
            sockets,
        }
    }

    /// Begins a turn.
    pub fn begin_turn(&mut self, now: Instant) {
        self.last_client = None;
        self.lanes.begin_turn();
        self.selector.begin_turn(now);
    }

    /// Adopts newer settings, and returns whether there were any. Called between turns: the settings of a
    /// turn do not change.
    pub fn adopt(&mut self) -> bool {
        let Some(old) = self.newest.adopt() else { return false };
        let CurrentSettings { settings, gate } = &*self.newest;
        if settings.policy != old.settings.policy {
            self.selector.set_policy(settings.policy);
        }
        (self.settings, self.gate) = (Arc::clone(settings), gate.clone());
        true
    }

    /// Copies the members that the primary has changed.
    pub fn refresh(&mut self) {
        let Forwarder { shared, view, lanes, .. } = self;
        view.refresh(&shared.pool.members, |slot, _| lanes.restart(slot).unanswered.clear());
    }

    /// Reserves a server for a request.
    pub fn reserve(&mut self) -> Result<(Slot, DatagramMember), DropReason> {
        let Forwarder { shared, view, lanes, selector, stats, .. } = self;
        let member =
            |slot| view.newest(slot, &shared.pool.members, |slot, _| _ = lanes.restart(slot)).copied();
        let heard_at = |slot: Slot| shared.signals[slot.index()].alive_at();
        let reserved = selector.reserve(&shared.pool.tree, &stats.common, member, heard_at);
        reserved
            .map_err(|Full| if shared.can_serve() { DropReason::ServersFull } else { DropReason::NoServer })
    }

    /// Reserves the server that waits for a trial request, if there is one.
    pub fn reserve_for_trial(&mut self) -> Option<(Slot, DatagramMember)> {
        let Forwarder { shared, view, selector, stats, .. } = self;
        let slot = shared.take_trial()?;
        let member = *view.get(slot)?;
        shared.pool.tree.adjust(slot, 1);
        let heard_at = |slot: Slot| shared.signals[slot.index()].alive_at();
        selector.note(&shared.pool.tree, slot, &stats.common, heard_at);
        Some((slot, member))
    }

    /// Reserves the server of an adopted flow, if it may keep flows.
    pub fn reserve_known(&mut self, server: SocketAddr) -> Option<(Slot, DatagramMember)> {
        let slot = self.view.slot_of(server)?;
        Some((slot, self.reserve_member(slot)?))
    }

    /// Reserves the server of this slot, unless it is down, disabled or about to leave.
    pub fn reserve_member(&mut self, slot: Slot) -> Option<DatagramMember> {
        let member = *self.view.get(slot).filter(|member| member.extra.keeps_flows)?;
        self.shared.pool.tree.adjust(slot, 1);
        Some(member)
    }

    /// The address to which a client-side socket is bound.
    pub fn front_addr(&self, front: SocketId) -> SocketAddr {
        self.fronts[usize::from(front.0)]
    }

    /// The client-side socket that is bound to this address.
    pub fn front_at(&self, addr: SocketAddr) -> Option<SocketId> {
        self.fronts.iter().position(|&front| front == addr).map(|front| SocketId(front as u16))
    }

    /// Counts a new flow of a source, and returns how many the source holds with it.
    pub fn count_flow(&self, source: IpAddr) -> u32 {
        self.shared.flow_sources.as_ref().map_or(0, |sources| sources.add(source))
    }

    /// Takes a flow of a source off the count.
    pub fn forget_flow(&self, source: IpAddr) {
        if let Some(sources) = &self.shared.flow_sources {
            sources.remove(source);
        }
    }

    /// Takes a request off a server's queue at once.
    pub fn release(&self, slot: Slot) {
        self.shared.pool.release(slot);
    }

    /// Takes a request off a server's queue at the end of the turn.
    pub fn free(&mut self, slot: Slot) {
        self.lanes.touch(slot).freed += 1;
    }

    /// The local ports towards a server.
    pub fn ports_to(&self, server: SocketAddr) -> std::ops::Range<u16> {
        if server.is_ipv4() { self.sockets.v4.clone() } else { self.sockets.v6.clone() }
    }

    /// Sends a client's datagram to a server and accounts for it. Without a header it leaves from its place
    /// in the turn's memory, else as a copy.
    pub fn forward(&mut self, request: &DatagramRequest<'_>, way: &Way, tx: &mut Tx) -> Handled {
        let DatagramRequest { client, bytes, at, now } = request;
        if way.purpose == DatagramPurpose::Later
            && self.settings.proxy_protocol == ProxyProtocol::First
            && proxy_protocol::begins_as_header(bytes)
        {
            return Err(DropReason::ProxyHeader); // the server would take it for ours
        }
        let destination = self.destination(way, client, tx).ok_or(DropReason::TurnFull)?;
        let with_header = match self.settings.proxy_protocol {
            ProxyProtocol::Off => false,
            ProxyProtocol::First => way.purpose != DatagramPurpose::Later,
            ProxyProtocol::Every => true,
        };
        let header = if with_header { self.proxy_header(client) } else { heapless::Vec::new() };
        let is_sent = match *at {
            Some(at) if !with_header => tx.push(destination, at),
            _ => tx.stage(destination, header.len() + bytes.len()).is_some_and(|staged| {
                let (head, rest) = staged.split_at_mut(header.len());
                head.copy_from_slice(&header);
                rest.copy_from_slice(bytes);
                true
            }),
        };
        if !is_sent {
            return Err(DropReason::TurnFull);
        }
        match way.purpose {
            DatagramPurpose::Request => self.await_answer(*now, way.slot),
            DatagramPurpose::Shadow => self.owe(*now, way.slot),
            DatagramPurpose::First | DatagramPurpose::Later => self.count_forwarded(way.slot),
        }
        Ok(())
    }

    /// The server as a destination, which is looked up once a turn for each socket.
    fn destination(&mut self, way: &Way, client: &DatagramClient, tx: &mut Tx) -> Option<DestinationId> {
        if self.settings.transparent {
            return tx.destination(way.from, way.server, Some(client.addr.ip()));
        }
        self.lanes.destination(way.slot, way.from, way.server, tx)
    }

    fn proxy_header(&self, client: &DatagramClient) -> heapless::Vec<u8, { proxy_protocol::HEADER_MAX }> {
        let front = self.fronts[usize::from(client.front.0)];
        let ip = self.shared.pool.locals.get(client.local).unwrap_or(front.ip());
        proxy_protocol::header(Transport::Datagram, client.addr, SocketAddr::new(ip, front.port()))
    }

    /// Sends a server's datagram to a client.
    pub fn send_to_client(
        &mut self,
        slot: Slot,
        client: &DatagramClient,
        at: FrameRef,
        tx: &mut Tx,
    ) -> Handled {
        if !self.destination_of(client, tx).is_some_and(|destination| tx.push(destination, at)) {
            return Err(DropReason::TurnFull);
        }
        self.stats.delivered.add(1);
        self.stats.servers[slot.index()].delivered.add(1);
        Ok(())
    }

    /// A client as a destination of this turn. `None` when the turn is full.
    pub fn destination_of(&mut self, client: &DatagramClient, tx: &mut Tx) -> Option<DestinationId> {
        match &self.last_client {
            Some((known, destination)) if known == client => Some(*destination),
            _ => {
                let local_ip = self.shared.pool.locals.get(client.local);
                let destination = tx.destination(client.front, client.addr, local_ip)?;
                self.last_client = Some((*client, destination));
                Some(destination)
            }
        }
    }

    /// Notes a client's request in flight to a server.
    fn await_answer(&mut self, now: Instant, slot: Slot) {
        self.owe(now, slot);
        self.stats.in_flight.add(1);
        self.stats.servers[slot.index()].common.dispatched.add(1);
    }

    /// Notes that a server owes a response.
    pub fn owe(&mut self, now: Instant, slot: Slot) {
        self.lanes[slot].outstanding += 1;
        self.owed += 1;
        self.ask(now, slot);
    }

    /// Notes that a client repeats a request to which the server owes a response already.
    pub fn ask(&mut self, now: Instant, slot: Slot) {
        let lane = &mut self.lanes[slot];
        lane.asked += 1;
        lane.unanswered.ask(now);
        self.has_counts = true;
    }

    /// Notes a response that the server owed.
    pub fn count_answer(&mut self, slot: Slot) {
        self.lanes[slot].answered += 1;
        self.has_counts = true;
    }

    /// Notes the response to a request that left at `sent`.
    pub fn take_answer(&mut self, now: Instant, slot: Slot, sent: Instant) {
        let micros = self.end_with_answer(now, slot, sent);
        self.lanes.touch(slot).answers.add(micros);
        self.note_answer(slot, false);
    }

    /// Notes a response that reports a failure. The server lives, and the time of a failure says nothing
    /// about its service time.
    pub fn take_failure(&mut self, now: Instant, slot: Slot, sent: Instant) {
        self.stats.servers[slot.index()].common.failed_answers.add(1);
        self.end_with_answer(now, slot, sent);
        self.note_answer(slot, true); // its next check is due all the same
    }

    /// Ends a request with its response. Returns its latency, in microseconds.
    fn end_with_answer(&mut self, now: Instant, slot: Slot, sent: Instant) -> u32 {
        let latency = now.since(sent);
        let micros = u32::try_from(latency.as_micros()).unwrap_or(u32::MAX);
        self.slowest_of_tick = self.slowest_of_tick.max(Some(latency));
        self.recent.record(micros);
        if self.settings.max_outstanding == Some(Limit::Auto) {
            self.shared.pool.finished[self.number].add(self.shared.pool.tree.len(slot), 1);
        }
        self.settle(slot);
        self.count_answer(slot);
        self.hear(slot);
        self.end_request();
        self.stats.common.answered.add(1);
        let server = &self.stats.servers[slot.index()];
        server.common.answered.add(1);
        server.common.latency.record(micros);
        micros
    }

    /// Notes that a client got an answer, and whether it says that the server failed.
    pub fn note_answer(&mut self, slot: Slot, is_failed: bool) {
        let lane = self.lanes.touch(slot);
        lane.is_answered = true;
        lane.is_failed |= is_failed;
    }

    /// Notes that a request has timed out, and whether that says something about its server.
    pub fn give_up(&mut self, slot: Slot, is_evidence: bool) {
        self.settle(slot);
        match is_evidence {
            true => self.lose(slot),
            false => self.stats.common.decisions.given_up.add(1),
        }
        self.end_request();
        self.stats.timed_out.add(1);
        self.stats.servers[slot.index()].timed_out.add(1);
    }

    /// Notes that a server owes one response less, and has one request less in its queue.
    pub fn settle(&mut self, slot: Slot) {
        self.pay(slot);
        self.free(slot);
    }

    /// Notes that a server owes one response less.
    pub fn pay(&mut self, slot: Slot) {
        let lane = self.lanes.touch(slot);
        debug_assert!(lane.outstanding > 0, "the server of slot {} owes nothing", slot.index());
        lane.outstanding = lane.outstanding.saturating_sub(1);
        self.owed = self.owed.saturating_sub(1);
    }

    /// Whether any server owes a response.
    pub fn owes(&self) -> bool {
        self.owed > 0
    }

    /// Responses that a server owes.
    pub fn owed_by(&self, slot: Slot) -> u32 {
        self.lanes[slot].outstanding
    }

    /// The last liveness signal of any server of the pool.
    pub fn newest_signal(&self) -> Instant {
        self.shared.signals.iter().map(|signals| signals.alive_at()).max().unwrap_or(Instant::ZERO)
    }

    /// Notes that a server has left a request unanswered.
    pub fn lose(&self, slot: Slot) {
        self.stats.common.decisions.given_up.add(1);
        self.shared.signals[slot.index()].lose();
    }

    fn end_request(&self) {
        let in_flight = &self.stats.in_flight;
        in_flight.set(in_flight.get().saturating_sub(1));
    }

    /// Notes a liveness signal of a server.
    pub fn hear(&mut self, slot: Slot) {
        let lane = self.lanes.touch(slot);
        lane.heard = true;
        lane.unanswered.clear();
    }

    /// Counts a datagram that is not a request: of a flow, or one-way.
    fn count_forwarded(&mut self, slot: Slot) {
        self.stats.forwarded.add(1);
        let server = &self.stats.servers[slot.index()];
        server.common.dispatched.add(1);
        server.forwarded.add(1);
    }

    /// Publishes the changes of this turn: to the tree, the counters and the signals, once per server.
    pub fn publish(&mut self, now: Instant) {
        while let Some((slot, lane)) = self.lanes.next_touched() {
            lane.answers
                .publish(self.shared.pool.tree.len(slot), &self.stats.servers[slot.index()].common.served);
            let freed = std::mem::take(&mut lane.freed);
            let heard = std::mem::take(&mut lane.heard);
            let (is_answered, is_failed) =
                (std::mem::take(&mut lane.is_answered), std::mem::take(&mut lane.is_failed));
            if freed > 0 {
                self.shared.pool.tree.adjust(slot, -(freed as i32));
            }
            if heard {
                self.shared.signals[slot.index()].hear(now);
            }
            if is_answered {
                self.shared.signals[slot.index()].answer(now, is_failed);
            }
        }
    }

    /// Panics, with the numbers, unless the counts of this worker are those of what its table has in flight.
    pub fn check_invariants(&self, in_flight: &InFlight) {
        let owed: u32 = in_flight.owed.iter().sum();
        assert_eq!(self.owed, owed, "responses that all servers owe: counted, in the table");
        let counted = (self.stats.in_flight.get(), self.stats.flows.get());
        assert_eq!(
            counted,
            (in_flight.requests, in_flight.flows),
            "requests and flows: counted, in the table"
        );
        for (slot, lane) in self.lanes.iter().enumerate() {
            assert_eq!(lane.outstanding, in_flight.owed[slot], "slot {slot}: responses owed, {lane:?}");
            assert!(lane.freed == 0 && !lane.heard, "slot {slot}: not published: {lane:?}");
            let (len, held) = (self.shared.pool.tree.len(Slot::new(slot)), in_flight.held[slot]);
            assert!(len >= held, "slot {slot}: a queue of {len}, with {held} of this worker");
        }
    }

    /// The silence that is far longer than any response took, but at most a timeout.
    pub fn silence_limit(&self) -> Duration {
        let time_out = self.settings.timeout;
        self.slowest.map_or(time_out, |slowest| (slowest * SILENCE_FACTOR).max(SILENCE_MIN).min(time_out))
    }

    /// Counts requests that are unanswered for far longer than any response took, while others respond. If no
    /// server responds, the network or this process is the cause. Once a tick.
    pub fn look_for_silence(&mut self, now: Instant) {
        self.slowest = match (self.slowest, self.slowest_of_tick.take()) {
            // What a server answers after a pause must not hide its next pause.
            (Some(known), newest) => Some(known.max(newest.unwrap_or_default().min(doubled(known)))),
            (None, first) => first,
        };
        let limit = self.silence_limit();
        self.slowest = self.slowest.map(|slowest| slowest - slowest / SLOWEST_DECAY);
        if self.owed == 0 && !std::mem::take(&mut self.has_counts) {
            return;
        }
        let is_answered = now.since(self.newest_signal()) <= limit;
        for (lane, signals) in self.lanes.iter_mut().zip(&self.shared.signals) {
            if lane.asked > 0 || lane.answered > 0 {
                signals.count(std::mem::take(&mut lane.asked), std::mem::take(&mut lane.answered));
            }
            let Some(first) = lane.unanswered.first() else { continue };
            if signals.alive_at() > first {
                lane.unanswered.clear(); // another worker has heard it
            } else if is_answered {
                let requests = lane.unanswered.newly_before(now - limit);
                if requests > 0 {
                    signals.note_unanswered(requests);
                }
            }
        }
    }
}
