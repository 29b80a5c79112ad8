//! Counters and gauges of one worker of a native pool.
//!
//! The primary worker writes the gauges, except `reported` and `estimate_error`: each worker writes those for
//! the reports that it reads.

use std::net::SocketAddr;
use std::sync::Mutex;

use super::{Counter, Rejects, ServerStats, WorkerStats};
use crate::pool::autoscale::Outlook;
use crate::pool::select::Slot;

/// Counters of one server slot at one worker.
#[derive(Debug, Default)]
// One worker writes: no other worker's data is in these cache lines, nor in their neighbours.
#[repr(align(128))]
pub struct NativeServerStats {
    /// What every pool counts.
    pub common: ServerStats,
    /// Requests in transit to the server or at it, by the estimate (gauge).
    pub outstanding: Counter,
    /// Time at which the newest report, or reply with counters, was read: nanoseconds of the balancer's clock
    /// (gauge).
    pub reported: Counter,
    /// Absolute error of the queue estimate at the last report, in requests (gauge).
    pub estimate_error: Counter,
    /// Requests known to be lost in transit to the server (less duplicates, while that is positive).
    pub lost: Counter,
    /// The server's address. Locked when a server comes or goes, and by readers for the moment of a copy.
    addr: Mutex<Option<SocketAddr>>,
}

impl NativeServerStats {
    /// The server's address; `None` while the slot is free.
    pub fn addr(&self) -> Option<SocketAddr> {
        *self.addr.lock().expect("no panic while it is held")
    }

    /// Sets the server's address.
    pub fn set_addr(&self, addr: Option<SocketAddr>) {
        *self.addr.lock().expect("no panic while it is held") = addr;
    }
}

/// Counters of one worker.
#[derive(Debug)]
#[repr(align(128))] // as `NativeServerStats`
pub struct NativeStats {
    /// What every pool counts.
    pub common: WorkerStats,
    /// State of the autoscaler; the primary writes it at its ticks, unless a reader holds the lock.
    pub scaling: Mutex<Option<Outlook>>,
    /// Clients whose frames are rejected.
    pub rejected_clients: Rejects,
    /// Servers whose frames are rejected.
    pub rejected_servers: Rejects,
    /// One entry per slot.
    pub servers: Box<[NativeServerStats]>,
}

impl NativeStats {
    /// Counters for a pool of at most `servers_max` servers, all zero.
    pub fn new(servers_max: usize) -> Self {
        NativeStats {
            common: WorkerStats::default(),
            scaling: Mutex::default(),
            rejected_clients: Rejects::default(),
            rejected_servers: Rejects::default(),
            servers: (0..servers_max).map(|_| NativeServerStats::default()).collect(),
        }
    }

    /// Counts the error of an estimate: a server reports a queue of `queue` requests where `believed` were
    /// expected.
    pub fn note_estimate(&self, slot: Slot, queue: u32, believed: u32) {
        let error = queue.abs_diff(believed);
        self.servers[slot.index()].estimate_error.set(u64::from(error));
        self.common.decisions.estimate_error.record(error);
    }
}
