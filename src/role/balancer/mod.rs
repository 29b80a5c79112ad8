//! The balancer: sends each request to the server with the shortest queue, and each reply back.
//!
//! Owns the servers' registrations and health, the estimates, the dispatch windows and the talk with
//! the controller; changes the selection tree. Never touches a socket, a clock or a log: what is worth
//! telling comes out of [`Balancer::poll_event`], what is worth counting goes to [`PoolStats`].
//!
//! | file | a change there is about |
//! |---|---|
//! | `front.rs` | requests of clients: check, select, patch, forward |
//! | `back.rs` | frames of servers: replies, reports, registration |
//! | `upkeep.rs` | what time brings: silence, probes, SYNC, leaving |
//! | `orders.rs` | orders to the controller |

mod back;
mod front;
mod orders;
mod upkeep;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::batch::{DestinationId, FrameRef, Received, Rx, SocketId, Tx};
use crate::drop_reason::DropReason;
use crate::estimate::Estimate;
use crate::fleet::Fleet;
use crate::health::State;
use crate::rng::Rng;
use crate::role::Role;
use crate::scale::{self, Scaler};
use crate::select::{Chooser, LeafState, PolicyKind, Slot, Tree};
use crate::stats::PoolStats;
use crate::time::{Instant, earliest};
use crate::wire::{CookieKey, DispatchWindow, FrameFormat, Opener, Sealer};
use orders::Orders;

/// The socket on which clients ask.
pub const FRONT: SocketId = SocketId(0);
/// The socket on which servers and the controller are talked to.
pub const BACK: SocketId = SocketId(1);

/// What a balancer is made from.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Size and trailer of the frames.
    pub format: FrameFormat,
    /// The key that all components share, where frames are authenticated.
    pub key: Option<[u8; 16]>,
    /// How a server is chosen.
    pub policy: PolicyKind,
    /// Room for so many servers.
    pub servers_max: usize,
    /// At most so many requests at one server; the rest is refused with BUSY.
    pub max_outstanding: Option<u32>,
    /// How often servers report, and this balancer looks at its timers.
    pub interval: Duration,
    /// Where the controller listens.
    pub controller: SocketAddr,
    /// When to ask it for more or fewer servers.
    pub scale: scale::Policy,
    /// The addresses of the front and the server side, which are nobody's clients.
    pub own: [SocketAddr; 2],
    /// Seed of everything random: keys, epochs, ties.
    pub seed: u64,
}

/// Something that an operator wants to read about.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A server registered.
    Joined {
        /// Its id.
        id: u32,
        /// Its address.
        addr: SocketAddr,
    },
    /// A server's state changed.
    State {
        /// Its id.
        id: u32,
        /// What it is now.
        state: State,
    },
    /// A server has left its slot.
    Left {
        /// Its id.
        id: u32,
        /// Why.
        why: &'static str,
    },
    /// More or fewer servers are asked for.
    Scale {
        /// What is asked for, in words.
        what: String,
        /// The load that led to it.
        load: f64,
        /// Servers that take traffic.
        up: u32,
    },
    /// The controller answered, or is silent.
    Controller(String),
    /// This process was itself away for so long; no verdicts are based on that time.
    Paused(Duration),
}

/// One worker's traffic with one slot.
#[derive(Debug, Default)]
struct Lane {
    window: DispatchWindow,
    estimate: Estimate,
    last_sent: Instant,
    last_sync: Instant,
    /// The server as a destination of turn `turn`.
    destination: Option<(u64, DestinationId)>,
    /// Whether the estimate has changed in this turn.
    dirty: bool,
}

