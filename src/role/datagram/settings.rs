//! The settings of a datagram pool.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use ipnet::IpNet;

use crate::pool::health::Rules;
use crate::pool::select::PolicyKind;
use crate::pool::waiting::Limit;

/// The quarantine of an unanswered pair after the timeout of its last request, in timeouts: a response may be
/// that late.
pub(super) const UNANSWERED_REST: u32 = 2;
/// The maximum age of a request at its response, in timeouts.
pub(super) const ANSWER_LATEST: u32 = 1 + UNANSWERED_REST;

/// The protocol of a pool: how responses are matched with requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// DNS: by id, server and question.
    Dns,
    /// Any request and response: by the port and the server of the request.
    Datagram,
}

impl Protocol {
    /// All protocols.
    pub const ALL: [Protocol; 2] = [Protocol::Dns, Protocol::Datagram];

    /// The name in configurations and arguments.
    pub const fn name(self) -> &'static str {
        match self {
            Protocol::Dns => "dns",
            Protocol::Datagram => "datagram",
        }
    }
}

/// Which datagrams go to the same server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Affinity {
    /// None: each datagram goes to the server with the shortest queue.
    #[default]
    None,
    /// Those of a client, as long as its flow lasts.
    Client,
}

/// Which datagrams to a server begin with a PROXY protocol header (version 2) with the client's address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// None.
    #[default]
    Off,
    /// The first of each flow.
    First,
    /// All.
    Every,
}

/// The active check of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// No check: only the responses to clients count, and their absence.
    None,
    /// A DNS query; a response with one of [`HealthCheck::rcodes`] counts.
    Dns {
        /// The queried name, in wire format (labels with their lengths, and the root).
        name: Vec<u8>,
        /// The queried record type.
        kind: u16,
    },
    /// A payload; a response that begins with `expect` counts.
    Payload {
        /// The payload.
        send: Vec<u8>,
        /// The first bytes of a response; empty for any response.
        expect: Vec<u8>,
    },
}

/// Settings of the health checks.
#[derive(Clone, Debug, PartialEq)]
pub struct HealthCheck {
    /// The active check.
    pub check: Check,
    /// The time between two checks of a server.
    pub interval: Duration,
    /// The timeout of a check.
    pub timeout: Duration,
    /// The RCODEs of responses to a DNS check that mean alive, 0 to 4,095; at least one.
    pub rcodes: Vec<u16>,
    /// The rules that turn signals into states.
    pub rules: Rules,
}

/// The use of a worker's sockets, by socket number: first the client-side sockets, then the server-side
/// ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sockets {
    /// The client-side sockets.
    pub fronts: Range<u16>,
    /// The ports for IPv4 servers.
    pub v4: Range<u16>,
    /// The ports for IPv6 servers.
    pub v6: Range<u16>,
    /// The socket for checks of IPv4 servers; `None` except at the primary.
    pub check_v4: Option<u16>,
    /// The socket for checks of IPv6 servers; `None` except at the primary.
    pub check_v6: Option<u16>,
}

impl Sockets {
    /// Whether a socket is for checks.
    pub fn is_for_checks(&self, socket: u16) -> bool {
        self.check_v4 == Some(socket) || self.check_v6 == Some(socket)
    }
}

/// A worker's sockets.
#[derive(Clone, Debug)]
pub struct WorkerSockets {
    /// The use of each socket.
    pub sockets: Sockets,
    /// The address of each socket, by socket number.
    pub addrs: Vec<SocketAddr>,
}

