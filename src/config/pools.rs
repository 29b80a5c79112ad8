//! Datagram pools: servers that know nothing of lbd. What the section `pools` means once it is valid.

use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::address;
use crate::io::IoChoice;
use crate::select::PolicyKind;

pub use crate::role::relay::{Affinity, Check, HealthCheck, ProxyProtocol, Speaks};

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// At an address.
    Addr(SocketAddr),
    /// At every address of a host name, looked up at the start and again every
    /// [`DatagramPool::resolve_interval`].
    Name {
        /// The host name.
        host: String,
        /// The port.
        port: u16,
    },
}

/// One of a pool's servers as it is written.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolServer {
    /// Where it is.
    pub target: Target,
    /// Its share relative to others, 1 to 100.
    pub weight: u16,
    /// Its id in logs and figures: as written, else its place in the list, from 0.
    pub id: u32,
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Addr(addr) => addr.fmt(f),
            Target::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

/// One datagram pool.
#[derive(Clone, Debug, PartialEq)]
pub struct DatagramPool {
    /// Its name in logs and figures.
    pub name: String,
    /// Where clients ask; at least one, each with its own port number.
    pub listen: Vec<SocketAddr>,
    /// What it speaks.
    pub protocol: Speaks,
    /// What stays together.
    pub affinity: Affinity,
    /// Its servers, at least one.
    pub servers: Vec<PoolServer>,
    /// Room for so many addresses of servers.
    pub servers_max: usize,
    /// How a server is chosen.
    pub policy: PolicyKind,
    /// At most so many requests (or flows) at one server.
    pub max_outstanding: Option<u32>,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Answers to a datagram of a client, at most: 0 = one-way. `None` with affinity: any number.
    pub replies: Option<u32>,
    /// How long a port and a server that were answered rest before they serve another client; `None` =
    /// measured.
    pub hold: Option<Duration>,
    /// How long a flow without datagrams lasts.
    pub idle_timeout: Duration,
    /// Local ports towards the servers, of all workers together.
    pub ports: usize,
    /// Which datagrams tell the server who the client is.
    pub proxy_protocol: ProxyProtocol,
    /// Whether servers see the client's address as the source.
    pub transparent: bool,
    /// Who may send; empty = everybody.
    pub allow: Vec<IpNet>,
    /// Who may not, even if allowed.
    pub deny: Vec<IpNet>,
    /// Datagrams a second of one source (IPv6: of one /64).
    pub rate_per_source: Option<f64>,
    /// How servers are looked after.
    pub health: HealthCheck,
    /// How often host names are looked up.
    pub resolve_interval: Duration,
    /// With `dns`: whether TCP on the same addresses is spliced, and how many connections at a time; 0 = no.
    pub tcp_connections: usize,
    /// Worker threads.
    pub workers: usize,
    /// Whether each stays on a processor of its own.
    pub pin: bool,
    /// Which I/O back end.
    pub io: IoChoice,
}

impl DatagramPool {
    /// Whether what is sent to this address comes back to the pool; for host names, whose addresses show only
    /// when they are looked up. Tries to bind a socket where the pool listens on a wildcard.
    pub fn is_itself(&self, target: SocketAddr) -> bool {
        self.listen.iter().any(|&listen| address::reaches(target, listen))
    }
}
