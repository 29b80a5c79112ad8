//! The sockets of a datagram pool, and its role as a worker's loop drives it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::ops::Range;

use super::worker::Balancing;
use crate::base::drop_reason::DropReason;
use crate::base::time::Instant;
use crate::daemon::handover::{SocketKind, SocketSet};
use crate::io::IoOptions;
use crate::io::socket::{SocketOptions, bind};
use crate::pool::event::Event;
use crate::pool::stats::{DatagramStats, WorkerStats};
use crate::role::datagram::{DatagramRole, ProxyProtocol, Sockets, WorkerSockets};

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

    /// Opens the sockets of each worker of the pool of this name. Client-side sockets that are in `inherited`
    /// are taken from there.
    pub fn open(
        &self,
        pool: &str,
        inherited: &mut SocketSet,
    ) -> io::Result<Vec<(Vec<UdpSocket>, WorkerSockets)>> {
        let fronts = self.open_fronts(pool, inherited)?;
        fronts.into_iter().enumerate().map(|(worker, fronts)| self.open_worker(worker, fronts)).collect()
    }

    /// Opens the client-side sockets of each worker.
    pub fn open_fronts(&self, pool: &str, inherited: &mut SocketSet) -> io::Result<Vec<Vec<UdpSocket>>> {
        let front = SocketOptions { fragments: true, ..SocketOptions::default() };
        let shared = SocketOptions { reuse_port: self.workers > 1, ..front };
        let is_ours = |inherited: &SocketSet, addr| {
            (0..self.workers).any(|worker| inherited.has(pool, SocketKind::Front, worker as u16, addr))
        };
        if shared.reuse_port {
            // Any process of the same user can share a shared port, and would take a part of the requests
            // unnoticed. So the port must be free before it is shared, unless it is ours already.
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