/// The settings of a datagram pool.
#[derive(Clone, Debug, PartialEq)]
pub struct DatagramSettings {
    /// The name of the pool.
    pub name: String,
    /// The protocol of the pool.
    pub protocol: Protocol,
    /// Which datagrams go to the same server.
    pub affinity: Affinity,
    /// The number of workers, at least 1.
    pub workers: usize,
    /// The maximum number of servers, 1 to 4,096.
    pub servers_max: usize,
    /// The policy of selection.
    pub policy: PolicyKind,
    /// The concurrency limit: maximum requests (or flows) at one server. `None`: no limit.
    pub max_outstanding: Option<Limit>,
    /// The maximum number of queued requests, 0 to [`crate::pool::waiting::PENDING_MAX`]; more are refused.
    pub waiting_max: usize,
    /// The timeout of a request.
    pub timeout: Duration,
    /// The maximum number of responses to a datagram: 0 = one-way. `None`: with affinity any number, else 1.
    pub replies: Option<u32>,
    /// The quarantine of an answered pair of port and server before it serves another client. `None`: it is
    /// measured.
    pub hold: Option<Duration>,
    /// The time without datagrams after which a flow ends.
    pub idle_timeout: Duration,
    /// The time after which the flows and zone transfers of a server that leaves end.
    pub drain_timeout: Duration,
    /// Which datagrams carry the client's address in a header.
    pub proxy_protocol: ProxyProtocol,
    /// Whether datagrams to servers have the client's address as their source.
    pub transparent: bool,
    /// Networks whose clients are admitted; empty: all.
    pub allow: Vec<IpNet>,
    /// Networks whose clients are refused, even if they are in `allow`.
    pub deny: Vec<IpNet>,
    /// The maximum datagrams and queries by TCP per second of one source (in IPv6, of one /64). `None`: no
    /// limit.
    pub rate_per_source: Option<f64>,
    /// DNS: of the queries above that rate, every query of this number is answered with TC. 0: none.
    pub rate_limit_truncate: u32,
    /// DNS: whether each server gets a NOTIFY, instead of one.
    pub notify_all: bool,
    /// With affinity: the maximum number of flows of one source (in IPv6, of one /64). `None`: that of
    /// [`flows_per_source`].
    pub flows_per_source: Option<u32>,
    /// The maximum concurrent TCP connections of one source (in IPv6, of one /64), at least 1.
    pub tcp_connections_per_source: usize,
    /// The time without a query in flight after which a TCP connection is closed.
    pub tcp_idle_timeout: Duration,
    /// The health checks.
    pub health: HealthCheck,
}

/// The least default maximum number of flows of one source.
const FLOWS_PER_SOURCE_MIN: u32 = 16;

/// The default maximum number of flows of one source in a table of `pairs` pairs of a port and a server.
pub fn flows_per_source(pairs: usize) -> u32 {
    u32::try_from(pairs / 10).unwrap_or(u32::MAX).max(FLOWS_PER_SOURCE_MIN)
}

impl DatagramSettings {
    /// The first configuration key of a pool that differs and needs a new pool, since its tables, sockets or
    /// memory depend on it. `None` if a running pool can adopt these settings.
    pub fn fixed_difference(&self, other: &DatagramSettings) -> Option<&'static str> {
        let is_checked = |settings: &DatagramSettings| settings.health.check != Check::None;
        let differ = [
            ("name", self.name != other.name),
            ("protocol", self.protocol != other.protocol),
            ("affinity", self.affinity != other.affinity),
            ("workers", self.workers != other.workers),
            ("servers_max", self.servers_max != other.servers_max),
            ("waiting_max", self.waiting_max != other.waiting_max),
            ("proxy_protocol", self.proxy_protocol != other.proxy_protocol),
            ("transparent", self.transparent != other.transparent),
            // One check can replace another. Sockets for checks exist only where there is one.
            ("health.check", is_checked(self) != is_checked(other)),
        ];
        differ.into_iter().find(|(_, differ)| *differ).map(|(key, _)| key)
    }
}

/// The randomness of a pool. The same seed and secret replay a run.
#[derive(Clone, Copy)]
pub struct Chance {
    /// The key of all values that an attacker must not guess: ids, hashes.
    pub secret: [u8; 16],
    /// The seed of all random values that are not secret.
    pub seed: u64,
}