/// The balancer's state machine.
pub struct Balancer {
    settings: Settings,
    tree: Arc<Tree>,
    chooser: Chooser,
    stats: Arc<PoolStats>,
    fleet: Fleet,
    lanes: Box<[Lane]>,
    dirty: Vec<Slot>,
    cookies: CookieKey,
    sealer: Option<Sealer>,
    opener: Option<Opener>,
    /// Random numbers of this process: 64 bits towards the controller, 32 in frames.
    instance: u64,
    epoch: u32,
    worker: u8,
    listeners: Listeners,
    scaler: Scaler,
    orders: Orders,
    events: VecDeque<Event>,
    turn: u64,
    next_tick: Instant,
    last_turn: Instant,
    /// Servers that may be chosen, suspects included.
    usable: u32,
}

/// Events that nobody has fetched yet are bounded; the oldest go first.
const EVENTS_MAX: usize = 256;
/// Timers are looked at so many times an interval: how late a silent or lost thing is noticed.
const TICKS_PER_INTERVAL: u32 = 4;
/// A reply to a client who was refused: come back after this time.
const RETRY_AFTER: Duration = Duration::from_millis(20);

impl Balancer {
    /// A balancer without servers.
    pub fn new(settings: Settings, stats: Arc<PoolStats>, now: Instant) -> Self {
        let mut rng = Rng::new(settings.seed);
        let mut key = [0; 16];
        key[..8].copy_from_slice(&rng.next_u64().to_le_bytes());
        key[8..].copy_from_slice(&rng.next_u64().to_le_bytes());
        let worker = 0;
        let cap = settings.max_outstanding.unwrap_or(u32::MAX);
        let instance = rng.next_u64() | 1;
        Balancer {
            tree: Arc::new(Tree::new(settings.servers_max, cap)),
            chooser: Chooser::new(settings.policy, rng.next_u64()),
            fleet: Fleet::new(settings.servers_max),
            lanes: (0..settings.servers_max).map(|_| Lane::default()).collect(),
            dirty: Vec::with_capacity(settings.servers_max),
            cookies: CookieKey::new(key),
            sealer: settings.key.as_ref().map(|key| Sealer::new(key, instance)),
            opener: settings.key.as_ref().map(Opener::new),
            instance,
            epoch: (rng.next_u64() as u32).max(1),
            worker,
            listeners: Listeners::default(),
            scaler: Scaler::new(settings.scale, now),
            orders: Orders::new(instance, rng.next_u64()),
            events: VecDeque::with_capacity(EVENTS_MAX),
            turn: 0,
            next_tick: now,
            last_turn: now,
            usable: 0,
            settings,
            stats,
        }
    }

    /// The oldest event that was not fetched yet.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The selection tree, for inspection.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// The registered servers, for inspection.
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// The estimate of this worker for a slot, for inspection.
    pub fn estimate(&self, slot: Slot) -> &Estimate {
        &self.lanes[slot.index()].estimate
    }

