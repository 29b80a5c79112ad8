//! The state that a pool hands to its next instance: after a reload, or in a successor.

use serde::{Deserialize, Serialize};

use crate::daemon::desired::Hosts;
use crate::pool::desired::DesiredServer;
use crate::pool::part::Part;
use crate::pool::stats::PoolTotals;

/// A pool that a successor continues.
#[derive(Debug, Serialize, Deserialize)]
pub struct HandedPool {
    /// The pool's name.
    pub name: String,
    /// The pool's state.
    pub state: PoolState,
    /// What the pool has counted.
    pub totals: PoolTotals,
}

/// What a predecessor tells at its end.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct LastTotals {
    /// CPU seconds of that process and those before it.
    pub cpu_s: f64,
    /// What each pool has counted, by name.
    pub pools: Vec<(String, PoolTotals)>,
}

/// The state that a pool hands to its next instance.
#[derive(Debug, Serialize, Deserialize)]
pub enum PoolState {
    /// The parts of a native pool's workers.
    Native(NativeState),
    /// The servers and flows of a datagram pool.
    Datagram(DatagramState),
}

/// The state of a native pool: the parts of its workers, the primary's first.
pub type NativeState = Vec<Part>;

/// The state of a datagram pool.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct DatagramState {
    /// The servers that a controller runs.
    pub run: Vec<DesiredServer>,
    /// The addresses of each host name of a server.
    pub hosts: Hosts,
    /// State of servers and flows, by worker.
    pub parts: Vec<Part>,
}
