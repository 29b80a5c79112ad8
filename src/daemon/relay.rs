//! A datagram pool's loops, one a worker, and their sockets.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use tracing::{info, warn};

use super::affinity;
use super::signals::Stop;
use super::threads::Job;
use super::turn;
use crate::batch::SocketId;
use crate::drop_reason::DropReason;
use crate::health::State;
use crate::io::socket::{SocketOptions, bind};
use crate::io::{DatagramIo, IoCounters, IoOptions};
use crate::role::relay::{Event, ProxyProtocol, Relay, Sockets, WorkerSockets};
use crate::time::Clock;

/// Which sockets a pool needs.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where clients ask.
    pub listen: Vec<SocketAddr>,
    /// Worker threads.
    pub workers: usize,
    /// Ports towards servers, of all workers together; each has at least one.
    pub ports: usize,
    /// Where ports towards IPv4 servers are bound; `None` if there are no such servers.
    pub v4: Option<Ipv4Addr>,
    /// The same for IPv6.
    pub v6: Option<Ipv6Addr>,
    /// Whether servers are checked.
    pub checks: bool,
    /// Whether servers see the client's address as the source.
    pub transparent: bool,
}

impl Plan {
    /// Sockets that will be open.
    pub fn socket_count(&self) -> usize {
        let families = usize::from(self.v4.is_some()) + usize::from(self.v6.is_some());
        let fronts = self.listen.len() * self.workers;
        fronts + families * (self.ports.max(self.workers) + usize::from(self.checks))
    }

    /// Opens the sockets of each worker.
    pub fn open(&self) -> io::Result<Vec<(Vec<UdpSocket>, WorkerSockets)>> {
        let front = SocketOptions { fragments: true, ..SocketOptions::default() };
        if self.workers > 1 {
            // A shared port can be shared with anybody of the same user, who would take a part of the requests in
            // silence. So it must be free before it is shared.
            for &addr in &self.listen {
                drop(bind(addr, &front)?);
            }
        }
        let front = SocketOptions { reuse_port: self.workers > 1, ..front };
        (0..self.workers).map(|worker| self.open_worker(worker, &front)).collect()
    }

    fn open_worker(
        &self,
        worker: usize,
        front: &SocketOptions,
    ) -> io::Result<(Vec<UdpSocket>, WorkerSockets)> {
        let back = SocketOptions {
            fragments: true,
            report_errors: true,
            transparent: self.transparent,
            ..SocketOptions::default()
        };
        let ports = (self.ports / self.workers).max(1);
        let (v4, v6) = (self.v4.map(IpAddr::V4), self.v6.map(IpAddr::V6));
        let mut open = vec![];
        let mut open_all = |addrs: &mut dyn Iterator<Item = SocketAddr>, options: &SocketOptions| {
            let start = open.len() as u16;
            for addr in addrs {
                open.push(bind(addr, options)?);
            }
            Ok::<_, io::Error>(start..open.len() as u16)
        };
        let many = |ip: Option<IpAddr>| {
            ip.into_iter().flat_map(move |ip| (0..ports).map(move |_| SocketAddr::new(ip, 0)))
        };
        let one = |ip: Option<IpAddr>| {
            let ip = ip.filter(|_| self.checks && worker == 0);
            ip.into_iter().map(|ip| SocketAddr::new(ip, 0))
        };
        let mut sockets = Sockets {
            fronts: open_all(&mut self.listen.iter().copied(), front)?,
            v4: open_all(&mut many(v4), &back)?,
            v6: open_all(&mut many(v6), &back)?,
            check_v4: None,
            check_v6: None,
        };
        let plain = SocketOptions { transparent: false, ..back };
        sockets.check_v4 = open_all(&mut one(v4), &plain)?.next();
        sockets.check_v6 = open_all(&mut one(v6), &plain)?.next();
        let addrs = open.iter().map(UdpSocket::local_addr).collect::<io::Result<_>>()?;
        Ok((open, WorkerSockets { sockets, addrs }))
    }
}

