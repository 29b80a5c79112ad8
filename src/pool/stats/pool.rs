//! The figures of one of a balancer's workers: per pool and per server slot. The gauges are written by the primary worker; but
//! `reported` and `estimate_error` by each worker for the reports that it reads.

use std::net::SocketAddr;
use std::sync::Mutex;

use super::{Counter, DecisionStats, LatencyHistogram, Served};
use crate::base::drop_reason::DropCounters;
use crate::pool::autoscale::Outlook;
use crate::pool::select::Slot;

/// Figures of one server slot. Counters belong to the slot and go on when another server takes it.
#[derive(Debug, Default)]
#[repr(align(128))] // written by one worker each: no line, and no pair of lines, is another's too
pub struct ServerStats {
    /// The server's id plus one; 0 while the slot is free.
    pub id_plus_one: Counter,
    /// Its [`crate::pool::health::State`] as a number.
    pub state: Counter,
    /// Requests under way or in the server, by the estimate.
    pub outstanding: Counter,
    /// Its share relative to others.
    pub weight: Counter,
    /// When it came into its state: nanoseconds of the balancer's clock.
    pub since: Counter,
    /// When its last report, or reply with counters, was read: nanoseconds of the balancer's clock.
    pub reported: Counter,
    /// By how many requests the queue length that was believed, with what is under way, differed from what the last report said
    /// of the server's queue.
    pub estimate_error: Counter,
    /// Requests sent to it.
    pub dispatched: Counter,
    /// Valid replies from it.
    pub answered: Counter,
    /// Requests known to be lost on the way there (less duplicates, while that is positive).
    pub lost: Counter,
    /// Time from dispatch to reply, as the balancer sees it.
    pub latency: LatencyHistogram,
    /// How long it takes, by what it says itself.
    pub served: Served,
    /// Where it is. Locked when a server comes or goes, and by readers for the moment of a copy.
    addr: Mutex<Option<SocketAddr>>,
}

impl ServerStats {
    /// Where the server is.
    pub fn addr(&self) -> Option<SocketAddr> {
        *self.addr.lock().expect("no panic while it is held")
    }

    /// Notes where the server is.
    pub fn set_addr(&self, addr: Option<SocketAddr>) {
        *self.addr.lock().expect("no panic while it is held") = addr;
    }
}

/// Figures of a pool.
#[derive(Debug)]
#[repr(align(128))] // as `ServerStats`
pub struct PoolStats {
    /// Valid requests that arrived.
    pub requests: Counter,
    /// Requests sent to a server.
    pub dispatched: Counter,
    /// Replies delivered to clients.
    pub answered: Counter,
    /// Requests refused because no server is registered or all are down.
    pub busy_no_server: Counter,
    /// Requests refused because every server is at its limit.
    pub busy_shed: Counter,
    /// Requests that wait in the balancer for a server with room (gauge).
    pub waiting: Counter,
    /// Requests that have waited there and were then sent.
    pub waited: Counter,
    /// For how long these waited.
    pub waiting_delay: LatencyHistogram,
    /// How good the choices of servers were.
    pub decisions: DecisionStats,
    /// Requests refused because their mode is not served.
    pub refused_mode: Counter,
    /// Selections that fell back to two random servers after losing too many races.
    pub select_fallback: Counter,
    /// Datagrams that the kernel dropped because a receive buffer was full.
    pub kernel_drops: Counter,
    /// Datagrams that could not be sent.
    pub send_drops: Counter,
    /// 1 if the kernel refused segmentation offload, so that datagrams leave one by one.
    pub gso_off: Counter,
    /// How often a socket had to wait since all slots of a turn were taken (io_uring). Nothing is lost by it.
    pub out_of_slots: Counter,
    /// How often the completion queue was full (io_uring). Nothing is lost by it.
    pub completions_delayed: Counter,
    /// What the scaler thinks; written by the primary at its ticks, unless it is being read.
    pub scaling: Mutex<Option<Outlook>>,
    /// Frames dropped, by reason.
    pub drops: DropCounters,
    /// One entry per slot.
    pub servers: Box<[ServerStats]>,
}

impl PoolStats {
    /// A server reports a queue of this length, where that was believed.
    pub fn note_estimate(&self, slot: Slot, queue: u32, believed: u32) {
        let error = queue.abs_diff(believed);
        self.servers[slot.index()].estimate_error.set(u64::from(error));
        self.decisions.estimate_error.record(error);
    }

    /// Figures for a pool of at most `servers_max` servers, all zero.
    pub fn new(servers_max: usize) -> Self {
        PoolStats {
            requests: Counter::default(),
            dispatched: Counter::default(),
            answered: Counter::default(),
            busy_no_server: Counter::default(),
            busy_shed: Counter::default(),
            waiting: Counter::default(),
            waited: Counter::default(),
            waiting_delay: LatencyHistogram::default(),
            decisions: DecisionStats::default(),
            refused_mode: Counter::default(),
            select_fallback: Counter::default(),
            kernel_drops: Counter::default(),
            send_drops: Counter::default(),
            gso_off: Counter::default(),
            out_of_slots: Counter::default(),
            completions_delayed: Counter::default(),
            scaling: Mutex::default(),
            drops: DropCounters::default(),
            servers: (0..servers_max).map(|_| ServerStats::default()).collect(),
        }
    }
}
