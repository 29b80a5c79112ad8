//! What a balancer leaves to its successor besides its pools: the start, the events, the history, CPU time.

use serde::{Deserialize, Serialize};

use super::{EventEntry, History};

/// The life of a balancer up to now. A successor continues it, and it ends with the last process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Life {
    /// Start of the first process, in milliseconds since 1970.
    pub started_unix_ms: u64,
    /// CPU seconds of all processes.
    pub cpu_s: f64,
    /// The newest events, oldest first.
    pub events: Vec<EventEntry>,
    /// Events since the start, in the order of [`super::EventKind::ALL`].
    pub event_counts: Vec<u64>,
    /// The last ten minutes.
    pub history: History,
}
