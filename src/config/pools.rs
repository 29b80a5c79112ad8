//! The pools of a valid configuration: native pools and datagram pools, with what both have in common.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::target::Target;
use super::{Key, Run, address, reachable, run};
use crate::base::service_time::ServiceTime;
use crate::io::{IoChoice, IoOptions};
use crate::pool::autoscale;
use crate::pool::health::Rules;
use crate::pool::select::PolicyKind;
use crate::pool::waiting::Limit;
use crate::wire::{FrameFormat, ReplyPath};

pub use crate::role::datagram::{Affinity, Check, DatagramSettings, HealthCheck, Protocol, ProxyProtocol};

/// One pool of servers behind the balancer.
#[derive(Clone, Debug, PartialEq)]
pub enum Pool {
    /// Its servers use lbd's own frames.
    Native(NativePool),
    /// Its servers are unmodified.
    Datagram(DatagramPool),
}

impl Pool {
    /// The pool's name in logs, metrics and orders; no two pools of a configuration share one.
    pub fn name(&self) -> &str {
        match self {
            Pool::Native(pool) => &pool.name,
            Pool::Datagram(pool) => &pool.settings.name,
        }
    }

    /// Worker threads, at least 1.
    pub fn workers(&self) -> usize {
        match self {
            Pool::Native(pool) => pool.workers,
            Pool::Datagram(pool) => pool.settings.workers,
        }
    }

    /// The client-side addresses, at least one; a native pool has exactly one.
    pub fn listen(&self) -> &[SocketAddr] {
        match self {
            Pool::Native(pool) => std::slice::from_ref(&pool.client_side),
            Pool::Datagram(pool) => &pool.listen,
        }
    }

    /// Whether each worker is pinned to a CPU of its own.
    pub fn pin(&self) -> bool {
        match self {
            Pool::Native(pool) => pool.pin,
            Pool::Datagram(pool) => pool.pin,
        }
    }

    /// The I/O back end of the pool's sockets.
    pub fn io(&self) -> IoChoice {
        match self {
            Pool::Native(pool) => pool.io,
            Pool::Datagram(pool) => pool.io,
        }
    }

    /// The replicas that the controller runs for this pool; `None` = none.
    pub fn run(&self) -> Option<&Run> {
        match self {
            Pool::Native(pool) => pool.run.as_ref().map(|run| &run.run),
            Pool::Datagram(pool) => pool.run.as_ref().map(|run| &run.run),
        }
    }

    /// Whether the pool's servers use lbd's own frames.
    pub fn is_native(&self) -> bool {
        matches!(self, Pool::Native(_))
    }

    /// The native pool, if it is one.
    pub fn as_native(&self) -> Option<&NativePool> {
        match self {
            Pool::Native(pool) => Some(pool),
            Pool::Datagram(_) => None,
        }
    }

    /// The datagram pool, if it is one.
    pub fn as_datagram(&self) -> Option<&DatagramPool> {
        match self {
            Pool::Native(_) => None,
            Pool::Datagram(pool) => Some(pool),
        }
    }
}

/// One native pool: everything that its balancer, its servers and its controller need.
#[derive(Clone, Debug, PartialEq)]
pub struct NativePool {
    /// The pool's name in logs, metrics and orders.
    pub name: String,
    /// Client-side address.
    pub client_side: SocketAddr,
    /// Server-side address, for servers and the controller.
    pub server_side: SocketAddr,
    /// Size and trailer of the frames.
    pub format: FrameFormat,
    /// Authenticates the frames between components; `None` = frames carry no tag.
    pub key: Option<Key>,
    /// Most frames in one datagram.
    pub frames_per_datagram: usize,
    /// Worker threads.
    pub workers: usize,
    /// Whether each worker is pinned to a CPU of its own.
    pub pin: bool,
    /// The I/O back end of every component of the pool.
    pub io: IoChoice,
    /// The way of a reply.
    pub reply_path: ReplyPath,
    /// How a server is selected.
    pub policy: PolicyKind,
    /// The concurrency limit of a server; `None` = no limit.
    pub max_outstanding: Option<Limit>,
    /// Capacity of the pending queue, in requests.
    pub waiting_max: usize,
    /// Capacity of the registry, in servers.
    pub servers_max: usize,
    /// Thresholds and times of the health checks.
    pub health: Rules,
    /// The interval between two reports of a server.
    pub interval: Duration,
    /// How a server of the pool works.
    pub serving: Serving,
    /// The replicas that the controller runs; `None` = no controller takes scaling requests.
    pub run: Option<NativeRun>,
    /// How long a client waits for a reply at most (`client.deadline`): the balancer drains for this long.
    pub deadline: Duration,
}

