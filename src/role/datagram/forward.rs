//! What every way of matching needs: choosing a server, sending to it, and keeping count.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_utils::CachePadded;

use super::request::Client;
use super::settings::{ProxyProtocol, Settings, Sockets};
use super::shared::{Extra, Member, Shared, Signals};
use crate::base::batch::{DestinationId, FrameRef, Received, SocketId, Tx};
use crate::base::drop_reason::DropReason;
use crate::base::published::Seen;
use crate::base::rng::Rng;
use crate::base::time::Instant;
use crate::pool::access::Gate;
use crate::pool::members::View;
use crate::pool::regret::RegretSampler;
use crate::pool::select::{Chooser, Full, Slot};
use crate::pool::stats::{Answers, DatagramStats, LatencyHistogram};
use crate::pool::waiting::Limit;
use crate::wire::proxy_protocol::{self, Transport};

/// The way of a datagram to a server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    pub slot: Slot,
    pub server: SocketAddr,
    pub from: SocketId,
}

/// A datagram of this turn, and where it lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Datagram {
    pub at: FrameRef,
    /// Read once a turn.
    pub now: Instant,
}

/// The datagrams of a receive slot; the last may be shorter.
pub(super) fn datagrams<'a>(
    received: &Received,
    bytes: &'a mut [u8],
) -> impl Iterator<Item = (FrameRef, &'a mut [u8])> {
    let (slot, start, stride) = (received.slot, received.start, received.stride);
    bytes.chunks_mut(stride as usize).zip(0u32..).map(move |(bytes, i)| {
        // No datagram is longer than 65,535 bytes.
        (FrameRef { slot, len: bytes.len() as u16, offset: start + i * stride }, bytes)
    })
}

/// One worker's traffic with one server.
#[derive(Debug)]
pub(super) struct Lane {
    /// Requests that the server owes an answer to.
    outstanding: u32,
    /// Since when the server has owed an answer and been silent.
    silent_since: Instant,
    /// What the tree is to hear at the end of this turn.
    freed: u32,
    /// Answers of this turn.
    answers: Answers,
    heard: bool,
    touched: bool,
    /// The server as a destination of a turn, by the socket that it was last sent from.
    destination: Option<(u64, SocketId, DestinationId)>,
}

impl Lane {
    const NEW: Lane = Lane {
        outstanding: 0,
        silent_since: Instant::ZERO,
        freed: 0,
        answers: Answers::NONE,
        heard: false,
        touched: false,
        destination: None,
    };
}

/// See the module's text.
pub(super) struct Forwarder {
    /// The worker's.
    number: usize,
    pub shared: Arc<Shared>,
    /// Those of this turn, and who is let in; and which they are.
    pub settings: Arc<Settings>,
    pub gate: Gate,
    seen: Seen,
    pub stats: Arc<DatagramStats>,
    pub sockets: Sockets,
    pub view: View<Extra>,
    pub rng: Rng,
    lanes: Box<[Lane]>,
    /// Answers that all servers together owe.
    owed: u32,
    /// Slots whose lanes something has come up in; each once.
    touched: Vec<Slot>,
    chooser: Chooser,
    pub decisions: RegretSampler,
    /// The addresses of the fronts, for PROXY headers.
    fronts: Box<[SocketAddr]>,
    /// The slowest answer of late: it decays.
    slowest: Option<Duration>,
    /// The answers since it was last asked for.
    pub recent: LatencyHistogram,
    pub turn: u64,
}

/// A server that owes an answer is not called silent before this time.
const SILENCE_MIN: Duration = Duration::from_millis(50);
/// Nor before so many times the slowest answer of late. To be wrong costs little: a suspect is used if nobody better is
/// left, and its next answer clears it.
const SILENCE_FACTOR: u32 = 2;
/// Of the slowest answer, what is left after each tick is 1 - 1 / this: half of it after a second.
const SLOWEST_DECAY: u32 = 144;

