//! A virtual network for simulations: virtual time, seeded faults, and the interface of a real back end.

mod network;

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use self::network::{Network, SimDatagram};
use super::packing::{PAYLOAD_MAX, PackingLimits, Range, SEGMENTS_MAX, next_message};
use super::ready::{ReadySockets, SocketRead};
use super::{DatagramIo, IoCounters, IoOptions};
use crate::base::batch::{Received, Rx, SocketId, Tx};
use crate::base::rng::Rng;
use crate::base::time::Instant;

/// Faults of a link. Probabilities are per datagram.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Faults {
    /// Probability of loss.
    pub loss: f64,
    /// Probability of arriving twice.
    pub duplicate: f64,
    /// Minimum and maximum delay, uniformly distributed. Datagrams of one link do not overtake each
    /// other, except by `reorder`.
    pub delay: (Duration, Duration),
    /// Probability of being held back by up to twice the maximum delay plus one millisecond, so that
    /// others pass.
    pub reorder: f64,
}

impl Faults {
    /// No faults, and this delay.
    pub const fn none(delay: Duration) -> Self {
        Faults { loss: 0.0, duplicate: 0.0, delay: (delay, delay), reorder: 0.0 }
    }

    fn hold_back(&self) -> Duration {
        self.delay.1 * 2 + Duration::from_millis(1)
    }
}

/// Counters of the network's faults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetCounters {
    /// Datagrams lost on the way, or on a link that was cut.
    pub lost: u64,
    /// Datagrams delivered twice.
    pub duplicated: u64,
    /// Datagrams held back so that others could pass.
    pub reordered: u64,
    /// Datagrams that arrived at an address without a socket.
    pub unreachable: u64,
}

/// A virtual network. Cheap to clone: clones are the same network.
///
/// The driver of a simulation controls time. It repeats these steps: find the earliest of
/// [`SimNet::next_event`] and the roles' deadlines, [`SimNet::advance`] to it, and run a turn of every
/// role that has data or a deadline. [`DatagramIo::wait`] of a [`SimIo`] therefore returns at once. The
/// same seed and order of turns reproduce a run, datagram for datagram.
#[derive(Clone)]
pub struct SimNet(Rc<RefCell<Network>>);

impl SimNet {
    /// A network whose links all have these faults; `seed` determines all randomness.
    pub fn new(seed: u64, faults: Faults) -> Self {
        SimNet(Rc::new(RefCell::new(Network::new(seed, faults))))
    }

    /// The virtual time.
    pub fn now(&self) -> Instant {
        self.0.borrow().now
    }

    /// When the next datagram arrives; `None` if none is in flight.
    pub fn next_event(&self) -> Option<Instant> {
        self.0.borrow().next_event()
    }

    /// Advances the time to `to`, which must not be in the past, and delivers the datagrams due by then.
    pub fn advance(&self, to: Instant) {
        self.0.borrow_mut().advance(to);
    }

    /// A back end with these sockets; their order gives their numbers. A wildcard address receives what
    /// no other socket of its port receives.
    pub fn attach(&self, addrs: &[SocketAddr], options: &IoOptions) -> io::Result<SimIo> {
        let (rx, tx) = options.memory();
        let mut io = SimIo {
            network: self.0.clone(),
            sockets: Vec::with_capacity(addrs.len()),
            ready: ReadySockets::new(addrs.len()),
            rng: Rng::new(self.0.borrow_mut().rng.next_u64()),
            rx,
            tx,
            slots_used: 0,
            ranges: Vec::new(),
            datagram: Vec::new(),
            counters: IoCounters::default(),
        };
        for &addr in addrs {
            let generation = self.0.borrow_mut().attach(addr)?;
            io.sockets.push(Attached { addr, generation, is_paused: false, drops: 0, unusable: 0 });
        }
        Ok(io)
    }

    /// Closes the socket of this address, as when its process is killed. Its data and the datagrams in
    /// flight to it are lost. The address can then be attached again.
    pub fn detach(&self, addr: SocketAddr) {
        self.0.borrow_mut().sockets.remove(&addr);
    }

    /// Cuts the link from one address to another, or restores it. The opposite direction is another link.
    pub fn cut(&self, from: SocketAddr, to: SocketAddr, cut: bool) {
        self.0.borrow_mut().link(from, to).cut = cut;
    }

