//! Datagram pools: servers that know nothing of lbd. What the section `pools` means once it is valid.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::target::Target;
use super::{Run, address};
use crate::io::IoChoice;

pub use crate::role::datagram::{Affinity, Check, HealthCheck, Protocol, ProxyProtocol, Settings};

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

/// Servers of a pool that the controller runs.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolRun {
    /// Where they listen.
    pub address: IpAddr,
    /// How many, on which ports, and what is started.
    pub run: Run,
}

/// One datagram pool.
#[derive(Clone, Debug, PartialEq)]
pub struct DatagramPool {
    /// What it is made from.
    pub settings: Settings,
    /// Where clients ask; at least one, each with its own port number.
    pub listen: Vec<SocketAddr>,
    /// Its servers, at least one, unless there are those that the controller runs.
    pub servers: Vec<PoolServer>,
    /// Servers that the controller runs.
    pub run: Option<PoolRun>,
    /// Local ports towards the servers, of all workers together.
    pub ports: usize,
    /// How often host names are looked up.
    pub resolve_interval: Duration,
    /// With `dns`: whether TCP on the same addresses is spliced, and how many connections at a time; 0 = no.
    pub tcp_connections: usize,
    /// Whether each worker stays on a processor of its own.
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
