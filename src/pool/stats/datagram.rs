//! Counters and gauges of one worker of a datagram pool, and of the pool's TCP side.
//!
//! The TCP side of a DNS pool counts its queries like a worker. A query whose connection breaks goes to
//! another server, so its `dispatched` counts at its end.
//!
//! Invariants at any moment, for a worker and for each of its servers:
//!
//! ```text
//! received   = answered + timed_out + forwarded + refused (by reason) + in flight
//! dispatched = answered + timed_out + forwarded + in flight                          (per server)
//! ```

use super::{Counter, ServerStats, WorkerStats};

/// Counters of one server slot at one worker.
#[derive(Debug, Default)]
// One worker writes: no other worker's data is in these cache lines, nor in their neighbours.
#[repr(align(128))]
pub struct DatagramServerStats {
    /// What every pool counts.
    pub common: ServerStats,
    /// Requests without a response in time.
    pub timed_out: Counter,
    /// Datagrams sent to the server for which no single response is expected: one-way, or of a flow.
    pub forwarded: Counter,
    /// Datagrams of the server delivered to clients: responses, late responses, and datagrams of flows.
    pub delivered: Counter,
    /// ICMP errors about the server.
    pub errors: Counter,
}

/// Counters of one worker.
#[derive(Debug)]
#[repr(align(128))] // as `DatagramServerStats`
pub struct DatagramStats {
    /// What every pool counts.
    pub common: WorkerStats,
    /// Requests without a response in time.
    pub timed_out: Counter,
    /// Datagrams sent to servers for which no single response is expected.
    pub forwarded: Counter,
    /// Requests in flight (gauge).
    pub in_flight: Counter,
    /// Of the refused requests, DNS queries answered with SERVFAIL.
    pub servfail: Counter,
    /// Responses delivered after the timeout.
    pub late: Counter,
    /// Datagrams of servers delivered to clients, responses included.
    pub delivered: Counter,
    /// Flows opened.
    pub flows_opened: Counter,
    /// Open flows (gauge).
    pub flows: Counter,
    /// 1 while health checks are ignored, since no server answers them; the primary writes it (gauge).
    pub checks_ignored: Counter,
    /// One entry per slot.
    pub servers: Box<[DatagramServerStats]>,
}

impl DatagramStats {
    /// Counters for a pool of at most `servers_max` servers, all zero.
    pub fn new(servers_max: usize) -> Self {
        DatagramStats {
            common: WorkerStats::default(),
            timed_out: Counter::default(),
            forwarded: Counter::default(),
            in_flight: Counter::default(),
            servfail: Counter::default(),
            late: Counter::default(),
            delivered: Counter::default(),
            flows_opened: Counter::default(),
            flows: Counter::default(),
            checks_ignored: Counter::default(),
            servers: (0..servers_max).map(|_| DatagramServerStats::default()).collect(),
        }
    }
}

/// Counters of a pool's TCP side, which has one writer.
#[derive(Debug, Default)]
pub struct TcpStats {
    /// Connections accepted.
    pub opened: Counter,
    /// Connections refused: all places are taken by busy connections, the source has its share, or the access
    /// list denies the client.
    pub refused: Counter,
    /// Open connections (gauge).
    pub open: Counter,
    /// Open connections with a query in flight or queued, or with unsent bytes (gauge).
    pub busy: Counter,
}
