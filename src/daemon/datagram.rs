//! The sockets of a datagram pool, and its role as a worker's loop drives it.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::ops::Range;

use super::worker::Balancing;
use crate::base::drop_reason::DropReason;
use crate::base::time::Instant;
use crate::daemon::handover::{InheritedSocket, SocketKind, SocketSet};
use crate::io::IoOptions;
use crate::io::socket::{SocketOptions, bind, is_transparent};
use crate::pool::event::Event;
use crate::pool::part::Part;
use crate::pool::stats::{DatagramStats, WorkerStats};
use crate::role::datagram::{
    Affinity, DatagramRole, PortOrigin, ProxyProtocol, SocketOrigins, Sockets, WorkerSockets,
};

/// The sockets of each worker of a pool, and which of them a predecessor had.
pub struct OpenSockets {
    /// By worker.
    pub workers: Vec<(Vec<UdpSocket>, WorkerSockets)>,
    /// Where the sockets of the predecessor's workers are.
    pub origins: SocketOrigins,
}

/// By worker and number of an inherited client-side socket: the worker here, and its number there.
type FrontIds = HashMap<(u16, u16), (u16, u16)>;

/// Inherited server-side ports of one worker.
#[derive(Default)]
struct WorkerPorts {
    v4: Vec<UdpSocket>,
    v6: Vec<UdpSocket>,
}

/// The sockets of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketPlan {
    /// The client-side addresses.
    pub listen: Vec<SocketAddr>,
    /// Worker threads.
    pub workers: usize,
    /// Server-side ports, of all workers together; each worker has at least one.
    pub ports: usize,
    /// The local address of ports towards IPv4 servers; `None` without such servers.
    pub v4: Option<Ipv4Addr>,
    /// The local address of ports towards IPv6 servers; `None` without such servers.
    pub v6: Option<Ipv6Addr>,
    /// Whether health checks are sent.
    pub checks: bool,
    /// Whether servers see the client's address as the source.
    pub transparent: bool,
    /// Whether flows keep their port over a takeover.
    pub keeps_ports: bool,
}

impl SocketPlan {
    /// Whether the sockets of this plan include all sockets of `other`.
    pub fn covers(&self, other: &SocketPlan) -> bool {
        let has = |mine: Option<IpAddr>, theirs: Option<IpAddr>| theirs.is_none() || mine == theirs;
        self.listen == other.listen
            && (self.workers, self.ports) == (other.workers, other.ports)
            && (self.checks, self.transparent) == (other.checks, other.transparent)
            && has(self.v4.map(Into::into), other.v4.map(Into::into))
            && has(self.v6.map(Into::into), other.v6.map(Into::into))
    }

    /// Opens the sockets of each worker of the pool of this name. Sockets that are in `inherited` are taken
    /// from there: all client-side sockets of these addresses, and all server-side ports if flows can go on.
    pub fn open(&self, pool: &str, inherited: &mut SocketSet) -> io::Result<OpenSockets> {
        let (fronts, ids) = self.open_fronts(pool, inherited)?;
        let before = ids.keys().map(|(worker, _)| usize::from(*worker) + 1).max().unwrap_or(0);
        let (ports, origins) = self.inherited_ports(inherited.take_all(pool, SocketKind::Back), before);
        let workers = fronts.into_iter().zip(ports).enumerate();
        let workers = workers.map(|(worker, (fronts, ports))| self.open_worker(worker, fronts, ports));
        Ok(OpenSockets {
            workers: workers.collect::<io::Result<_>>()?,
            origins: SocketOrigins { fronts: ids, ports: origins },
        })
    }

    /// Opens the client-side sockets of each worker. The kernel assigns clients to sockets, so each inherited
    /// socket of these addresses is read, also if there were more workers. Returns where each of them is too.
    pub fn open_fronts(
        &self,
        pool: &str,
        inherited: &mut SocketSet,
    ) -> io::Result<(Vec<Vec<UdpSocket>>, FrontIds)> {
        let front = SocketOptions { fragments: true, ..SocketOptions::default() };
        let shared = SocketOptions { reuse_port: self.workers > 1, ..front };
        let old = inherited.take_all(pool, SocketKind::Front);
        let is_ours = |addr| old.iter().any(|one| is_at(one.addr, addr));
        if shared.reuse_port {
            // Any process of the same user can share a shared port, and would take a part of the requests
            // unnoticed. So the port must be free before it is shared, unless it is ours already.
            for &addr in self.listen.iter().filter(|&&addr| !is_ours(addr)) {
                drop(bind(addr, &front)?);
            }
        }
        let mut fronts: Vec<Vec<UdpSocket>> = (0..self.workers).map(|_| vec![]).collect();
        let mut ids = FrontIds::new();
        for one in old {
            if self.listen.iter().any(|&addr| is_at(one.addr, addr)) {
                let worker = usize::from(one.worker) % self.workers;
                ids.insert((one.worker, one.number), (worker as u16, fronts[worker].len() as u16));
                fronts[worker].push(UdpSocket::from(one.socket));
            }
        }
        for fronts in &mut fronts {
            for &addr in &self.listen {
                let has = |front: &UdpSocket| front.local_addr().is_ok_and(|local| is_at(local, addr));
                if !fronts.iter().any(has) {
                    fronts.push(bind(addr, &shared)?);
                }
            }
        }
        Ok((fronts, ids))
    }