/// The replicas of a native pool.
#[derive(Clone, Debug, PartialEq)]
pub struct NativeRun {
    /// The address on which the controller takes scaling requests.
    pub controller: SocketAddr,
    /// How many replicas, on which ports, and the command of each.
    pub run: Run,
}

/// How a server of a native pool works (`lbd server`).
#[derive(Clone, Debug, PartialEq)]
pub struct Serving {
    /// The server's share relative to others, 1 to 100.
    pub weight: u16,
    /// Drawn service times; `None` = echo at once.
    pub service: Option<ServiceTime>,
    /// Requests that a server queues at most.
    pub queue_capacity: usize,
    /// Requests that a server serves concurrently.
    pub workers: usize,
}

impl NativePool {
    /// Sizes of a turn of every component of the pool.
    pub fn io_options(&self) -> IoOptions {
        IoOptions::for_frames(self.format.size, self.frames_per_datagram)
    }

    /// The shared key's bytes.
    pub fn key_bytes(&self) -> Option<[u8; 16]> {
        self.key.map(|key| key.bytes())
    }

    /// When the pool asks for more or fewer replicas; of no effect without a controller.
    pub fn scale_policy(&self) -> autoscale::Policy {
        self.run.as_ref().map_or(run::POLICY, |run| run.run.scale)
    }

    /// The address at which a server or the controller on this machine reaches the balancer.
    pub fn balancer_for_servers(&self) -> SocketAddr {
        reachable(self.server_side)
    }

    /// The address at which a client on this machine reaches the balancer.
    pub fn balancer_for_clients(&self) -> SocketAddr {
        reachable(self.client_side)
    }
}

/// One of a datagram pool's servers as it is written.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolServer {
    /// Its address or host name.
    pub target: Target,
    /// The server's share relative to others, 1 to 100.
    pub weight: u16,
    /// The server's id in logs and metrics: as written, else its index in the list, from 0.
    pub id: u32,
}

/// The replicas of a datagram pool.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolRun {
    /// The IP address on which they listen.
    pub address: IpAddr,
    /// How many replicas, on which ports, and the command of each.
    pub run: Run,
}

/// Connections to one server that serve all clients.
const TCP_PER_SERVER: usize = 8;
/// Zone transfers by TCP for which a pool reserves file descriptors.
const TCP_TRANSFERS: usize = 256;

/// One datagram pool.
#[derive(Clone, Debug, PartialEq)]
pub struct DatagramPool {
    /// The settings of its role.
    pub settings: DatagramSettings,
    /// Client-side addresses; at least one, each with its own port number.
    pub listen: Vec<SocketAddr>,
    /// Its servers; at least one, unless the controller runs replicas.
    pub servers: Vec<PoolServer>,
    /// The replicas that the controller runs; `None` = none.
    pub run: Option<PoolRun>,
    /// Local ports towards the servers, of all workers together.
    pub ports: usize,
    /// The interval between two lookups of a host name.
    pub resolve_interval: Duration,
    /// Concurrent TCP connections on the same addresses, with protocol dns; 0 = TCP is off.
    pub tcp_connections: usize,
    /// Whether each worker is pinned to a CPU of its own.
    pub pin: bool,
    /// The I/O back end of the pool's sockets.
    pub io: IoChoice,
}

impl DatagramPool {
    /// File descriptors of TCP connections: of clients, and to servers.
    pub fn tcp_files(&self) -> usize {
        let clients = self.tcp_connections;
        // A few connections to each server serve all clients, and some carry zone transfers. With the PROXY
        // protocol each client has its own.
        let shared = TCP_PER_SERVER * self.settings.servers_max + TCP_TRANSFERS;
        let towards =
            if self.settings.proxy_protocol == ProxyProtocol::Off { clients.min(shared) } else { clients };
        clients + towards
    }

    /// Whether a datagram to this address returns to the pool. The resolver checks the addresses of host
    /// names. Tries to bind a socket where the pool listens on a wildcard.
    pub fn is_itself(&self, target: SocketAddr) -> bool {
        self.listen.iter().any(|&listen| address::reaches(target, listen))
    }
}