impl Forwarder {
    pub fn new(
        shared: &Arc<Shared>,
        number: usize,
        sockets: Sockets,
        local_addrs: &[SocketAddr],
        own: &[SocketAddr],
        rng: &mut Rng,
    ) -> Forwarder {
        let settings = shared.settings();
        let slots = settings.servers_max;
        Forwarder {
            view: View::new(slots, own),
            rng: Rng::new(rng.next_u64()),
            lanes: (0..slots).map(|_| Lane::NEW).collect(),
            owed: 0,
            touched: Vec::with_capacity(slots),
            chooser: Chooser::new(settings.policy, rng.next_u64()),
            decisions: RegretSampler::new(rng.next_u64()),
            fronts: local_addrs[..usize::from(sockets.fronts.end)].into(),
            slowest: None,
            recent: LatencyHistogram::default(),
            turn: 0,
            stats: Arc::clone(&shared.stats[number]),
            number,
            shared: Arc::clone(shared),
            gate: shared.gate(),
            settings,
            seen: Seen::default(),
            sockets,
        }
    }

    /// Takes new settings over, if there are any; whether there were. Between turns, so that a turn has the same ones
    /// throughout.
    pub fn adopt(&mut self) -> bool {
        let Some(newest) = self.shared.newer(&mut self.seen) else { return false };
        if newest.settings.policy != self.settings.policy {
            self.chooser.set_policy(newest.settings.policy);
        }
        (self.settings, self.gate) = (Arc::clone(&newest.settings), newest.gate.clone());
        true
    }

    /// Copies what the primary has changed.
    pub fn refresh(&mut self) {
        let Forwarder { shared, view, lanes, .. } = self;
        view.refresh(&shared.members, |slot, _| lanes[slot.index()].destination = None);
    }

    /// A server that was counted up for a request, and where it is.
    pub fn reserve(&mut self) -> Result<(Slot, Member), DropReason> {
        loop {
            let reserved = match self.chooser.reserve(&self.shared.tree) {
                Ok(reserved) => reserved,
                Err(Full) => {
                    let is_empty = self.shared.usable.load(Ordering::Relaxed) == 0;
                    return Err(if is_empty { DropReason::NoServer } else { DropReason::ServersFull });
                }
            };
            self.stats.common.select_fallback.add(u64::from(reserved.fallback));
            if let Some(&member) = self.view.get(reserved.slot) {
                self.note_choice(reserved.slot);
                return Ok((reserved.slot, member));
            }
            // The tree is ahead of this worker's view. Each round takes a change of the members.
            self.release(reserved.slot);
            self.refresh();
        }
    }

    /// The same for a server that waits for a request to prove itself on, if there is one.
    pub fn reserve_for_trial(&mut self) -> Option<(Slot, Member)> {
        let slot = self.shared.take_trial()?;
        let member = *self.view.get(slot)?;
        self.shared.tree.adjust(slot, 1);
        self.note_choice(slot);
        Some((slot, member))
    }

    /// A server was chosen and counted up.
    fn note_choice(&mut self, slot: Slot) {
        let heard_at = || self.shared.signals[slot.index()].alive_at();
        self.decisions.note(&self.shared.tree, slot, heard_at, &self.stats.common.decisions);
    }

    /// The same for the server of a flow that another process had, if it may keep flows.
    pub fn reserve_known(&mut self, server: SocketAddr) -> Option<(Slot, Member)> {
        let slot = self.view.slot_of(server)?;
        let member = *self.view.get(slot).filter(|member| member.extra.keeps_flows)?;
        self.shared.tree.adjust(slot, 1);
        Some((slot, member))
    }

    /// The address that a front is bound to.
    pub fn front_addr(&self, front: SocketId) -> SocketAddr {
        self.fronts[usize::from(front.0)]
    }

    /// The front that is bound to this address.
    pub fn front_at(&self, addr: SocketAddr) -> Option<SocketId> {
        self.fronts.iter().position(|&front| front == addr).map(|front| SocketId(front as u16))
    }

    /// Counts a server down at once.
    pub fn release(&self, slot: Slot) {
        self.shared.tree.adjust(slot, -1);
    }

    /// Counts a server down at the end of the turn.
    pub fn free(&mut self, slot: Slot) {
        self.lane(slot).freed += 1;
    }

    fn lane(&mut self, slot: Slot) -> &mut Lane {
        let lane = &mut self.lanes[slot.index()];
        if !std::mem::replace(&mut lane.touched, true) {
            self.touched.push(slot);
        }
        lane
    }

