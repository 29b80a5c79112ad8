//! Counters and gauges of every kind of pool: of one worker, and of one server slot at one worker.
//!
//! Embedded in [`super::NativeStats`] and [`super::DatagramStats`], which add what only their kind of pool
//! can count. One worker writes; any thread reads. The primary worker alone writes the gauges of servers.

use super::{Counter, DecisionStats, LatencyHistogram, Served};
use crate::base::drop_reason::DropCounters;

/// Counters of one worker of a pool.
#[derive(Debug, Default)]
pub struct WorkerStats {
    /// Requests or datagrams of clients that were read. In a native pool only valid requests count.
    pub received: Counter,
    /// Requests whose response was delivered, in a datagram pool before the timeout.
    pub answered: Counter,
    /// Requests in the pending queue (gauge).
    pub waiting: Counter,
    /// Requests that left the pending queue for a server.
    pub waited: Counter,
    /// Time that these spent in the queue.
    pub waiting_delay: LatencyHistogram,
    /// Quality of the selections.
    pub decisions: DecisionStats,
    /// Received requests that were sent to no server, by reason.
    pub refused: DropCounters,
    /// Frames or datagrams dropped without an answer, by reason.
    pub dropped: DropCounters,
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
    /// Times that a socket waited because a turn had no free receive slot (io_uring). Nothing is lost.
    pub out_of_slots: Counter,
    /// Times that the completion queue was full (io_uring). Nothing is lost.
    pub completions_delayed: Counter,
}

/// Counters of one server slot at one worker. They belong to the slot and continue when another server takes
/// it.
#[derive(Debug, Default)]
pub struct ServerStats {
    /// The server's id plus one; 0 while the slot is free (gauge).
    pub id_plus_one: Counter,
    /// The server's [`crate::pool::health::State`] as a number (gauge).
    pub state: Counter,
    /// The server's share relative to other servers (gauge).
    pub weight: Counter,
    /// Start of the server's present state, in nanoseconds of the balancer's clock (gauge).
    pub since: Counter,
    /// Requests or datagrams sent to the server.
    pub dispatched: Counter,
    /// Requests that the server answered.
    pub answered: Counter,
    /// Of these, requests answered with a failure: DNS SERVFAIL or REFUSED, native ERROR.
    pub failed_answers: Counter,
    /// Time from a request to its response, as the balancer measures it.
    pub latency: LatencyHistogram,
    /// Service times of the server.
    pub served: Served,
}