    /// Distributes the server-side ports of a predecessor with `before` workers over the workers here, if its
    /// flows can go on: see `SocketPlan::can_use`. Each goes where the client-side sockets of its worker go.
    fn inherited_ports(
        &self,
        old: Vec<InheritedSocket>,
        before: usize,
    ) -> (Vec<WorkerPorts>, Vec<PortOrigin>) {
        let mut ports = vec![];
        ports.resize_with(self.workers, WorkerPorts::default);
        let can_go_on = self.keeps_ports && before >= self.workers;
        let mut old: Vec<_> =
            old.into_iter().map(|of| (of.worker, of.addr, UdpSocket::from(of.socket))).collect();
        if !can_go_on || old.is_empty() || !old.iter().all(|(_, addr, socket)| self.can_use(*addr, socket)) {
            return (ports, vec![]);
        }
        old.sort_by_key(|(worker, ..)| *worker); // the order of one worker's ports stays
        let mut old = old.into_iter().peekable();
        let mut place = |number: usize| {
            let worker = number % self.workers;
            let here = &mut ports[worker];
            let (v4, v6) = (here.v4.len() as u16, here.v6.len() as u16);
            while let Some((_, addr, socket)) = old.next_if(|(of, ..)| usize::from(*of) == number) {
                if addr.is_ipv4() { here.v4.push(socket) } else { here.v6.push(socket) }
            }
            PortOrigin { worker: worker as u16, v4, v6 }
        };
        let origins = (0..before).map(&mut place).collect();
        (ports, origins)
    }

    /// Whether an inherited port can reach the servers: its address is that of a new one or any, and so is
    /// its way to choose the source address.
    fn can_use(&self, addr: SocketAddr, socket: &UdpSocket) -> bool {
        let wanted = if addr.is_ipv4() { self.v4.map(IpAddr::V4) } else { self.v6.map(IpAddr::V6) };
        let is_usable = addr.ip().is_unspecified() || wanted.is_none_or(|wanted| wanted == addr.ip());
        is_usable && is_transparent(socket).is_ok_and(|is| is == self.transparent)
    }

    fn open_worker(
        &self,
        worker: usize,
        mut open: Vec<UdpSocket>,
        inherited: WorkerPorts,
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
        let mut open_all = |inherited: Vec<UdpSocket>,
                            addrs: &mut dyn Iterator<Item = SocketAddr>,
                            options: &SocketOptions| {
            let start = open.len() as u16;
            let missing = addrs.skip(inherited.len());
            open.extend(inherited);
            for addr in missing {
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
            v4: open_all(inherited.v4, &mut many(v4), &back)?,
            v6: open_all(inherited.v6, &mut many(v6), &back)?,
            check_v4: None,
            check_v6: None,
        };
        let plain = SocketOptions { transparent: false, ..back };
        sockets.check_v4 = open_all(vec![], &mut one(v4), &plain)?.next();
        sockets.check_v6 = open_all(vec![], &mut one(v6), &plain)?.next();
        let addrs = open.iter().map(UdpSocket::local_addr).collect::<io::Result<_>>()?;
        Ok((open, WorkerSockets { sockets, addrs }))
    }
}

/// Whether a socket at this address serves this address of a configuration, where port 0 is any port.
fn is_at(socket: SocketAddr, addr: SocketAddr) -> bool {
    socket.ip() == addr.ip() && (addr.port() == 0 || socket.port() == addr.port())
}

/// Whether this machine supports IPv6.
pub fn has_ipv6() -> bool {
    UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

/// The sizes of a turn. With PROXY headers the datagrams are copied, which needs more staging memory.
pub fn io_options(proxy_protocol: ProxyProtocol, prefault: bool) -> IoOptions {
    let staging_bytes = if proxy_protocol == ProxyProtocol::Off { 256 << 10 } else { 4 << 20 };
    IoOptions { staging_bytes, prefault, ..IoOptions::default() }
}

impl Balancing for DatagramRole {
    fn fronts(&self) -> Range<u16> {
        self.sockets().fronts.clone()
    }

    /// With flows, all ports towards servers: a flow keeps its port.
    fn backs(&self) -> Range<u16> {
        let sockets = self.sockets();
        match self.shared().settings().affinity {
            Affinity::Client => sockets.v4.start..sockets.v6.end,
            Affinity::None => 0..0,
        }
    }

    /// Flows are never queued.
    fn stop_waiting(&mut self) {}

    fn wait_again(&mut self) {}

    fn export(&mut self, now: Instant) -> Part {
        DatagramRole::export(self, now)
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

    /// An idle worker learns of new servers with its next datagram.
    fn shared_version(&self) -> u64 {
        0
    }

    fn poll_event(&mut self) -> Option<Event> {
        DatagramRole::poll_event(self)
    }

    fn counters(&self) -> &WorkerStats {
        &self.stats().common
    }

    fn datagram_counters(&self) -> Option<&DatagramStats> {
        Some(self.stats())
    }

    fn count_unusable(&self, count: u64) {
        self.counters().received.add(count);
        self.counters().refused.add(DropReason::Length, count);
    }
}
