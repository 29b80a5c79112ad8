//! The figures of one worker of a datagram pool. Gauges are written by the primary worker.
//!
//! What holds at any moment, for a worker and for each of its servers:
//!
//! ```text
//! received   = answered + timed_out + forwarded + refused (by reason) + in flight
//! dispatched = answered + timed_out + forwarded + in flight                          (per server)
//! ```

use super::{Counter, DecisionStats, LatencyHistogram, Served};
use crate::base::drop_reason::DropCounters;

/// Figures of one server slot. Counters belong to the slot and go on when another server takes it.
#[derive(Debug, Default)]
#[repr(align(128))] // written by one worker each: no line, and no pair of lines, is another's too
pub struct DatagramServerStats {
    /// The server's id plus one; 0 while the slot is free.
    pub id_plus_one: Counter,
    /// Its [`crate::pool::health::State`] as a number.
    pub state: Counter,
    /// Its share relative to others.
    pub weight: Counter,
    /// When it came into its state: nanoseconds of the balancer's clock.
    pub since: Counter,
    /// Datagrams of clients sent to it.
    pub dispatched: Counter,
    /// Requests that it has answered.
    pub answered: Counter,
    /// Requests that it has not answered in time.
    pub timed_out: Counter,
    /// Datagrams sent to it that no single answer is awaited for: one-way, or of a flow.
    pub forwarded: Counter,
    /// Datagrams from it delivered to clients: answers, late answers, and what flows bring.
    pub delivered: Counter,
    /// How often the network said that it is not there (ICMP).
    pub errors: Counter,
    /// Time from a request to its answer, as the balancer sees it.
    pub latency: LatencyHistogram,
    /// How long it takes, by its answers.
    pub served: Served,
}

/// Figures of a pool's worker.
#[derive(Debug)]
#[repr(align(128))] // as `DatagramServerStats`
pub struct DatagramStats {
    /// Datagrams of clients that were read.
    pub received: Counter,
    /// Requests whose answer was delivered in time.
    pub answered: Counter,
    /// Requests without an answer in time.
    pub timed_out: Counter,
    /// Datagrams sent to servers that no single answer is awaited for.
    pub forwarded: Counter,
    /// Requests that wait for their answer.
    pub in_flight: Counter,
    /// Requests that wait in the balancer for a server with room (gauge).
    pub waiting: Counter,
    /// Requests that have waited there and were then sent.
    pub waited: Counter,
    /// For how long these waited.
    pub waiting_delay: LatencyHistogram,
    /// How good the choices of servers were.
    pub decisions: DecisionStats,
    /// Datagrams of clients that were not sent to a server, by reason.
    pub refused: DropCounters,
    /// Of these, DNS queries that were answered with SERVFAIL.
    pub servfail: Counter,
    /// Answers delivered to their clients after the time-out.
    pub late: Counter,
    /// Datagrams from servers delivered to clients, answers included.
    pub delivered: Counter,
    /// Datagrams on the server side that reached nobody, by reason.
    pub dropped: DropCounters,
    /// Flows opened.
    pub flows_opened: Counter,
    /// Flows that live.
    pub flows: Counter,
    /// Selections that fell back to two random servers after losing too many races.
    pub select_fallback: Counter,
    /// Datagrams of clients that the kernel dropped because a receive buffer was full.
    pub kernel_drops: Counter,
    /// Datagrams of servers that the kernel dropped because a receive buffer was full.
    pub kernel_drops_back: Counter,
    /// Datagrams that could not be sent.
    pub send_drops: Counter,
    /// 1 if the kernel refused segmentation offload, so that datagrams leave one by one.
    pub gso_off: Counter,
    /// One entry per slot.
    pub servers: Box<[DatagramServerStats]>,
}

impl DatagramStats {
    /// Figures for a pool of at most `servers_max` servers, all zero.
    pub fn new(servers_max: usize) -> Self {
        DatagramStats {
            received: Counter::default(),
            answered: Counter::default(),
            timed_out: Counter::default(),
            forwarded: Counter::default(),
            in_flight: Counter::default(),
            waiting: Counter::default(),
            waited: Counter::default(),
            waiting_delay: LatencyHistogram::default(),
            decisions: DecisionStats::default(),
            refused: DropCounters::default(),
            servfail: Counter::default(),
            late: Counter::default(),
            delivered: Counter::default(),
            dropped: DropCounters::default(),
            flows_opened: Counter::default(),
            flows: Counter::default(),
            select_fallback: Counter::default(),
            kernel_drops: Counter::default(),
            kernel_drops_back: Counter::default(),
            send_drops: Counter::default(),
            gso_off: Counter::default(),
            servers: (0..servers_max).map(|_| DatagramServerStats::default()).collect(),
        }
    }
}

/// Figures of a pool's TCP side, which has one writer.
#[derive(Debug, Default)]
pub struct TcpStats {
    /// Connections spliced so far.
    pub opened: Counter,
    /// Connections refused: no server took them, there were too many, or the client may not.
    pub refused: Counter,
    /// Connections that live.
    pub open: Counter,
}