    /// The local ports towards a server.
    pub fn ports_to(&self, server: SocketAddr) -> std::ops::Range<u16> {
        if server.is_ipv4() { self.sockets.v4.clone() } else { self.sockets.v6.clone() }
    }

    /// Sends a client's datagram to a server: from where it lies, or, without `at`, as a copy. `is_first` of its flow.
    pub fn send_to_server(
        &mut self,
        way: &Way,
        client: &Client,
        at: Option<FrameRef>,
        bytes: &[u8],
        is_first: bool,
        tx: &mut Tx,
    ) -> Result<(), DropReason> {
        let destination = self.destination(way, client, tx).ok_or(DropReason::TurnFull)?;
        let with_header = match self.settings.proxy_protocol {
            ProxyProtocol::Off => false,
            ProxyProtocol::First => is_first,
            ProxyProtocol::Every => true,
        };
        let header = if with_header { self.proxy_header(client) } else { heapless::Vec::new() };
        let is_sent = match at {
            Some(at) if !with_header => tx.push(destination, at),
            _ => tx.stage(destination, header.len() + bytes.len()).is_some_and(|staged| {
                let (head, rest) = staged.split_at_mut(header.len());
                head.copy_from_slice(&header);
                rest.copy_from_slice(bytes);
                true
            }),
        };
        if is_sent { Ok(()) } else { Err(DropReason::TurnFull) }
    }

    /// A server as a destination; of one socket it is looked up once a turn.
    fn destination(&mut self, way: &Way, client: &Client, tx: &mut Tx) -> Option<DestinationId> {
        if self.settings.transparent {
            return tx.destination(way.from, way.server, Some(client.addr.ip()));
        }
        let lane = &mut self.lanes[way.slot.index()];
        match lane.destination {
            Some((turn, from, destination)) if turn == self.turn && from == way.from => Some(destination),
            _ => {
                let destination = tx.destination(way.from, way.server, None)?;
                lane.destination = Some((self.turn, way.from, destination));
                Some(destination)
            }
        }
    }

    fn proxy_header(&self, client: &Client) -> heapless::Vec<u8, { proxy_protocol::HEADER_MAX }> {
        let front = self.fronts[usize::from(client.front.0)];
        let ip = self.shared.locals.get(client.local).unwrap_or(front.ip());
        proxy_protocol::header(Transport::Datagram, client.addr, SocketAddr::new(ip, front.port()))
    }

    /// Sends a server's datagram to a client.
    pub fn send_to_client(
        &mut self,
        slot: Slot,
        client: &Client,
        at: FrameRef,
        last: &mut LastClient,
        tx: &mut Tx,
    ) -> Result<(), DropReason> {
        if !self.send_back(client, at, last, tx) {
            return Err(DropReason::TurnFull);
        }
        self.stats.delivered.add(1);
        self.stats.servers[slot.index()].delivered.add(1);
        Ok(())
    }

    /// Sends a datagram to a client. False when the turn is full.
    pub fn send_back(&self, client: &Client, at: FrameRef, last: &mut LastClient, tx: &mut Tx) -> bool {
        let destination = match last {
            Some((known, destination)) if known == client => *destination,
            _ => {
                let local_ip = self.shared.locals.get(client.local);
                let Some(destination) = tx.destination(client.front, client.addr, local_ip) else {
                    return false;
                };
                *last = Some((*client, destination));
                destination
            }
        };
        tx.push(destination, at)
    }

    /// A client's request is under way to a server.
    pub fn await_answer(&mut self, now: Instant, slot: Slot) {
        self.owe(now, slot);
        self.stats.in_flight.add(1);
        self.stats.servers[slot.index()].common.dispatched.add(1);
    }

    /// A copy of a request is under way to a server that shall prove that it lives.
    pub fn owe(&mut self, now: Instant, slot: Slot) {
        let lane = &mut self.lanes[slot.index()];
        if lane.outstanding == 0 {
            lane.silent_since = now;
        }
        lane.outstanding += 1;
        self.owed += 1;
    }

