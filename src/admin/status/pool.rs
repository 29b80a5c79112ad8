//! The status of one pool of any protocol, and the sampler that takes it.
//!
//! At rest `arrived = received + kernel_drops`. In a datagram pool
//! `received = answered + timed_out + forwarded + the sum of refused + in_flight`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Decisions, Latencies, Percentiles, Problem, Scaling};
use crate::pool::health::State;
use crate::pool::select::AS_FAST;
use crate::pool::stats::Served;

/// A pool at one moment. Totals count from the start of the balancer; rates and `..._recent` are those of the
/// last second.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PoolStatus {
    /// The pool's name.
    pub name: String,
    /// `native`, `dns` or `datagram`.
    pub protocol: String,
    /// Requests or datagrams of clients that reached this machine: those that were read, and datagrams that
    /// the kernel dropped.
    pub arrived: u64,
    /// Requests or datagrams of clients that were read. In a native pool only valid requests count.
    pub received: u64,
    /// `received` by worker.
    pub workers: Vec<u64>,
    /// Requests or datagrams sent to servers.
    pub dispatched: u64,
    /// Requests whose response was delivered, in a datagram pool before the timeout.
    pub answered: u64,
    /// Received requests that were sent to no server, by reason.
    pub refused: BTreeMap<String, u64>,
    /// Frames or datagrams dropped without an answer, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Datagrams of clients that the kernel dropped before they were read.
    pub kernel_drops: u64,
    /// Datagrams of servers that the kernel dropped before they were read.
    pub kernel_drops_back: u64,
    /// Datagrams that could not be sent.
    pub send_drops: u64,
    /// Workers to which the kernel refused segmentation offload.
    pub gso_off: u64,
    /// Times that a socket waited because a turn had no free receive slot (io_uring).
    pub out_of_slots: u64,
    /// Times that the completion queue was full (io_uring).
    pub completions_delayed: u64,
    /// Selections that fell back to two random servers after losing too many races.
    pub select_fallback: u64,
    /// Quality of the selections, and the pending queue.
    pub decisions: Decisions,
    /// Responses per second.
    pub rate: f64,
    /// Latencies of all servers together, since the start.
    pub latency_us: Latencies,
    /// Latencies of all servers together in the last second.
    pub latency_us_recent: Percentiles,
    /// The autoscaler's view; `None` if this process does not scale the pool.
    pub scaling: Option<Scaling>,
    /// The servers, by id.
    pub servers: Vec<ServerStatus>,
    /// Mistakes that an operator can fix, seen in the last minute.
    pub problems: Vec<Problem>,
    /// Counters that only a datagram pool has; `None` for a native pool. In JSON beside the others.
    #[serde(flatten)]
    pub datagram: Option<DatagramCounters>,
}

/// Counters that only a datagram pool has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatagramCounters {
    /// Requests without a response in time.
    pub timed_out: u64,
    /// Datagrams sent to servers for which no single response is expected: one-way, and of flows.
    pub forwarded: u64,
    /// Requests in flight.
    pub in_flight: u64,
    /// Of the refused requests, queries answered with SERVFAIL.
    pub servfail: u64,
    /// Datagrams of servers delivered to clients: responses, late responses, and datagrams of flows.
    pub delivered: u64,
    /// Responses delivered after the timeout.
    pub late: u64,
    /// Open flows.
    pub flows: u64,
    /// Flows opened.
    pub flows_opened: u64,
    /// Open TCP connections.
    pub tcp_open: u64,
    /// TCP connections accepted.
    pub tcp_opened: u64,
    /// TCP connections refused.
    pub tcp_refused: u64,
    /// Queries received over TCP. They are part of `received`.
    #[serde(default)]
    pub tcp_queries: u64,
    /// Whether health checks are ignored: no server answers them, though servers answer queries.
    #[serde(default)]
    pub checks_ignored: bool,
}