    /// Gives the link from one address to another its own faults, or removes them.
    pub fn set_link_faults(&self, from: SocketAddr, to: SocketAddr, faults: Option<Faults>) {
        self.0.borrow_mut().link(from, to).faults = faults;
    }

    /// Bytes sent from one address to another so far, also those that were lost on the way.
    pub fn sent_between(&self, from: SocketAddr, to: SocketAddr) -> u64 {
        self.0.borrow_mut().link(from, to).sent
    }

    /// Bounds the receive queue of a socket, in datagrams. Datagrams beyond it count as dropped by the
    /// kernel.
    pub fn set_receive_queue(&self, addr: SocketAddr, datagrams: usize) {
        if let Some(socket) = self.0.borrow_mut().sockets.get_mut(&addr) {
            socket.queue_max = datagrams;
        }
    }

    /// The counters so far.
    pub fn counters(&self) -> NetCounters {
        self.0.borrow().counters
    }
}

/// Batch I/O over a [`SimNet`]. Dropping it closes its sockets. At random, it merges equal datagrams of
/// one peer, as many as fit in a slot, so that roles see the effect of GRO.
pub struct SimIo {
    network: Rc<RefCell<Network>>,
    sockets: Vec<Attached>,
    ready: ReadySockets,
    rng: Rng,
    rx: Rx,
    tx: Tx,
    slots_used: usize,
    ranges: Vec<Range>,
    datagram: Vec<u8>,
    counters: IoCounters,
}

/// A socket of a back end. After it was detached, another socket may have its address.
#[derive(Clone, Copy)]
struct Attached {
    addr: SocketAddr,
    generation: u64,
    is_paused: bool,
    /// Datagrams dropped because the queue was full.
    drops: u64,
    /// Datagrams that were empty or truncated.
    unusable: u64,
}

impl SimIo {
    /// Whether [`DatagramIo::receive`] would return data.
    pub fn is_readable(&self) -> bool {
        let mut network = self.network.borrow_mut();
        let mut read = self.sockets.iter().filter(|s| !s.is_paused);
        read.any(|s| network.socket(s.addr, s.generation).is_some_and(|s| !s.queue.is_empty()))
    }
}

impl DatagramIo for SimIo {
    fn wait(&mut self, _deadline: Option<Instant>) -> io::Result<()> {
        Ok(())
    }

    fn receive(&mut self) -> io::Result<()> {
        let SimIo { network, sockets, ready, rng, rx, slots_used, counters, .. } = self;
        let mut network = network.borrow_mut();
        for (id, _) in (0..).map(SocketId).zip(&*sockets).filter(|(_, socket)| !socket.is_paused) {
            ready.insert(id);
        }
        ready.deal(rx.slot_count() - *slots_used, |id, share| {
            let Attached { addr, generation, drops, unusable, .. } = &mut sockets[id.0 as usize];
            let (addr, generation) = (*addr, *generation);
            let Some(socket) = network.socket(addr, generation) else {
                return SocketRead { taken: 0, drained: true };
            };
            let dropped = std::mem::take(&mut socket.dropped);
            counters.kernel_drops += dropped;
            *drops += dropped;
            let mut taken = 0;
            while taken < share
                && let Some(datagram) = socket.queue.pop_front()
            {
                let slot = *slots_used as u16;
                let local_ip = addr.ip().is_unspecified().then_some(datagram.to.ip());
                match fill(rx.slot_mut(slot), &datagram, &mut socket.queue, rng) {
                    None => {
                        let is_empty = datagram.bytes.is_empty();
                        *if is_empty { &mut counters.empty } else { &mut counters.truncated } += 1;
                        *unusable += 1;
                    }
                    Some(len) => {
                        let stride = datagram.bytes.len() as u32;
                        counters.received += u64::from(len.div_ceil(stride));
                        let (socket, peer) = (id, datagram.from);
                        rx.push(Received { socket, peer, local_ip, slot, start: 0, len, stride });
                    }
                }
                *slots_used += 1;
                taken += 1;
            }
            SocketRead { taken, drained: taken < share }
        });
        Ok(())
    }

    fn turn(&mut self) -> (&mut Rx, &mut Tx) {
        (&mut self.rx, &mut self.tx)
    }