/// Whether this machine has IPv6 at all.
pub fn has_ipv6() -> bool {
    UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

/// The sizes of a turn. Headers before datagrams make copies of these, for which there is more room then.
pub fn io_options(proxy_protocol: ProxyProtocol) -> IoOptions {
    let staging_bytes = if proxy_protocol == ProxyProtocol::Off { 256 << 10 } else { 4 << 20 };
    IoOptions { staging_bytes, prefault: true, ..IoOptions::default() }
}

/// A worker and its sockets.
pub struct Worker<I> {
    /// What it does.
    pub role: Relay,
    /// Its sockets.
    pub io: I,
    /// The processor that it stays on, if it shall.
    pub processor: Option<usize>,
}

impl<I: DatagramIo + Send + 'static> Worker<I> {
    /// Its loop.
    pub fn job(self, number: usize, clock: Clock, stop: &Stop) -> Job<'_> {
        let name = format!("{}-{number}", self.role.shared().name());
        Job { name, work: Box::new(move || work(self, clock, stop)) }
    }
}

fn work<I: DatagramIo>(worker: Worker<I>, clock: Clock, stop: &Stop) -> io::Result<()> {
    let Worker { mut role, mut io, processor } = worker;
    if let Some(processor) = processor {
        affinity::stay_on(processor)
            .unwrap_or_else(|error| warn!(processor, %error, "cannot stay on a processor"));
    }
    let mut seen = Seen::default();
    let mut result = Ok(());
    while result.is_ok() && !stop.is_asked() {
        result = turn(&mut io, &mut role, &clock).map(drop);
        while let Some(event) = role.poll_event() {
            log(role.shared().name(), &event);
        }
        account(&io, &mut seen, &role);
    }
    io.recount_drops();
    account(&io, &mut seen, &role);
    let (stats, pool) = (role.stats(), role.shared().name());
    info!(
        pool,
        received = stats.received.get(),
        answered = stats.answered.get(),
        timed_out = stats.timed_out.get(),
        forwarded = stats.forwarded.get(),
        refused = stats.refused.total(),
        in_flight = stats.in_flight.get(),
        kernel_drops = stats.kernel_drops.get(),
        "stopped"
    );
    result
}

/// What of the I/O layer's figures is in the accounts already.
#[derive(Default)]
struct Seen {
    counters: IoCounters,
    /// Datagrams of clients that are no use: empty, or cut.
    unusable: u64,
}

/// Brings the figures of the I/O layer into the accounts.
fn account(io: &impl DatagramIo, seen: &mut Seen, role: &Relay) {
    let now = io.counters();
    if now == seen.counters {
        return;
    }
    let stats = role.stats();
    let fronts = || role.sockets().fronts.clone().map(SocketId);
    let unusable = fronts().map(|front| io.unusable(front)).sum();
    let newly = unusable - std::mem::replace(&mut seen.unusable, unusable);
    stats.received.add(newly);
    stats.refused.add(DropReason::Length, newly);
    let drops = fronts().map(|front| io.kernel_drops(front)).sum();
    stats.kernel_drops.set(drops);
    stats.kernel_drops_back.set(now.kernel_drops - drops);
    stats.send_drops.set(now.send_full + now.send_failed);
    stats.gso_off.set(now.gso_off);
    if now.gso_off != seen.counters.gso_off {
        warn!("the kernel refuses segmentation offload (UDP_SEGMENT): sending datagram by datagram");
    }
    seen.counters = now;
}

fn log(pool: &str, event: &Event) {
    match event {
        Event::Joined { id, addr } => info!(pool, server = id, %addr, "joined"),
        Event::State { id, addr, state, why } => match state {
            State::Suspect | State::Down | State::Held => {
                warn!(pool, server = id, %addr, state = state.name(), %why, "state")
            }
            _ => info!(pool, server = id, %addr, state = state.name(), %why, "state"),
        },
        Event::Left { id, addr } => info!(pool, server = id, %addr, "left"),
        Event::NoRoom { addr } => warn!(pool, %addr, "no room for this server: raise servers_max"),
        Event::NoPort { addr } => warn!(pool, %addr, "this machine has no address of this server's family"),
        Event::FailOpen(true) => warn!(pool, "too many servers are down or held: using all of them"),
        Event::FailOpen(false) => info!(pool, "enough servers are up again: using those only"),
    }
}
