//! What a pool hands to the pool that follows it: after a reload, or in a successor.

use serde::{Deserialize, Serialize};

use crate::pool::desired::DesiredServer;
use crate::pool::part::Part;

/// What a pool hands to the pool of its name that follows it.
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
    /// By worker: what it knows of servers and flows.
    pub parts: Vec<Part>,
}