    fn tell(&mut self, event: Event) {
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    /// Authenticates a frame that leaves for a server or the controller; nothing may be patched afterwards.
    fn seal(&mut self, frame: &mut [u8]) {
        if let Some(sealer) = &mut self.sealer {
            sealer.seal(frame);
        }
    }

    /// Notes that a slot's contribution to the tree may have changed in this turn.
    fn touch(&mut self, slot: Slot) {
        let lane = &mut self.lanes[slot.index()];
        if !lane.dirty {
            lane.dirty = true;
            self.dirty.push(slot);
        }
    }

    /// Brings the tree up to date with this turn: once per server, however many replies it sent.
    fn publish(&mut self) {
        while let Some(slot) = self.dirty.pop() {
            let lane = &mut self.lanes[slot.index()];
            lane.dirty = false;
            let delta = lane.estimate.publish();
            if delta != 0 {
                self.tree.adjust(slot, delta);
            }
        }
    }

    /// Writes what the state of a server means into the tree.
    fn set_leaf(&mut self, slot: Slot) {
        let (state, weight) = match self.fleet.get(slot) {
            None => (LeafState::Absent, 1),
            Some(server) => {
                let state = match server.health.state() {
                    State::Up => LeafState::Eligible,
                    State::Suspect => LeafState::LastResort,
                    State::Joining | State::Down | State::Draining | State::Disabled => LeafState::Barred,
                };
                (state, server.weight)
            }
        };
        self.tree.set(slot, state, cost_of(weight));
        self.usable =
            self.fleet.iter().filter(|(_, s)| matches!(s.health.state(), State::Up | State::Suspect)).count()
                as u32;
    }

    /// The server of a slot as a destination, looked up once a turn.
    fn server_destination(&mut self, slot: Slot, to: SocketAddr, tx: &mut Tx) -> Option<DestinationId> {
        let lane = &mut self.lanes[slot.index()];
        match lane.destination {
            Some((turn, destination)) if turn == self.turn => Some(destination),
            _ => {
                let destination = tx.destination(BACK, to, None)?;
                lane.destination = Some((self.turn, destination));
                Some(destination)
            }
        }
    }
}

/// Cost of a request at a server: what a unit of weight divides. Weight 1 costs most.
fn cost_of(weight: u16) -> u16 {
    const COST_OF_WEIGHT_ONE: u16 = 840; // divisible by 1 to 8, so that small weights are exact
    (COST_OF_WEIGHT_ONE / weight.max(1)).max(1)
}

impl Role for Balancer {
    fn on_batch(&mut self, now: Instant, rx: &mut Rx, tx: &mut Tx) {
        self.turn += 1;
        for index in 0..rx.len() {
            let (received, bytes) = rx.get_mut(index);
            match received.socket {
                FRONT => self.on_front(now, &received, bytes, tx),
                _ => self.on_back(now, &received, bytes, tx),
            }
        }
        self.publish();
    }

    fn on_timeout(&mut self, now: Instant, tx: &mut Tx) {
        self.notice_own_pause(now);
        if now >= self.next_tick {
            self.next_tick =
                now + (self.settings.interval / TICKS_PER_INTERVAL).max(Duration::from_millis(1));
            self.on_tick(now, tx);
        }
        self.send_order(now, tx);
        self.publish();
    }

    fn next_deadline(&self) -> Option<Instant> {
        earliest(Some(self.next_tick), self.orders.next_deadline())
    }
}

/// The frames of a receive slot. A datagram that is not a whole number of frames is one error.
fn frames<'a>(
    received: &Received,
    bytes: &'a mut [u8],
    format: FrameFormat,
) -> impl Iterator<Item = Result<(FrameRef, &'a mut [u8]), DropReason>> {
    let (slot, start, stride) = (received.slot, received.start as usize, received.stride as usize);
    bytes.chunks_mut(stride).enumerate().flat_map(move |(i, datagram)| {
        let whole = format.divides(datagram.len());
        let size = if whole { format.size } else { datagram.len() };
        let at = start + i * stride;
        datagram.chunks_mut(size).enumerate().map(move |(j, frame)| {
            let offset = (at + j * size) as u32;
            let frame_ref = FrameRef { slot, len: size as u16, offset };
            if whole { Ok((frame_ref, frame)) } else { Err(DropReason::Length) }
        })
    })
}

/// Which front address was asked, as the byte that a frame carries.
#[derive(Debug, Default)]
struct Listeners {
    local_ips: heapless::Vec<IpAddr, 255>,
}

impl Listeners {
    /// "The address that the socket is bound to, or whatever the kernel chooses."
    const UNSPECIFIED: u8 = 255;

    /// The number of a local address; the 256th and later ones share the number of nobody.
    fn number(&mut self, local_ip: Option<IpAddr>) -> u8 {
        let Some(ip) = local_ip else { return Self::UNSPECIFIED };
        let known = self.local_ips.iter().position(|&known| known == ip);
        match known {
            Some(number) => number as u8,
            None if self.local_ips.push(ip).is_ok() => (self.local_ips.len() - 1) as u8,
            None => Self::UNSPECIFIED,
        }
    }

    fn local_ip(&self, number: u8) -> Option<IpAddr> {
        self.local_ips.get(usize::from(number)).copied()
    }
}

#[cfg(test)]
mod tests;