    fn flush(&mut self) -> io::Result<()> {
        let SimIo { network, sockets, rx, tx, ranges, datagram, counters, .. } = self;
        let mut network = network.borrow_mut();
        let limits = PackingLimits {
            frames_per_datagram: tx.frames_per_datagram(),
            datagram_max: PAYLOAD_MAX,
            segments: 1,
        };
        for destination in tx.destinations() {
            let Attached { addr, generation, .. } = sockets[destination.socket.0 as usize];
            let from = SocketAddr::new(source_ip(addr, destination.source_ip), addr.port());
            let to = destination.to;
            let is_open = network.socket(addr, generation).is_some();
            let mut frames = tx.frames(destination).filter(|frame| frame.len > 0).peekable();
            while let Some(packed) = next_message(&mut frames, limits, ranges) {
                datagram.clear();
                for r in ranges.drain(..) {
                    datagram.extend_from_slice(tx.range(rx, r.slot, r.offset, r.len));
                }
                let same_family = from.is_ipv4() == to.is_ipv4();
                if packed.bytes > PAYLOAD_MAX {
                    counters.send_too_large += 1;
                } else if is_open && same_family && to.port() != 0 {
                    network.send(from, to, datagram);
                    counters.sent += 1;
                } else {
                    counters.send_failed += 1;
                }
            }
        }
        tx.clear();
        rx.clear();
        self.slots_used = 0;
        Ok(())
    }

    fn local_addr(&self, socket: SocketId) -> SocketAddr {
        self.sockets[socket.0 as usize].addr
    }

    fn counters(&self) -> IoCounters {
        self.counters
    }

    fn kernel_drops(&self, socket: SocketId) -> u64 {
        self.sockets[socket.0 as usize].drops
    }

    fn unusable(&self, socket: SocketId) -> u64 {
        self.sockets[socket.0 as usize].unusable
    }

    /// No effect: drops are counted in each turn, when the socket is read.
    fn recount_drops(&mut self) {}

    fn pause(&mut self, socket: SocketId) -> io::Result<()> {
        self.sockets[socket.0 as usize].is_paused = true;
        self.ready.remove(socket);
        Ok(())
    }

    fn resume(&mut self, socket: SocketId) -> io::Result<()> {
        self.sockets[socket.0 as usize].is_paused = false;
        Ok(())
    }
}

impl Drop for SimIo {
    fn drop(&mut self) {
        let mut network = self.network.borrow_mut();
        for &Attached { addr, generation, .. } in &self.sockets {
            if network.socket(addr, generation).is_some() {
                network.sockets.remove(&addr);
            }
        }
    }
}

/// Puts a datagram into a slot. At random, it adds the following ones that could be merged: from the
/// same peer and of equal length; the last may be shorter. Returns the total size; `None` if it is zero
/// or too large.
fn fill(
    slot: &mut [u8],
    first: &SimDatagram,
    queue: &mut std::collections::VecDeque<SimDatagram>,
    rng: &mut Rng,
) -> Option<u32> {
    let stride = first.bytes.len();
    if stride == 0 {
        return None;
    }
    slot.get_mut(..stride)?.copy_from_slice(&first.bytes);
    let mut len = stride;
    for _ in 1..SEGMENTS_MAX {
        let follows = queue.front().is_some_and(|next| {
            let next_len = next.bytes.len();
            let same_flow = next.from == first.from && next.to == first.to;
            same_flow && (1..=stride).contains(&next_len) && len + next_len <= slot.len()
        });
        if !follows || rng.below(4) == 0 {
            break;
        }
        let Some(next) = queue.pop_front() else { break };
        slot[len..len + next.bytes.len()].copy_from_slice(&next.bytes);
        len += next.bytes.len();
        if next.bytes.len() < stride {
            break;
        }
    }
    Some(len as u32)
}

/// The source address of a datagram.
fn source_ip(bound: SocketAddr, asked_for: Option<IpAddr>) -> IpAddr {
    match (asked_for, bound.ip()) {
        (Some(ip), _) => ip,
        (None, IpAddr::V4(ip)) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        (None, IpAddr::V6(ip)) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        (None, ip) => ip,
    }
}

#[cfg(test)]
mod tests;