    /// A server has answered a request that left at `sent`.
    pub fn take_answer(&mut self, now: Instant, slot: Slot, sent: Instant) {
        let latency = now.since(sent);
        let micros = u32::try_from(latency.as_micros()).unwrap_or(u32::MAX);
        self.slowest = self.slowest.max(Some(latency));
        self.recent.record(micros);
        if self.settings.max_outstanding == Some(Limit::Auto) {
            self.shared.finished[self.number].add(self.shared.tree.len(slot), 1);
        }
        self.lane(slot).answers.add(micros);
        self.settle(slot);
        self.hear(now, slot);
        self.end_request();
        self.stats.common.answered.add(1);
        let server = &self.stats.servers[slot.index()];
        server.common.answered.add(1);
        server.common.latency.record(micros);
    }

    /// A server has not answered a request in time.
    pub fn give_up(&mut self, slot: Slot) {
        self.settle(slot);
        self.lose(slot);
        self.end_request();
        self.stats.timed_out.add(1);
        self.stats.servers[slot.index()].timed_out.add(1);
    }

    /// A server owes one answer less, and has one request less.
    pub fn settle(&mut self, slot: Slot) {
        self.pay(slot);
        self.free(slot);
    }

    /// A server owes one answer less.
    pub fn pay(&mut self, slot: Slot) {
        let lane = self.lane(slot);
        debug_assert!(lane.outstanding > 0, "slot {} owes nothing", slot.index());
        lane.outstanding = lane.outstanding.saturating_sub(1);
        self.owed = self.owed.saturating_sub(1);
    }

    /// Whether any server owes an answer.
    pub fn owes(&self) -> bool {
        self.owed > 0
    }

    /// Answers that a server owes.
    pub fn owed_by(&self, slot: Slot) -> u32 {
        self.lanes[slot.index()].outstanding
    }

    /// A server has left something unanswered.
    pub fn lose(&self, slot: Slot) {
        self.stats.common.decisions.given_up.add(1);
        self.shared.signals[slot.index()].lose();
    }

    fn end_request(&self) {
        let in_flight = &self.stats.in_flight;
        in_flight.set(in_flight.get().saturating_sub(1));
    }

    /// A server has proved that it lives.
    pub fn hear(&mut self, now: Instant, slot: Slot) {
        let lane = self.lane(slot);
        lane.heard = true;
        lane.silent_since = now;
    }

    /// A datagram left that no single answer is awaited for.
    pub fn count_forwarded(&mut self, slot: Slot) {
        self.stats.forwarded.add(1);
        let server = &self.stats.servers[slot.index()];
        server.common.dispatched.add(1);
        server.forwarded.add(1);
    }

    /// Brings the tree up to date with this turn, once per server.
    pub fn publish(&mut self, now: Instant) {
        while let Some(slot) = self.touched.pop() {
            let lane = &mut self.lanes[slot.index()];
            lane.touched = false;
            lane.answers.publish(self.shared.tree.len(slot), &self.stats.servers[slot.index()].common.served);
            let freed = std::mem::take(&mut lane.freed);
            let heard = std::mem::take(&mut lane.heard);
            if freed > 0 {
                self.shared.tree.adjust(slot, -(freed as i32));
            }
            if heard {
                self.shared.signals[slot.index()].hear(now);
            }
        }
    }

    /// Looks for servers that owe an answer and are silent for far longer than any answer took, while others answer: if
    /// nobody does, it is the network's fault, or our own. Once a tick.
    pub fn look_for_silence(&mut self, now: Instant) {
        let time_out = self.settings.timeout;
        let limit = match self.slowest {
            Some(slowest) => (slowest * SILENCE_FACTOR).max(SILENCE_MIN).min(time_out),
            None => time_out,
        };
        self.slowest = self.slowest.map(|slowest| slowest - slowest / SLOWEST_DECAY);
        let signals = &self.shared.signals;
        let is_answered = |signals: &CachePadded<Signals>| now.since(signals.alive_at()) <= limit;
        if self.owed == 0 || !signals.iter().any(is_answered) {
            return;
        }
        for (lane, signals) in self.lanes.iter().zip(&self.shared.signals) {
            let is_silent = lane.outstanding > 0 && now.since(lane.silent_since) > limit;
            if is_silent && now.since(signals.alive_at()) > limit {
                signals.note_silence();
            }
        }
    }
}

/// The client that the last datagram went to, as a destination of this turn.
pub(super) type LastClient = Option<(Client, DestinationId)>;
