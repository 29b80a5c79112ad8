//! A datagram pool's loops, one a worker, and their sockets.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::ops::Range;

use tracing::{info, warn};

use super::worker::Balancing;
use crate::admin::status::{EventLog, Kind};
use crate::base::batch::SocketId;
use crate::base::drop_reason::DropReason;
use crate::base::time::Instant;
use crate::daemon::handover::{SocketKind, SocketSet};
use crate::io::socket::{SocketOptions, bind};
use crate::io::{DatagramIo, IoCounters, IoOptions};
use crate::pool::event::Event;
use crate::pool::health::State;
use crate::role::datagram::{DatagramRole, ProxyProtocol, Sockets, WorkerSockets};

/// Which sockets a pool needs.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// Whether the sockets of this plan are all that `other` needs.
    pub fn covers(&self, other: &Plan) -> bool {
        let has = |mine: Option<IpAddr>, theirs: Option<IpAddr>| theirs.is_none() || mine == theirs;
        self.listen == other.listen
            && (self.workers, self.ports) == (other.workers, other.ports)
            && (self.checks, self.transparent) == (other.checks, other.transparent)
            && has(self.v4.map(Into::into), other.v4.map(Into::into))
            && has(self.v6.map(Into::into), other.v6.map(Into::into))
    }

    /// Opens the sockets of each worker of the pool of this name; fronts that are in `inherited` are taken from there.
    pub fn open(
        &self,
        pool: &str,
        inherited: &mut SocketSet,
    ) -> io::Result<Vec<(Vec<UdpSocket>, WorkerSockets)>> {
        let fronts = self.open_fronts(pool, inherited)?;
        fronts.into_iter().enumerate().map(|(worker, fronts)| self.open_worker(worker, fronts)).collect()
    }

    /// Opens where clients ask, for each worker.
    pub fn open_fronts(&self, pool: &str, inherited: &mut SocketSet) -> io::Result<Vec<Vec<UdpSocket>>> {
        let front = SocketOptions { fragments: true, ..SocketOptions::default() };
        let shared = SocketOptions { reuse_port: self.workers > 1, ..front };
        let is_ours = |inherited: &SocketSet, addr| {
            (0..self.workers).any(|worker| inherited.has(pool, SocketKind::Front, worker as u16, addr))
        };
        if shared.reuse_port {
            // A shared port can be shared with anybody of the same user, who would take a part of the requests in
            // silence. So it must be free before it is shared, if it is not ours already.
            for &addr in self.listen.iter().filter(|&&addr| !is_ours(inherited, addr)) {
                drop(bind(addr, &front)?);
            }
        }
        let mut open =
            |worker: usize, addr| match inherited.take(pool, SocketKind::Front, worker as u16, addr) {
                Some(socket) => Ok(socket.into()),
                None => bind(addr, &shared),
            };
        let mut of_worker =
            |worker| self.listen.iter().map(|&addr| open(worker, addr)).collect::<io::Result<_>>();
        (0..self.workers).map(&mut of_worker).collect()
    }

    fn open_worker(
        &self,
        worker: usize,
        mut open: Vec<UdpSocket>,
    ) -> io::Result<(Vec<UdpSocket>, WorkerSockets)> {
        let back = SocketOptions {
            fragments: true,
            report_errors: true,
            transparent: self.transparent,
            ..SocketOptions::default()
        };
        let ports = (self.ports / self.workers).max(1);
        let (v4, v6) = (self.v4.map(IpAddr::V4), self.v6.map(IpAddr::V6));
        let fronts = 0..open.len() as u16;
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
            fronts,
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

/// What of the I/O layer's figures is in the accounts already.
#[derive(Default)]
pub struct Seen {
    counters: IoCounters,
    /// Datagrams of clients that are no use: empty, or cut.
    unusable: u64,
}

impl Balancing for DatagramRole {
    type Seen = Seen;

    fn fronts(&self) -> Range<u16> {
        self.sockets().fronts.clone()
    }

    fn retire(&mut self, now: Instant) {
        DatagramRole::retire(self, now);
    }

    fn is_idle(&self, now: Instant) -> bool {
        DatagramRole::is_idle(self, now)
    }

    fn can_serve(&self) -> bool {
        self.shared().can_serve()
    }

    fn tell(&mut self, events: &EventLog) {
        while let Some(event) = self.poll_event() {
            tell(self.shared().name(), &event, events);
        }
    }

    fn account(&self, io: &impl DatagramIo, seen: &mut Seen) {
        let now = io.counters();
        if now == seen.counters {
            return;
        }
        let stats = self.stats();
        let fronts = || self.fronts().map(SocketId);
        let unusable = fronts().map(|front| io.unusable(front)).sum();
        let newly = unusable - std::mem::replace(&mut seen.unusable, unusable);
        stats.common.received.add(newly);
        stats.common.refused.add(DropReason::Length, newly);
        let drops = fronts().map(|front| io.kernel_drops(front)).sum();
        stats.common.kernel_drops.set(drops);
        stats.common.kernel_drops_back.set(now.kernel_drops - drops);
        stats.common.send_drops.set(now.send_full + now.send_failed);
        stats.common.gso_off.set(now.gso_off);
        if now.gso_off != seen.counters.gso_off {
            warn!("the kernel refuses segmentation offload (UDP_SEGMENT): sending datagram by datagram");
        }
        seen.counters = now;
    }

    fn tell_end(&self) {
        let (stats, pool) = (self.stats(), self.shared().name());
        info!(
            pool,
            received = stats.common.received.get(),
            answered = stats.common.answered.get(),
            timed_out = stats.timed_out.get(),
            forwarded = stats.forwarded.get(),
            refused = stats.common.refused.total(),
            in_flight = stats.in_flight.get(),
            kernel_drops = stats.common.kernel_drops.get(),
            "stopped"
        );
    }
}

fn tell(pool: &str, event: &Event, events: &EventLog) {
    let note = |kind, server, text: String| events.note(kind, pool, server, text);
    match event {
        Event::Joined { id, addr } => {
            info!(pool, server = id, %addr, "joined");
            note(Kind::Server, Some(*id), format!("server {id} at {addr} joined"));
        }
        Event::State { id, addr, state, reason: why } => {
            match state {
                State::Suspect | State::Down | State::Held => {
                    warn!(pool, server = id, %addr, state = state.name(), %why, "state");
                }
                _ => info!(pool, server = id, %addr, state = state.name(), %why, "state"),
            }
            note(Kind::Server, Some(*id), format!("server {id} at {addr} is {}: {why}", state.name()));
        }
        Event::Left { id, addr, .. } => {
            info!(pool, server = id, %addr, "left");
            note(Kind::Server, Some(*id), format!("server {id} at {addr} left"));
        }
        Event::NoRoom { addr } => {
            warn!(pool, %addr, "no room for this server: raise servers_max");
            note(Kind::Notice, None, format!("no room for {addr}: raise servers_max"));
        }
        Event::NoPort { addr } => {
            warn!(pool, %addr, "this machine has no address of this server's family");
            note(Kind::Notice, None, format!("no address of {addr}'s family on this machine"));
        }
        Event::Stalled(gap) => {
            warn!(pool, ?gap, "this process was away: no verdicts about that time");
            note(Kind::Notice, None, format!("this process was away for {gap:?}"));
        }
        Event::Scale { .. } | Event::Controller(_) => unreachable!("of the native pool"),
        Event::FailOpen(true) => {
            warn!(pool, "too many servers are down or held: using all of them");
            note(Kind::Notice, None, "too many servers are down or held: using all of them".to_owned());
        }
        Event::FailOpen(false) => {
            info!(pool, "enough servers are up again: using those only");
            note(Kind::Notice, None, "enough servers are up again: using those only".to_owned());
        }
    }
}
