//! Datagrams in flight: links with faults, and sockets with bounded queues.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::{Faults, NetCounters};
use crate::base::events::Events;
use crate::base::rng::Rng;
use crate::base::time::Instant;

/// Default queue of a socket, in datagrams: what a receive buffer of 8 MiB holds.
const RECEIVE_QUEUE: usize = 10_000;

/// A datagram that has arrived.
pub(super) struct SimDatagram {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) bytes: Vec<u8>,
}

/// An attached socket.
pub(super) struct Socket {
    /// Number of this address's attachment.
    generation: u64,
    pub(super) queue: VecDeque<SimDatagram>,
    pub(super) queue_max: usize,
    /// Datagrams dropped because the queue was full.
    pub(super) dropped: u64,
}

/// One direction between two addresses.
pub(super) struct SimLink {
    pub(super) faults: Option<Faults>,
    pub(super) cut: bool,
    /// Bytes sent, also those that were lost.
    pub(super) sent: u64,
    /// Arrival of the last datagram that was not held back.
    last_arrival: Instant,
}

/// The whole network. Code only looks up the maps and never iterates over them, since their order does
/// not follow from the seed.
pub(super) struct Network {
    pub(super) now: Instant,
    pub(super) faults: Faults,
    pub(super) counters: NetCounters,
    pub(super) rng: Rng,
    links: HashMap<(SocketAddr, SocketAddr), SimLink>,
    pub(super) sockets: HashMap<SocketAddr, Socket>,
    in_flight: Events<SimDatagram>,
    generations: u64,
}

impl Network {
    pub(super) fn new(seed: u64, faults: Faults) -> Self {
        Network {
            // Not zero, like the system's clock, so that earlier moments exist.
            now: Instant::from_nanos(1_000_000_000),
            faults,
            counters: NetCounters::default(),
            rng: Rng::new(seed),
            links: HashMap::new(),
            sockets: HashMap::new(),
            in_flight: Events::new(),
            generations: 0,
        }
    }

    /// Opens a socket and returns its generation.
    pub(super) fn attach(&mut self, addr: SocketAddr) -> io::Result<u64> {
        if addr.port() == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{addr} has no port")));
        }
        if self.sockets.contains_key(&addr) {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, format!("{addr} is in use")));
        }
        self.generations += 1;
        let generation = self.generations;
        let queue = VecDeque::new();
        self.sockets.insert(addr, Socket { generation, queue, queue_max: RECEIVE_QUEUE, dropped: 0 });
        Ok(generation)
    }

    /// The socket of this attachment, unless it was detached.
    pub(super) fn socket(&mut self, addr: SocketAddr, generation: u64) -> Option<&mut Socket> {
        self.sockets.get_mut(&addr).filter(|socket| socket.generation == generation)
    }

    pub(super) fn link(&mut self, from: SocketAddr, to: SocketAddr) -> &mut SimLink {
        let link = SimLink { faults: None, cut: false, sent: 0, last_arrival: Instant::ZERO };
        self.links.entry((from, to)).or_insert(link)
    }

    /// Sends a datagram: it may be lost, or arrive twice.
    pub(super) fn send(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        let link = self.link(from, to);
        link.sent += bytes.len() as u64;
        let (cut, faults) = (link.cut, link.faults);
        let faults = faults.unwrap_or(self.faults);
        if cut || self.happens(faults.loss) {
            self.counters.lost += 1;
            return;
        }
        if self.happens(faults.duplicate) {
            self.counters.duplicated += 1;
            self.put_in_flight(from, to, bytes, faults);
        }
        self.put_in_flight(from, to, bytes, faults);
    }

    fn put_in_flight(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8], faults: Faults) {
        let mut at = self.now + self.between(faults.delay.0, faults.delay.1);
        if self.happens(faults.reorder) {
            self.counters.reordered += 1;
            at += self.between(Duration::ZERO, faults.hold_back());
        } else {
            let link = self.link(from, to);
            at = at.max(link.last_arrival);
            link.last_arrival = at;
        }
        self.in_flight.plan(at, SimDatagram { from, to, bytes: bytes.to_vec() });
    }

    /// When the next datagram arrives.
    pub(super) fn next_event(&self) -> Option<Instant> {
        self.in_flight.next_at()
    }

    /// Advances the time, and delivers the datagrams that are due.
    pub(super) fn advance(&mut self, to: Instant) {
        assert!(to >= self.now, "time does not run backwards");
        self.now = to;
        while self.next_event().is_some_and(|at| at <= to) {
            if let Some((_, datagram)) = self.in_flight.pop() {
                self.deliver(datagram);
            }
        }
    }

    fn deliver(&mut self, datagram: SimDatagram) {
        let to = datagram.to;
        let at = if self.sockets.contains_key(&to) { to } else { wildcard(to) };
        match self.sockets.get_mut(&at) {
            None => self.counters.unreachable += 1,
            Some(socket) if socket.queue.len() >= socket.queue_max => socket.dropped += 1,
            Some(socket) => socket.queue.push_back(datagram),
        }
    }

    fn happens(&mut self, probability: f64) -> bool {
        // No draw for a probability of zero.
        probability > 0.0 && self.rng.unit_f64() < probability
    }

    fn between(&mut self, shortest: Duration, longest: Duration) -> Duration {
        let span = longest.saturating_sub(shortest).as_nanos() as u64;
        shortest + Duration::from_nanos(if span == 0 { 0 } else { self.rng.below(span + 1) })
    }
}

/// Address of the socket that receives datagrams for every address of this port.
fn wildcard(addr: SocketAddr) -> SocketAddr {
    let ip = match addr.ip() {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    SocketAddr::new(ip, addr.port())
}