/// A server at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServerStatus {
    /// The server's id.
    pub id: u32,
    /// The server's address; empty if it is unknown.
    pub addr: String,
    /// The name of the server's state.
    pub state: String,
    /// Seconds since the server came into its state; `None` if that is unknown.
    pub since_s: Option<f64>,
    /// The server's share relative to other servers.
    pub weight: u64,
    /// The queue length: requests or flows at the server or in transit to it.
    pub queue: u64,
    /// The server's service time; `None` unless the policy is shortest_delay.
    pub service: Option<Service>,
    /// Milliseconds since the newest report or reply with counters (native), or since any valid datagram;
    /// `None` before the first.
    pub heard_ms: Option<u64>,
    /// Requests or datagrams sent to the server's slot.
    pub dispatched: u64,
    /// Requests that the server's slot answered.
    pub answered: u64,
    /// Of these, requests answered with a failure: DNS SERVFAIL or REFUSED, native ERROR.
    pub failed_answers: u64,
    /// Responses per second.
    pub rate: f64,
    /// Time from a request to its response, as the balancer measures it, since the start.
    pub latency_us: Latencies,
    /// Time from a request to its response in the last second.
    pub latency_us_recent: Percentiles,
    /// What only a native pool knows; `None` in other pools. In JSON beside the other values.
    #[serde(flatten)]
    pub native: Option<NativeServer>,
    /// What only a datagram pool counts; `None` in other pools. In JSON beside the other values.
    #[serde(flatten)]
    pub datagram: Option<DatagramServer>,
}

/// What only a native pool knows of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NativeServer {
    /// Requests known to be lost in transit to the server.
    pub lost: u64,
    /// Absolute error of the queue estimate at the last report, in requests.
    pub estimate_error: u64,
    /// Milliseconds since the newest report, or reply with counters; `None` before the first.
    pub report_age_ms: Option<u64>,
}

/// What only a datagram pool counts of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatagramServer {
    /// Requests without a response in time.
    pub timed_out: u64,
    /// Datagrams sent to the server for which no single response is expected.
    pub forwarded: u64,
    /// Requests in flight: `dispatched - answered - timed_out - forwarded`.
    pub in_flight: u64,
    /// Datagrams of the server delivered to clients.
    pub delivered: u64,
    /// ICMP errors about the server.
    pub errors: u64,
}

/// The service time of a server, as policy shortest_delay uses it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Service {
    /// In microseconds; 0 without data.
    pub time_us: u64,
    /// Relative to the pool's fastest server (1 = as fast).
    pub slowness: f64,
}

impl Service {
    pub(super) fn of(served: &Served) -> Option<Service> {
        let slowness = served.slowness.get();
        (slowness > 0).then(|| Service {
            time_us: served.service_us.get(),
            slowness: slowness as f64 / f64::from(AS_FAST),
        })
    }
}

impl PoolStatus {
    /// Servers that are up.
    pub fn up(&self) -> usize {
        self.servers.iter().filter(|server| server.state == State::Up.name()).count()
    }

    /// Requests that were refused for any reason, or not answered in time.
    pub fn failed(&self) -> u64 {
        let timed_out = self.datagram.map_or(0, |datagram| datagram.timed_out);
        self.refused.values().sum::<u64>() + timed_out
    }

    /// Frames and datagrams dropped without an answer, by lbd or by the kernel.
    pub fn all_dropped(&self) -> u64 {
        let by_reason: u64 = self.dropped.values().sum();
        by_reason + self.kernel_drops + self.kernel_drops_back + self.send_drops
    }
}

impl ServerStatus {
    /// Requests lost in transit to the server, not answered in time, or answered with a failure.
    pub fn failed(&self) -> u64 {
        let lost = self.native.map_or(0, |native| native.lost);
        let timed_out = self.datagram.map_or(0, |datagram| datagram.timed_out);
        lost + timed_out + self.failed_answers
    }
}
