//! What a pool is made from, and what it tells.

use std::ops::Range;
use std::time::Duration;

use ipnet::IpNet;

use crate::pool::health::Rules;
use crate::pool::select::PolicyKind;
use crate::pool::waiting::Limit;

/// The rest of an unanswered pair after the time-out of its last request, in time-outs: an answer may be as
/// late.
pub(super) const UNANSWERED_REST: u32 = 2;
/// How long after its request an answer may come, in time-outs.
pub(super) const ANSWER_LATEST: u32 = 1 + UNANSWERED_REST;

/// How datagrams are matched with their answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// DNS: by id, server and question.
    Dns,
    /// Any request and response: by the port and the server that a request went by.
    Datagram,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Protocol; 2] = [Protocol::Dns, Protocol::Datagram];

    /// The word in configurations and arguments.
    pub const fn name(self) -> &'static str {
        match self {
            Protocol::Dns => "dns",
            Protocol::Datagram => "datagram",
        }
    }
}

/// What stays together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Affinity {
    /// Nothing: each datagram goes to the server with the shortest queue.
    #[default]
    None,
    /// A client's datagrams go to one server as long as its flow lasts.
    Client,
}

/// Which datagrams towards a server begin with a PROXY protocol header (version 2) that names the client.
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

/// How a pool asks a server whether it lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// It does not: only the answers to clients count, and their absence.
    None,
    /// By a DNS query; any answer to it counts.
    Dns {
        /// The name that is asked for, in wire format (labels with their lengths, and the root).
        name: Vec<u8>,
        /// The type of record that is asked for.
        kind: u16,
    },
    /// By a payload; an answer that begins with `expect` counts.
    Payload {
        /// What is sent.
        send: Vec<u8>,
        /// How the answer begins; empty for any answer.
        expect: Vec<u8>,
    },
}

/// How sure to be of a server's health.
#[derive(Clone, Debug, PartialEq)]
pub struct HealthCheck {
    /// How it is asked.
    pub check: Check,
    /// How often it is asked.
    pub interval: Duration,
    /// How long its answer may take.
    pub timeout: Duration,
    /// What follows from the answers.
    pub rules: Rules,
}

/// Which of a worker's sockets is what: the fronts first, then local ports towards servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sockets {
    /// Where clients ask.
    pub fronts: Range<u16>,
    /// Ports towards IPv4 servers.
    pub v4: Range<u16>,
    /// Ports towards IPv6 servers.
    pub v6: Range<u16>,
    /// Where IPv4 servers are checked from; only the primary has it.
    pub check_v4: Option<u16>,
    /// Where IPv6 servers are checked from; only the primary has it.
    pub check_v6: Option<u16>,
}

impl Sockets {
    /// Whether answers to checks arrive there.
    pub fn is_for_checks(&self, socket: u16) -> bool {
        self.check_v4 == Some(socket) || self.check_v6 == Some(socket)
    }
}

/// What a pool is made from.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Its name.
    pub name: String,
    /// What it speaks.
    pub protocol: Protocol,
    /// What stays together.
    pub affinity: Affinity,
    /// Workers, at least one.
    pub workers: usize,
    /// Room for so many servers, 1 to 4,096.
    pub servers_max: usize,
    /// How a server is chosen.
    pub policy: PolicyKind,
    /// At most so many requests (or flows) at one server.
    pub max_outstanding: Option<Limit>,
    /// Requests that wait for a server with room at most, 0 to [`crate::pool::waiting::PENDING_MAX`]; more
    /// are refused.
    pub waiting_max: usize,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Answers to a datagram of a client, at most: 0 = one-way. `None` with affinity: any number.
    pub replies: Option<u32>,
    /// How long a port and a server that were answered rest before they serve another client; `None` =
    /// measured.
    pub hold: Option<Duration>,
    /// How long a flow without datagrams lasts.
    pub idle_timeout: Duration,
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
}

impl Settings {
    /// The key of the configuration, within the pool, in which these differ from others, if one of them is
    /// for the life of a pool: tables, sockets and the memory of turns go by it.
    pub fn fixed_difference(&self, other: &Settings) -> Option<&'static str> {
        let is_checked = |settings: &Settings| settings.health.check != Check::None;
        let differ = [
            ("name", self.name != other.name),
            ("protocol", self.protocol != other.protocol),
            ("affinity", self.affinity != other.affinity),
            ("workers", self.workers != other.workers),
            ("servers_max", self.servers_max != other.servers_max),
            ("waiting_max", self.waiting_max != other.waiting_max),
            ("proxy_protocol", self.proxy_protocol != other.proxy_protocol),
            ("transparent", self.transparent != other.transparent),
            // To another one, but not to none, or from it: checks have sockets of their own.
            ("health.check", is_checked(self) != is_checked(other)),
        ];
        differ.into_iter().find(|(_, differ)| *differ).map(|(key, _)| key)
    }
}

/// What is random in a pool. A seed replays a run, as long as the secret is the same.
#[derive(Clone, Copy)]
pub struct Chance {
    /// Key of everything that a stranger must not guess: ids, hashes.
    pub secret: [u8; 16],
    /// Seed of what is random but no secret.
    pub seed: u64,
}
